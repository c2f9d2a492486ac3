"""The cells of `tests.studies.quant_study`: one network, quantised in one way, and what it reads."""

import hashlib
import itertools
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.training.export import export_twin
from models.training.learner import READ, keep_freed_memory, normalise
from models.training.network import Network, resnet50_network
from models.training.quantising import (
    OUTPUTS,
    Quantising,
    margin,
    quantise,
    read_int8,
    read_twin,
    spare,
)
from models.training.run import OUTER, Fit, Frames, Plan, load_frames, read_plan
from models.training.sensitivity import read
from models.training.train import build, load_network
from models.training.twin import paper_choice

SEED, SETS = 0, range(5)
WIDTHS = ((8, 8), (4, 8), (4, 4))
RESNET50, RESNET50_SIDE = "resnet50-reference.pt", 96
SQUARES = {"rule": "least_squares"}
METHODS: dict[str, dict[str, Any]] = {
    "min_max": {},
    "mse": SQUARES,
    "corrected": {**SQUARES, "corrects_bias": True},
    "equalised": {**SQUARES, "corrects_bias": True, "equalises": True},
    "adaround": {**SQUARES, "rounding": "adaptive", "iterations": 1000},
    "corrected_adaround": {**SQUARES, "corrects_bias": True, "rounding": "adaptive", "iterations": 1000},
    "qat": {**SQUARES, "method": "qat"},
    "corrected_qat": {**SQUARES, "corrects_bias": True, "method": "qat"},
    "pact": {**SQUARES, "method": "pact"},
    "lsq": {**SQUARES, "method": "lsq"},
    "sensitive": {"budget": 0.5},
    "paper": {},
    "integers": {"keep_float": ()},
}
AFTERWARDS, TRAINED = ("min_max", "mse", "corrected"), ("qat", "pact", "lsq")


@dataclass(frozen=True, slots=True)
class Cell:
    """One network, quantised in one way."""

    method: str
    bits: tuple[int, int] = (8, 8)
    fold: int = 0
    draw: int = 0
    whole: bool = False
    backbone: str = "mobilenet_v2"

    @property
    def kind(self) -> str:
        """Cells of a kind take about as long."""
        return f"{self.backbone}-{self.method}-{self.whole}"


def cells(folds: Iterable[int], *, resnet50: bool) -> list[Cell]:
    """Return every cell; the longest come first, so that no core waits for one at the end."""
    folds = list(folds)
    found = [
        *(Cell(name, (4, 8), folds[0]) for name in ("adaround", "corrected_adaround")),
        *(Cell(name, (4, 4), folds[0], whole=True) for name in TRAINED),
    ]
    found += [Cell(method, fold=fold) for method, fold in itertools.product(("sensitive", "paper"), folds)]
    found += [Cell(name, bits, fold) for name, bits, fold in itertools.product(TRAINED, WIDTHS, folds)]
    found += [Cell("corrected_qat", bits, fold) for bits, fold in itertools.product(WIDTHS, folds)]
    found += [Cell(name, (4, 4), folds[0], draw) for name, draw in itertools.product(TRAINED, SETS) if draw]
    found += [Cell("equalised", bits, fold) for bits, fold in itertools.product(WIDTHS, folds)]
    found += [
        Cell(method, bits, fold, draw)
        for draw, method, bits, fold in itertools.product(SETS, AFTERWARDS, WIDTHS, folds)
    ]
    found += [Cell("float", fold=fold) for fold in folds]
    if resnet50:
        methods = ("float", "integers", "paper", "sensitive")
        found += [Cell(method, backbone="resnet50", fold=folds[0]) for method in methods]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What every cell needs."""

    run: Path
    plan: Plan
    frames: Frames
    network: Network

    def file(self, cell: Cell) -> Path:
        """Return the weights that a cell starts from."""
        name = RESNET50 if cell.backbone == "resnet50" else f"models/{Fit(cell.fold, SEED, OUTER).name}.pt"
        return self.run / name


def digest(weights: Path) -> str:
    """Return what tells a file from that of another training."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def open_study(run: Path) -> Study:
    """Read a run."""
    keep_freed_memory()
    torch.set_num_threads(1)
    plan = read_plan(run)
    return Study(run, plan, load_frames(plan, run), build(plan))


HERE: list[Study] = []
"""In a worker: its study."""


def start(run: Path) -> None:
    """Make a worker ready."""
    HERE.append(open_study(run))


def shrink(views: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return ``(N, side, side, 3)``, by area."""
    return np.stack([cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA) for view in views])


def measure(cell: Cell) -> dict[str, Any]:
    """Return the margins of the frames of the fold that a cell's network never saw."""
    (study,) = HERE
    started, frames = time.process_time(), study.frames
    fit = Fit(cell.fold, SEED, OUTER)
    learns, scores, views = fit.learns(frames.folds), fit.scores(frames.folds), frames.views
    trained, frozen = study.network, study.plan.settings.frozen
    if cell.backbone == "resnet50":
        trained, views = resnet50_network(2), shrink(views, RESNET50_SIDE)
    trained = load_network(trained, study.file(cell))
    shown, labels, asked = views[learns], frames.labels[learns], views[scores]
    line: dict[str, Any] = {**asdict(cell), "weights": digest(study.file(cell))}
    if cell.method == "float":
        line["margins"] = _margins(read_float(trained, asked))
        return line | {"seconds": time.process_time() - started}
    how = replace(
        Quantising(), weight_bits=cell.bits[0], activation_bits=cell.bits[1], draw=cell.draw,
        trained_from=0 if cell.whole else frozen, **METHODS[cell.method],
    )  # fmt: skip
    if cell.method == "paper":
        how = replace(how, keep_float=tuple(paper_choice(trained)))
    if cell.backbone == "resnet50" and cell.method == "sensitive":
        how = replace(how, keep_float=())
    if how.budget is not None:
        how, rows = spare(trained, shown, how)
        line["choices"] = rows
    twin = quantise(trained, shown, labels, how, seed=SEED)
    if how.equalises:
        found = read_twin(twin, asked)
    else:
        side = asked.shape[1]
        found = read_int8(export_twin(twin, rows=side, columns=side, outputs=OUTPUTS), asked)["logits"]
    line["margins"] = _margins(found)
    line["seconds"] = time.process_time() - started
    if cell == Cell("min_max", fold=cell.fold):
        line |= {"twin": _margins(read_twin(twin, asked)), "float_twin": _margins(read_float(twin, asked))}
    return line


def read_float(network: torch.nn.Module, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return logits as float arithmetic gives them."""
    batches = [normalise(views[at : at + READ]) for at in range(0, len(views), READ)]
    return np.asarray(read(network, batches).numpy())


def _margins(logits: NDArray[np.float32]) -> list[float]:
    return [round(float(each), 5) for each in margin(logits)]
