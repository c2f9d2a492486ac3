"""How foreign a frame is to those a network has learnt from: scores, a threshold on them, their figures.

What ships is how rare a view's colours are. Energy and nearest neighbours stand beside it for comparison.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.counts import Floats, clopper_pearson
from models.errors import ModelError, PackageError
from models.package import Package

COLUMNS = ("seed", "fold", "set", "path", "score", "energy", "neighbours", "probability", "threshold")
"""Of the table that `models.training.foreign` writes; the threshold is the patient rule's t of the fold."""

KNOWN = "known"

RETENTION = 0.95
"""Share of known frames that the threshold keeps; the usual point of comparison (FPR at 95 % TPR)."""

CELL, LEVELS = 4, 16
"""Pixels of a cell's side, and steps of each of its mean red, green and blue. Capsule against left-out colon
frames, one half of the foreign frames: 64, 78 and 84 % rejected with 8, 16 and 32 steps; 16 was taken."""

RESAMPLES = 2_000

Views = NDArray[np.uint8]
Figure = dict[str, float]


def learn_rarity(views: Views) -> NDArray[np.float16]:
    """Return ``(4096,)``: how rare each colour is among views, -log of its share of the cells.

    `views` are ``(N, rows, columns, 3)``, sides multiples of `CELL`. Half a cell is added to every count.
    """
    counts = np.bincount(_colours(views).ravel(), minlength=LEVELS**3) + 0.5
    return np.asarray(-np.log(counts / counts.sum()), np.float16)


def rarity(views: Views, colours: NDArray[np.float16]) -> Floats:
    """Return ``(N,)``: the mean rarity of each view's cells, in nats.

    It is the cross-entropy of the view's colours under those of the known frames.
    """
    found: Floats = colours.astype(np.float64)[_colours(views)].mean(axis=(1, 2))
    return found


def read_rarity(package: Package) -> NDArray[np.float16] | None:
    """Return the colours' rarities that a package holds; None where it tells nothing of foreign frames.

    Raises
    ------
    PackageError
        Its file is altered or holds something else.
    """
    if package.foreign_file is None:
        return None
    try:
        found = np.load(io.BytesIO(package.read(package.foreign_file)), allow_pickle=False)
        if found.shape == (LEVELS**3,) and found.dtype == np.float16 and np.isfinite(found).all():
            return np.asarray(found)
    except (ValueError, EOFError, OSError):
        pass
    raise PackageError(
        f"{package.folder / package.foreign_file}: {LEVELS**3} finite float16 in .npy form were expected, "
        "something else was found; restore the package's files"
    )


def energy(logits: NDArray[np.floating], *, temperature: float = 1.0) -> Floats:
    """Return ``(N,)`` energies, -T logsumexp(z / T), of ``(N, classes)`` logits (Liu et al. 2020, eq. 4).

    >>> energy(np.array([[0.0, 0.0], [1000.0, 0.0]])).round(3).tolist()
    [-0.693, -1000.0]
    """
    energies: Floats = -temperature * np.logaddexp.reduce(logits.astype(np.float64) / temperature, axis=1)
    return energies


def distances(embeddings: NDArray[np.floating], bank: NDArray[np.floating], *, k: int) -> Floats:
    """Return ``(N,)`` distances to the k-th nearest of a bank, all at length 1 (Sun et al. 2022, section 3).

    `embeddings` are ``(N, d)``, `bank` is ``(M, d)``, of known frames.

    Raises
    ------
    ModelError
        k is not between 1 and M.
    """
    if not 1 <= k <= len(bank):
        raise ModelError(
            f"nearest neighbours: k from 1 to the bank's {len(bank)} was expected, {k} was found"
        )
    similarities = _normalise(embeddings) @ _normalise(bank).T
    nearest = np.partition(similarities, -k, axis=1)[:, -k]
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


def choose_threshold(known: Floats, *, retention: float = RETENTION) -> float:
    """Return the least score up to which at least `retention` of the known frames' ``(N,)`` scores lie.

    A frame is foreign above it. No foreign frame is needed, so that none is fitted to.
    """
    return float(np.quantile(known, retention, method="inverted_cdf"))


