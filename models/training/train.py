"""``python -m models train``: cross-validation by patient, everything chosen without the scored fold.

For each fold that is scored the next one chooses: a network learns from the rest, and the epoch of the least
log loss on the choosing fold, after calibration on it, is how long the second network learns from all but the
scored fold.
"""

import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from models.calibration import CalibrationError, fit_calibration
from models.errors import ModelError
from models.patient import calibrate
from models.run_folder import write_run, write_whole
from models.training.backbones import resnet50, vit_s16
from models.training.fit import Epoch
from models.training.learner import Settings, Tail, join, keep_freed_memory, margins, read_frozen
from models.training.learner import train as learn
from models.training.mobilenet_v2 import MobileNetV2, load_published
from models.training.network import Network, resnet50_network, vit_network
from models.training.run import (
    INNER,
    Fit,
    Frames,
    Plan,
    fits,
    load_frames,
    read_settings,
    write_margins,
    write_plan,
)
from models.training.weights import load_weights

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

TIMED = 64
"""Frames on which a dry run measures what an epoch costs."""


@app.command()
def train(
    *,
    dataset: Annotated[Path, typer.Option(metavar="CSV", help="Table with patient, label, path and group.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder that the table's paths lie below.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder; an interrupted run goes on.")],
    settings: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Settings that differ from the reference recipe.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Published weights of the backbone.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that the weights must have.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Cross-validations, each with a seed of its own.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the minutes it would take.")] = False,
) -> None:
    """Train networks on the folds of a data set, and score every frame by one that never saw its fold."""
    keep_freed_memory()
    chosen = read_settings(settings, Settings) if settings else Settings()
    plan = Plan(dataset, root, chosen, tuple(range(seeds)), weights, sha256)
    network = build(plan)
    if not dry_run:
        write_plan(out, plan)
    frames = load_frames(plan, out)
    if dry_run:
        typer.echo(f"{estimate(network, frames, plan):.0f} minutes")
        return
    cross_validate(network, frames, plan, out)


def build(plan: Plan) -> Network:
    """Return the backbone with its weights, and a head to be learnt.

    Raises
    ------
    ModelError
        There is no such backbone, or the weights are not its.
    """
    torch.manual_seed(0)
    name = plan.settings.backbone
    if name == "mobilenet_v2":
        network = MobileNetV2()
        if plan.weights is not None:
            load_published(network, plan.weights)
        return network
    makers = {"resnet50": (resnet50, resnet50_network), "vit_s16": (vit_s16, vit_network)}
    if name not in makers:
        raise ModelError(f"backbone: mobilenet_v2, resnet50 or vit_s16 was expected, {name!r} was found")
    make, wrap = makers[name]
    published = make(2)
    if plan.weights is not None:
        load_weights(published, plan.weights, sha256=plan.weights_sha256)
    return wrap(2, published)


def cross_validate(network: Network, frames: Frames, plan: Plan, out: Path) -> None:
    """Train every network that is not there yet, and write ``float.csv``."""
    started = time.perf_counter()
    (out / "models").mkdir(parents=True, exist_ok=True)
    features = read_frozen(network, frames.views, plan.settings)
    found: list[tuple[Fit, NDArray[np.float64]]] = []
    epochs: dict[str, int] = {}
    for each in track(fits(plan, frames), "training", console=Console(stderr=True), transient=True):
        file = out / "models" / f"{each.name}.pt"
        if not file.exists():
            tail = _choose(network, features, frames, plan, each, file) if each.part == INNER else None
            if tail is None:
                length = json.loads(_losses(out, replace(each, part=INNER)).read_text())["chosen"]
                tail = _learn(network, features, frames, plan, each, epochs=length, file=file)
            torch.save(join(network, tail, plan.settings).state_dict(), file)
        whole = load_network(network, file)
        tail = Tail(whole, plan.settings).eval()
        found.append((each, margins(tail, features[0, torch.from_numpy(each.scores(frames.folds))])))
        if each.part == INNER:
            epochs[each.name] = json.loads(_losses(out, each).read_text())["chosen"]
    write_margins(out / "float.csv", frames, found)
    metrics = {"minutes": round((time.perf_counter() - started) / 60, 2), "epochs": epochs}
    write_run(
        out, settings={"verb": "train", "plan": out / "plan.json"}, metrics=metrics, data_digest=frames.digest
    )


def load_network(network: Network, file: Path) -> Network:
    """Return a copy of `network` with the weights of a file."""
    loaded = copy.deepcopy(network)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    loaded.eval()
    return loaded


def _learn(
    network: Network, features: Tensor, frames: Frames, plan: Plan, fit: Fit, *, epochs: int, file: Path
) -> Tail:
    rows = torch.from_numpy(np.flatnonzero(fit.learns(frames.folds)))
    checkpoint = file.with_suffix(".part.pt")
    tail = learn(
        network, features[:, rows], frames.labels[rows.numpy()], plan.settings,
        epochs=epochs, seed=fit.seed, checkpoint=checkpoint,
    )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    return tail


def _choose(network: Network, features: Tensor, frames: Frames, plan: Plan, fit: Fit, file: Path) -> Tail:
    """Return the network of the epoch that reads the choosing fold best, and write down each epoch's loss."""
    asked, told = fit.scores(frames.folds), _losses(file.parents[1], fit)
    shown, truths = features[0, torch.from_numpy(asked)], frames.labels[asked] == 1
    losses: list[float] = []
    best: list[Tail] = []

    def watch(tail: Tail, epoch: Epoch) -> None:
        losses.append(_log_loss(margins(tail, shown), truths))
        if losses[-1] == min(losses):
            best[:] = [copy.deepcopy(tail)]
        del epoch

    rows = torch.from_numpy(np.flatnonzero(fit.learns(frames.folds)))
    learn(
        network, features[:, rows], frames.labels[rows.numpy()], plan.settings,
        epochs=plan.settings.epochs, seed=fit.seed, watch=watch,
    )  # fmt: skip
    chosen = int(np.argmin(losses)) + 1
    write_whole(told, json.dumps({"log_loss": losses, "chosen": chosen}, indent=1) + "\n")
    return best[0]


def _losses(out: Path, fit: Fit) -> Path:
    return out / "models" / f"{fit.name}.json"


def _log_loss(found: NDArray[np.float64], truths: NDArray[np.bool_]) -> float:
    """Return the log loss of calibrated margins: what an over-sure network says is mended afterwards."""
    try:
        temperature, offset = fit_calibration(found, truths)
    except CalibrationError:
        return float("inf")
    probabilities = calibrate(found, temperature=temperature, offset=offset)
    return float(-np.log(np.where(truths, probabilities, 1 - probabilities).clip(1e-12)).mean())


def estimate(network: Network, frames: Frames, plan: Plan) -> float:
    """Return the minutes that training would take, from one epoch on a few frames."""
    few = replace(plan.settings, variants=1)
    started = time.perf_counter()
    features = read_frozen(network, frames.views[:TIMED], few)
    read = time.perf_counter()
    learn(network, features, frames.labels[:TIMED], few, epochs=1, seed=0)
    learnt = time.perf_counter()
    share = len(frames.rows) / min(TIMED, len(frames.rows))
    count = len(fits(plan, frames)) * plan.settings.epochs * (1 - 1.5 / (frames.folds.max() + 1))
    return float(share * (plan.settings.variants * (read - started) + count * (learnt - read)) / 60)
