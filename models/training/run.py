"""A training's run folder: its frames, its folds, and what every verb leaves for the next.

``models/<name>.pt`` are networks, ``models/<name>.onnx`` their 8-bit twins; ``float.csv`` and ``int8.csv``
hold the margin of every frame, by the network that never saw its fold (`OUTER`) and by the one that chose for
it (`INNER`).
"""

import csv
import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from models.cleaned import load_cleaned
from models.dataset import CLASSES, Dataset, LabelledFrame, choose_folds, load_dataset, refuse_leaks
from models.errors import ModelError
from models.run_folder import write_table, write_whole
from models.training.learner import Settings

T = TypeVar("T")

OUTER, INNER = "outer", "inner"
COLUMNS = ("seed", "fold", "part", "path", "margin")


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The frames that the cleaning kept, in the table's order.

    Attributes
    ----------
    views
        ``(N, side, side, 3)`` uint8.
    labels, folds
        ``(N,)``: each frame's place among the classes, and its fold from 0.
    """

    rows: tuple[LabelledFrame, ...]
    views: NDArray[np.uint8]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked: written once as ``plan.json``, read by every later verb."""

    dataset: Path
    root: Path
    settings: Settings
    seeds: tuple[int, ...]
    weights: Path | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """One training: the fold that is left out for scoring, and whether the inner one is left out too."""

    fold: int
    seed: int
    part: str

    @property
    def name(self) -> str:
        """Its files' stem."""
        return f"{self.part}-fold{self.fold}-seed{self.seed}"

    def inner(self, folds: int) -> int:
        """Return the fold that chooses."""
        return (self.fold + 1) % folds

    def learns(self, folds: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return ``(N,)``: which frames it learns from."""
        out = folds == self.fold
        return np.asarray(~(out | (folds == self.inner(folds.max() + 1)) if self.part == INNER else out))

    def scores(self, folds: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return ``(N,)``: which frames it is asked about."""
        return np.asarray(folds == (self.inner(folds.max() + 1) if self.part == INNER else self.fold))


def write_plan(run: Path, plan: Plan) -> None:
    """Write the plan; a run that has another goes no further.

    Raises
    ------
    ModelError
        The folder is of another run.
    """
    write_once(run / "plan.json", json.dumps(asdict(plan), indent=1, default=str) + "\n")


def write_once(file: Path, text: str) -> None:
    """Write what a run was asked; what was made by other words is never taken for what these ask.

    Raises
    ------
    ModelError
        The file holds something else.
    """
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ModelError(f"{file}: the same settings were expected, others were found; name a new folder")
    write_whole(file, text)


def read_plan(run: Path) -> Plan:
    """Read the plan that `train` wrote.

    Raises
    ------
    ModelError
        There is none.
    """
    try:
        return TypeAdapter(Plan).validate_json((run / "plan.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{run}: the folder of a run was expected; run train first: {error}") from error


def read_settings(file: Path, kind: type[T]) -> T:
    """Read settings of a kind from TOML; what the file leaves out is as for the reference.

    Raises
    ------
    ModelError
        The file cannot be read, or says what no settings can.
    """
    try:
        return TypeAdapter(kind).validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{file}: settings in TOML were expected: {error}") from error


def load_frames(plan: Plan, run: Path) -> Frames:
    """Read the data set and its frames, cleaned once; the split is checked for leaks."""
    dataset: Dataset = load_dataset(plan.dataset, plan.root)
    folds = choose_folds(dataset.frames)
    refuse_leaks(dataset.frames, folds.tolist())
    cleaned = load_cleaned(dataset, run / "cache")
    rows = tuple(row for row, kept in zip(dataset.frames, cleaned.kept, strict=True) if kept)
    labels = np.array([CLASSES.index(row.label) for row in rows])
    return Frames(rows, cleaned.views[cleaned.kept], labels, folds[cleaned.kept], dataset.digest)


def fits(plan: Plan, frames: Frames) -> list[Fit]:
    """Return every training of the cross-validation, each inner one before the outer that it chooses for."""
    count = int(frames.folds.max()) + 1
    return [Fit(fold, seed, part) for seed in plan.seeds for fold in range(count) for part in (INNER, OUTER)]


def write_margins(file: Path, frames: Frames, found: Iterable[tuple[Fit, NDArray[np.float64]]]) -> None:
    """Write the margins of the frames that each network was asked about."""
    rows = [
        (fit.seed, fit.fold, fit.part, frames.rows[place].path, round(float(margin), 6))
        for fit, margins in found
        for place, margin in zip(np.flatnonzero(fit.scores(frames.folds)), margins, strict=True)
    ]
    write_table(file, COLUMNS, rows)


def read_margins(file: Path) -> list[dict[str, Any]]:
    """Read what `write_margins` wrote.

    Raises
    ------
    ModelError
        There is no such file: the verb that writes it was not run.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [
                {**row, "seed": int(row["seed"]), "fold": int(row["fold"]), "margin": float(row["margin"])}
                for row in csv.DictReader(lines)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{file}: margins were expected; run train or quantize first: {error}") from error
