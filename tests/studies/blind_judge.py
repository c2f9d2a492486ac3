"""What a judge that sees no mucosa tells of the label: AUC, permutations, the difference of two judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.training.learner import embed
from pipeline.clean.crop import VIEW_SIDE
from pipeline.frame import Pixels

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CELLS = 16
GREY = 128
"""What stands where mucosa is blanked."""

PENALTY = 0.1
"""Of the ridge, as a share of the kernel's mean diagonal times the frames fitted on."""


DRAWS = 1000
"""Of pseudo-patients, with replacement."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The frames, and a label, pseudo-patient and fold each."""

    pixels: list[Pixels]
    labels: Mask
    patients: NDArray[np.int64]
    folds: NDArray[np.int64]


class Judge:
    """What can be told of the frames' labels from features of parts of them."""

    def __init__(self, frames: Frames, trunk: Any, permutations: int) -> None:
        self.frames, self._trunk, self._permutations = frames, trunk, permutations
        generator = np.random.default_rng(0)
        of_patient = np.zeros(frames.patients.max() + 1, bool)
        of_patient[frames.patients] = frames.labels
        permuted = [generator.permutation(of_patient)[frames.patients] for _ in range(permutations)]
        self._labels = np.column_stack([frames.labels, *permuted])

    def of(self, chosen: NDArray[np.int64]) -> "Judge":
        """Return the judge of some of the frames."""
        frames = self.frames
        part = Frames([], frames.labels[chosen], frames.patients[chosen], frames.folds[chosen])
        return Judge(part, self._trunk, self._permutations)

    def judge(self, features: Floats) -> dict[str, float]:
        """Return the AUC averaged over folds, that of permuted labels, and p."""
        scores = self.predict(features, self._labels)
        each = []
        for fold in np.unique(self.frames.folds):
            of_fold = self.frames.folds == fold
            ranks, labels = rankdata(scores[of_fold], axis=0), self._labels[of_fold]
            ones = labels.sum(0)
            with np.errstate(invalid="ignore"):
                each.append(((ranks * labels).sum(0) - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))
        found = np.nanmean(each, axis=0)
        null = found[1:]
        p = (1 + (null >= found[0]).sum()) / (1 + len(null))
        return {"auc": round(float(found[0]), 4), "permuted_mean": round(float(null.mean()), 4),
                "permuted_sd": round(float(null.std(ddof=1)), 4), "p": round(float(p), 4)}  # fmt: skip

    def predict(self, features: Floats, targets: Mask) -> Floats:
        """Return out-of-fold predictions of a ridge for ``(N, T)`` targets at once."""
        predicted = np.zeros(targets.shape)
        for fold in np.unique(self.frames.folds):
            out = self.frames.folds == fold
            mean, spread = features[~out].mean(0), features[~out].std(0)
            used = spread > 0
            if not used.any():
                continue
            given = (features[:, used] - mean[used]) / spread[used]
            kernel = given @ given[~out].T / used.sum()
            fitted = kernel[~out] + PENALTY * np.eye(int((~out).sum())) * kernel[~out].trace() / (~out).sum()
            centred = targets[~out] - targets[~out].mean(0)
            predicted[out] = kernel[out] @ np.linalg.solve(fitted, centred)
        return predicted.round(9)  # frames without a hole are equal: a product's last bits must not rank them

    def difference(self, own: Floats, other: Floats) -> dict[str, float]:
        """Return AUC(own) - AUC(other) with its 95 % interval, bootstrapped over pseudo-patients."""
        return told(self.differences(own, other)[None])

    def differences(self, own: Floats, other: Floats) -> Floats:
        """Return AUC(own) - AUC(other), and the same in every draw of pseudo-patients: ``(1 + DRAWS,)``."""
        generator, patients = np.random.default_rng(1), self.frames.patients.max() + 1
        drawn = [
            np.bincount(generator.integers(0, patients, patients), minlength=patients) for _ in range(DRAWS)
        ]
        weights = np.stack([np.ones(patients), *drawn])[:, self.frames.patients]
        return self._weighted_auc(own, weights) - self._weighted_auc(other, weights)

    def _weighted_auc(self, features: Floats, weights: Floats) -> Floats:
        labels, folds = self.frames.labels, self.frames.folds
        scores, each = self.predict(features, labels[:, None])[:, 0], []
        for fold in np.unique(folds):
            ones, others = np.flatnonzero((folds == fold) & labels), np.flatnonzero((folds == fold) & ~labels)
            above = (np.sign(scores[ones][:, None] - scores[others]) + 1) / 2
            pairs = weights[:, ones].sum(1) * weights[:, others].sum(1)
            with np.errstate(invalid="ignore"):  # a draw may leave a fold without one of the labels
                each.append(((weights[:, ones] @ above) * weights[:, others]).sum(1) / pairs)
        return np.asarray(np.nanmean(each, axis=0), np.float64)

    def see(self, views: Sequence[Pixels]) -> Floats:
        """Return what the trunk and a coarse look see in views that hold artefacts alone; blank ones once."""
        stacked = np.stack([np.full_like(views[0], GREY), *views])
        shows = (stacked != GREY).any(axis=(1, 2, 3))
        shows[0] = True
        seen = stacked[shows]
        deep = embed(self._trunk, seen).astype(np.float64)
        side = VIEW_SIDE // CELLS
        coarse = seen.reshape(-1, CELLS, side, CELLS, side, 3).mean(axis=(2, 4)).reshape(len(seen), -1)
        found = np.concatenate([deep, coarse], axis=1).astype(np.float64)
        return np.asarray(found[np.where(shows, np.cumsum(shows) - 1, 0)[1:]], np.float64)


def told(found: Floats) -> dict[str, float]:
    """Return the mean of differences ``(runs, 1 + DRAWS)``, with a 95 % interval over patients and runs.

    Every run draws the same pseudo-patients; for each draw of these the runs are drawn anew as well.
    """
    runs, draws = len(found), found.shape[1] - 1
    picked = np.random.default_rng(2).integers(0, runs, (runs, draws))
    low, high = np.quantile(found[:, 1:][picked, np.arange(draws)].mean(0), [0.025, 0.975])
    figures = {"difference": found[:, 0].mean(), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in figures.items()}
