"""``python -m models quantize``: every network of a run as the 8-bit graph that ONNX Runtime executes."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track

from models.run_folder import write_table
from models.training.export import export_twin
from models.training.learner import keep_freed_memory
from models.training.network import Network
from models.training.quantising import OUTPUTS, SPARED, Quantising, margin, quantise, read_int8, spare
from models.training.run import (
    Fit,
    Frames,
    fits,
    load_frames,
    read_plan,
    read_settings,
    write_margins,
    write_once,
)
from models.training.train import build, load_network
from pipeline.clean.crop import VIEW_SIDE

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def quantize(
    *,
    run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that train wrote.")],
    settings: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Settings that differ from the reference's.")
    ] = None,
) -> None:
    """Quantise the networks of a run, each calibrated on frames it learnt from, and read their folds."""
    keep_freed_memory()
    how = read_settings(settings, Quantising) if settings else Quantising()
    plan = read_plan(run)
    frames, network = load_frames(plan, run), build(plan)
    write_once(run / "quantising.json", TypeAdapter(Quantising).dump_json(how, indent=1).decode() + "\n")
    found: list[tuple[Fit, NDArray[np.float64]]] = []
    for each in track(fits(plan, frames), "quantising", console=Console(stderr=True), transient=True):
        file = run / "models" / f"{each.name}.onnx"
        if not file.exists():
            trained = load_network(network, file.with_suffix(".pt"))
            model = to_int8(
                trained,
                frames,
                each.learns(frames.folds),
                how,
                seed=each.seed,
                report=_report(run, each.name),
            )
            partial = file.with_suffix(".part")
            onnx.save(model, partial)
            partial.replace(file)
        scored = read_int8(onnx.load(file), frames.views[each.scores(frames.folds)])
        found.append((each, margin(scored["logits"])))
    write_margins(run / "int8.csv", frames, found)
    if how.budget is not None:
        join_reports(run, [each.name for each, _ in found])


def join_reports(run: Path, names: Iterable[str]) -> None:
    """Write ``sensitivity.csv``: what was kept in float in each network, and what else could have been."""
    lines = {name: _report(run, name).read_text(encoding="utf-8").splitlines()[1:] for name in names}
    rows = [(name, *row) for name, of_one in lines.items() for row in csv.reader(of_one)]
    write_table(run / "sensitivity.csv", ("network", *SPARED), rows)


def _report(run: Path, name: str) -> Path:
    return run / "models" / f"{name}.sensitivity.csv"


def to_int8(
    trained: Network,
    frames: Frames,
    learns: NDArray[np.bool_],
    how: Quantising,
    *,
    seed: int,
    report: Path | None = None,
) -> onnx.ModelProto:
    """Return the graph of a network's twin, made on the frames that `learns` says.

    Where layers are kept in float within a budget, `report` tells which, beside the paper's choice.
    """
    if how.budget is not None:
        how, rows = spare(trained, frames.views[learns], how)
        if report:
            write_table(report, SPARED, rows)
    twin = quantise(trained, frames.views[learns], frames.labels[learns], how, seed=seed)
    return export_twin(twin, rows=VIEW_SIDE, columns=VIEW_SIDE, outputs=OUTPUTS)