def outranked(known: Floats, foreign: Floats) -> Floats:
    """Return ``(N,)``: the share of known scores below each foreign one, ties half; the mean is the AUROC.

    >>> outranked(np.array([0.0, 1.0]), np.array([1.0, 2.0])).tolist()
    [0.75, 1.0]
    """
    ordered = np.sort(known)
    ranks = np.searchsorted(ordered, foreign, "left") + np.searchsorted(ordered, foreign, "right")
    return np.asarray(ranks / (2 * len(known)))


def read_foreign(file: Path) -> list[dict[str, str]]:
    """Read a table of `COLUMNS`.

    Raises
    ------
    ModelError
        It cannot be read, or lacks a column or every known frame.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: the table of `python -m models foreign` was expected: {error}") from error
    if not {*COLUMNS} <= {*(rows[0] if rows else ())} or not any(row["set"] == KNOWN for row in rows):
        raise ModelError(f"{file}: known frames and the columns {', '.join(COLUMNS)} were expected")
    return rows


def foreign_figures(table: Sequence[Mapping[str, str]], *, score: str = "score") -> dict[str, dict[str, Any]]:
    """Return the figures of each set of frames, means over the networks that read them.

    ``rejected`` are above the threshold that keeps `RETENTION` of the known frames of the other folds;
    ``still_confident`` are not, and reach t; ``fpr95`` are up to the threshold on all folds. Intervals are
    Clopper and Pearson's, of the AUROC a bootstrap, over frames. Known frames have neither AUROC nor FPR.
    """
    seeds, folds, sets, paths = (np.array([row[name] for row in table]) for name in COLUMNS[:4])
    scores, probabilities, thresholds = (
        np.array([float(row[name]) for row in table]) for name in (score, "probability", "threshold")
    )
    known = sets == KNOWN
    rejected, passed, above = (
        np.zeros(len(sets), np.bool_),
        np.zeros(len(sets), np.bool_),
        np.zeros(len(sets)),
    )
    for seed in np.unique(seeds):
        of_seed = seeds == seed
        passed[of_seed] = scores[of_seed] <= choose_threshold(scores[known & of_seed])
        for fold in np.unique(folds[of_seed]):
            here = of_seed & (folds == fold)
            others = known & of_seed & (folds != fold)
            rejected[here] = scores[here] > choose_threshold(scores[others])
            above[here] = outranked(scores[known & here], scores[here])
    confident = ~rejected & (np.maximum(probabilities, 1 - probabilities) >= thresholds)
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(sets.tolist()):
        rows = sets == name
        of_each = np.unique(paths[rows], return_inverse=True)[1]
        shares = {"rejected": rejected, "still_confident": confident}
        found[name] = {"frames": int(of_each.max()) + 1}
        if name != KNOWN:
            found[name]["auroc"] = _mean_of_frames(_by_frame(above[rows], of_each))
            shares["fpr95"] = passed
        for figure, flags in shares.items():
            found[name][figure] = _share_of_frames(_by_frame(flags[rows].astype(float), of_each))
    return found


def _colours(views: Views) -> NDArray[np.uint16]:
    """Return ``(N, rows / CELL, columns / CELL)``: the number of each cell's mean colour."""
    lines = np.add.reduce([views[:, at::CELL].astype(np.uint16) for at in range(CELL)], dtype=np.uint16)
    cells = np.add.reduce([lines[:, :, at::CELL] for at in range(CELL)], dtype=np.uint16)
    red, green, blue = np.moveaxis(cells // (CELL * CELL * 256 // LEVELS), -1, 0)
    return np.asarray((red * LEVELS + green) * LEVELS + blue)


def _normalise(embeddings: NDArray[np.floating]) -> Floats:
    """Return ``(N, d)`` embeddings at length 1; zeros stay zeros."""
    values: Floats = embeddings.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return values


def _by_frame(values: Floats, frames: NDArray[np.int64]) -> Floats:
    return np.asarray(np.bincount(frames, values) / np.bincount(frames))


def _mean_of_frames(values: Floats) -> Figure:
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return {"value": round(float(values.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


def _share_of_frames(values: Floats) -> Figure:
    low, high = clopper_pearson(round(float(values.sum())), len(values))
    return {"value": round(float(values.mean()), 4), "low": round(low, 4), "high": round(high, 4)}
