"""The paper's tables of t and k: the patient rule on many bags of frames at once, and the choice it gives.

Source: Datres et al., BioData Mining 16:33 (2023), Tables 1-4. The rule is `models.patient.read_patient`;
here it is over arrays. Frames are rows in the order of their sources, patients numbered from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.counts import Flags, Floats, Ints, measures
from models.package import VoteMode
from models.patient import DECISION

THRESHOLDS = (0.85, 0.87, 0.88, 0.90, 0.91, 0.93, 0.94, 0.96, 0.97, 0.99)
TOP_KS = tuple(range(1, 11))
"""The paper's t and k."""

BAGS = (3, 5, 10)
"""Frames a bag: whole patients of many frames are read rightly by almost any t and k, and cannot choose."""

DRAWS = 300
SAME = 1e-12
"""MCCs this near are one: they are means of the same counts, added in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The four tables of one bag size, means over the draws; Unpredicted counts as wrong.

    Attributes
    ----------
    bag
        Frames drawn of each patient; None for all of them.
    mcc, accuracy, f1
        ``(thresholds, top_ks)`` float64.
    unpredicted
        ``(thresholds,)`` float64: patients a draw of whom no frame reaches the threshold.
    """

    bag: int | None
    mcc: Floats
    accuracy: Floats
    f1: Floats
    unpredicted: Floats

    @property
    def is_saturated(self) -> bool:
        """Whether several cells make no error at all: the table then cannot rank them."""
        return int((self.mcc >= 1 - SAME).sum()) > 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The t and k of the highest `mcc`, a mean over bag sizes; `tied` cells reach it, this one among them."""

    threshold: float
    top_k: int
    mcc: float
    tied: int


def draw_bags(patients: Ints, size: int | None, *, draws: int = DRAWS, seed: int = 0) -> Ints:
    """Return ``(draws, patients, frames)`` rows of frames, ascending; -1 after those of a patient with fewer.

    Without a size each patient's bag holds all frames, once. Same patients, size and seed: same bags.
    """
    generator = np.random.default_rng([seed, size or 0])
    members = [np.flatnonzero(patients == patient) for patient in range(patients.max() + 1)]
    longest = max(map(len, members))
    width = longest if size is None else min(size, longest)
    bags = np.full((draws if size else 1, len(members), width), -1)
    for patient, rows in enumerate(members):
        drawn = generator.random((len(bags), len(rows))).argsort(axis=1)[:, :width]
        bags[:, patient, : drawn.shape[1]] = np.sort(rows[drawn], axis=1)
    return bags


def average_bags(probabilities: Floats, bags: Ints) -> Floats:
    """Return ``(draws, patients)`` means of the ``(N,)`` probabilities that each bag holds."""
    means: Floats = np.where(bags < 0, 0.0, probabilities[bags]).sum(axis=2) / (bags >= 0).sum(axis=2)
    return means


def largest_of_bags(probabilities: Floats, bags: Ints) -> Floats:
    """Return the largest likewise: one frame is enough."""
    largest: Floats = np.where(bags < 0, 0.0, probabilities[bags]).max(axis=2)
    return largest


def read_bags(
    probabilities: Floats,
    bags: Ints,
    *,
    groups: Ints | None = None,
    vote_mode: VoteMode = "probabilities",
    thresholds: Sequence[float] = THRESHOLDS,
    top_ks: Sequence[int] = TOP_KS,
) -> NDArray[np.int8]:
    """Read every bag with every t and k: ``(draws, patients, thresholds, top_ks)``, 1 IBD, 0 healthy, -1 not.

    `probabilities` of the positive class are ``(N,)``. With `groups`, ``(N,)``, the most confident frame of
    each near-duplicate group in a bag counts alone, as with `models.patient.vote_once`.
    """
    of_positive = probabilities[bags]
    confidences = np.where(bags < 0, 0.0, np.maximum(of_positive, 1 - of_positive))
    if groups is not None:
        confidences[_repeats(np.where(bags < 0, -1, groups[bags]), confidences)] = 0.0
    order = np.argsort(-confidences, axis=-1, kind="stable")[..., : max(top_ks)]
    of_positive, confidences = (np.take_along_axis(x, order, axis=-1) for x in (of_positive, confidences))
    votes = (of_positive >= DECISION).astype(np.float64) if vote_mode == "votes" else of_positive
    weight = np.cumsum(confidences, axis=-1)
    weighed = np.cumsum(confidences * (votes - DECISION), axis=-1)
    mean = DECISION + np.divide(weighed, weight, out=np.zeros_like(weight), where=weight > 0)
    by_count = np.concatenate([np.full((*mean.shape[:2], 1), -1), mean >= DECISION], axis=-1, dtype=np.int8)
    sure = (confidences[..., None, :] >= np.array(thresholds)[:, None]).sum(axis=-1)
    used = np.minimum(sure[..., None], np.array(top_ks))
    return np.take_along_axis(by_count[:, :, None], used, axis=-1)


def _repeats(groups: Ints, confidences: Floats) -> Flags:
    """Return where a frame of the same group (last axis) is more confident, or as confident and earlier."""
    order = np.lexsort((np.broadcast_to(np.arange(groups.shape[-1]), groups.shape), -confidences, groups))
    ordered = np.take_along_axis(groups, order, axis=-1)
    found = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(found, order[..., 1:], ordered[..., 1:] == ordered[..., :-1], axis=-1)
    return found


def count_calls(readings: NDArray[np.int8], labels: Flags) -> list[Floats]:
    """Return the four counts that `measures` takes, over axis 1, the patients; Unpredicted is wrong."""
    truth = labels.reshape(-1, *[1] * (readings.ndim - 2))
    right = readings == truth
    cells = (right & truth, ~right & ~truth, ~right & truth, right & ~truth)
    return [cell.sum(axis=1, dtype=np.float64) for cell in cells]


def tabulate(readings: NDArray[np.int8], labels: Flags, *, bag: int | None) -> Grid:
    """Return the tables of what `read_bags` read; `labels` are ``(patients,)``."""
    found = {name: value.mean(axis=0) for name, value in measures(*count_calls(readings, labels)).items()}
    unpredicted = (readings[..., 0] < 0).sum(axis=1).mean(axis=0)
    return Grid(bag, found["mcc"], found["accuracy"], found["f1"], unpredicted)


def tables(
    probabilities: Floats,
    labels: Flags,
    patients: Ints,
    *,
    groups: Ints | None = None,
) -> list[Grid]:
    """Return the grids of whole patients and each bag; `labels` are ``(patients,)``, the rest ``(N,)``."""
    grids = []
    for bag in (None, *BAGS):
        readings = read_bags(probabilities, draw_bags(patients, bag), groups=groups)
        grids.append(tabulate(readings, labels, bag=bag))
    return grids


def choose(grids: Sequence[Grid]) -> Choice:
    """Return the cell of the highest MCC, averaged over the bag sizes; whole patients have no say.

    Of equal cells: one that leaves nobody unpredicted, then the larger t, then the smaller k, since every
    frame that votes is searched for text, shown, and looked at by somebody.
    """
    bags = [grid for grid in grids if grid.bag is not None]
    mean = np.mean([grid.mcc for grid in bags], axis=0)
    nobody = np.sum([grid.unpredicted for grid in bags], axis=0) == 0
    best = np.argwhere(mean >= mean.max() - SAME).tolist()
    row, column = max(best, key=lambda cell: (nobody[cell[0]], cell[0], -cell[1]))
    return Choice(THRESHOLDS[row], TOP_KS[column], float(mean[row, column]), len(best))


def as_rows(grids: Sequence[Grid]) -> list[dict[str, str | int | float]]:
    """Return the tables as rows of a CSV, one a cell; whole patients are the bag ``all``."""
    return [
        {
            "bag": grid.bag or "all",
            "threshold": threshold,
            "top_k": top_k,
            "mcc": float(grid.mcc[row, column]),
            "accuracy": float(grid.accuracy[row, column]),
            "f1": float(grid.f1[row, column]),
            "unpredicted": float(grid.unpredicted[row]),
            "saturated": "yes" if grid.is_saturated else "no",
        }
        for grid in grids
        for row, threshold in enumerate(THRESHOLDS)
        for column, top_k in enumerate(TOP_KS)
    ]
