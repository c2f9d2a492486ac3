"""``python -m models calibrate``: temperature, offset, t and k for every network, chosen without its fold."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from models.calibration import fit_calibration
from models.grid import as_rows, choose, tables
from models.outcome import COLUMNS, figures, read_table
from models.patient import calibrate as to_probability
from models.run_folder import to_json, write_table, write_whole
from models.training.chance import chance_and_leakage
from models.training.learner import embed, keep_freed_memory
from models.training.mil import compare_rules
from models.training.run import INNER, OUTER, Frames, load_frames, read_margins, read_plan
from models.training.train import build

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

SIDES = ("float", "int8")


@app.command()
def calibrate(
    *, run: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that quantize wrote to.")]
) -> None:
    """Fit what turns margins into readings, on the inner folds, and write every out-of-fold figure."""
    keep_freed_memory()
    plan = read_plan(run)
    frames = load_frames(plan, run)
    for side in SIDES:
        rows = calibrated(frames, run / f"{side}.csv")
        write_table(run / f"oof_{side}.csv", COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    found = figures(*(read_table(run / f"oof_{side}.csv") for side in SIDES))
    untrained = embed(build(plan), frames.views)
    told = {
        "chance_and_leakage": chance_and_leakage(frames, untrained),
        "mil": compare_rules(run, plan, frames),
    }
    write_whole(run / "figures.json", to_json({**found, **told}))
    shipped, grids = choose_for_all(run / "oof_int8.csv", frames)
    write_whole(run / "calibration.json", to_json(shipped))
    write_table(run / "grid.csv", list(grids[0]), (list(row.values()) for row in grids))


def calibrated(frames: Frames, file: Path) -> list[dict[str, Any]]:
    """Return the rows of an out-of-fold table, from the margins that a verb wrote."""
    margins = read_margins(file)
    places = {row.path: place for place, row in enumerate(frames.rows)}
    rows: list[dict[str, Any]] = []
    for seed, fold in sorted({(row["seed"], row["fold"]) for row in margins}):
        parts = {
            part: {places[r["path"]]: r["margin"] for r in margins
                   if (r["seed"], r["fold"], r["part"]) == (seed, fold, part)}
            for part in (INNER, OUTER)
        }  # fmt: skip
        asked = np.array(sorted(parts[INNER]))
        known = np.array([parts[INNER][place] for place in asked])
        temperature, offset = fit_calibration(known, frames.labels[asked] == 1)
        probabilities = to_probability(known, temperature=temperature, offset=offset)
        chosen = choose(_tables(probabilities, frames, asked))
        rows += [
            {
                "seed": seed, "fold": fold, "path": frames.rows[place].path,
                "patient": frames.rows[place].patient, "kind": frames.rows[place].kind or "",
                "group": frames.rows[place].group, "label": frames.rows[place].label, "margin": margin,
                "temperature": temperature, "offset": offset, "threshold": chosen.threshold,
                "top_k": chosen.top_k,
            }
            for place, margin in sorted(parts[OUTER].items())
        ]  # fmt: skip
    return rows


def choose_for_all(file: Path, frames: Frames) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the shipped package takes, fitted on all out-of-fold margins, and the tables of t and k."""
    table = read_margins(file)
    labels = {row.path: row.label == "ibd" for row in frames.rows}
    margins = np.array([row["margin"] for row in table])
    temperature, offset = fit_calibration(margins, np.array([labels[row["path"]] for row in table]))
    places = {row.path: place for place, row in enumerate(frames.rows)}
    seed = min(row["seed"] for row in table)
    of_first = sorted((places[r["path"]], r["margin"]) for r in table if r["seed"] == seed)
    asked = np.array([place for place, _ in of_first])
    probabilities = to_probability(
        np.array([margin for _, margin in of_first]), temperature=temperature, offset=offset
    )
    grids = _tables(probabilities, frames, asked)
    chosen = choose(grids)
    found = {"temperature": temperature, "offset": offset, "threshold": chosen.threshold,
             "top_k": chosen.top_k, "mcc": chosen.mcc, "tied": chosen.tied}  # fmt: skip
    return found, as_rows(grids)


def _tables(probabilities: NDArray[np.float64], frames: Frames, asked: NDArray[np.int64]) -> list[Any]:
    names = [frames.rows[place].patient for place in asked]
    firsts, patients = np.unique(names, return_index=True, return_inverse=True)[1:]
    groups = np.unique([frames.rows[place].group for place in asked], return_inverse=True)[1]
    labels = frames.labels[asked][firsts] == 1
    return tables(probabilities, labels, patients, groups=groups)
