"""Probabilities that mean what they say: fitting temperature and offset, and measuring what is left."""

import numpy as np
from numpy.typing import NDArray

from models.counts import Flags, Floats, Ints
from models.errors import ModelError

BINS = 15
"""Of the calibration error: equal-width bins of the positive class's probability."""

STEPS, SMALLEST_STEP = 100, 1e-11
"""Newton steps at most (five to ten do), and the one that ends them, in standard deviations of the margin."""


class CalibrationError(ModelError):
    """Margins and labels that no temperature above zero fits."""


def fit_calibration(margins: NDArray[np.floating], labels: Flags) -> tuple[float, float]:
    """Return the (temperature, offset) of least log loss for (margin + offset) / temperature.

    Newton's method on the logistic regression of the labels on the margins, both ``(N,)``. Where a margin
    separates the labels the log loss has no minimum; then the labels are Platt's, (n + 1) / (n + 2) and
    1 / (m + 2) for n positives and m negatives (Platt 1999, section 2.2), whose minimum always exists.

    Raises
    ------
    CalibrationError
        A class is missing, or its margins are not the larger ones on average.
    """
    positive, negative = margins[labels].astype(np.float64), margins[~labels].astype(np.float64)
    if not len(positive) or not len(negative):
        raise CalibrationError(
            f"calibration: expected frames of both classes, found {len(positive)} positive and "
            f"{len(negative)} negative; give frames of both"
        )
    if not positive.mean() > negative.mean():
        raise CalibrationError(
            "calibration: expected larger margins of positive frames on average, found "
            f"{positive.mean():.4g} against {negative.mean():.4g}; the network has learned nothing, or the "
            "classes are swapped"
        )
    targets = labels.astype(np.float64)
    if positive.min() >= negative.max():
        targets = np.where(labels, (len(positive) + 1) / (len(positive) + 2), 1 / (len(negative) + 2))
    centre, spread = float(np.mean(margins, dtype=np.float64)), float(np.std(margins, dtype=np.float64))
    design = np.stack([(margins.astype(np.float64) - centre) / spread, np.ones(len(margins))])
    slope, intercept = _newton(design, targets)
    slope, intercept = slope / spread, intercept - slope * centre / spread
    return 1 / slope, intercept / slope


def _newton(design: Floats, targets: Floats) -> tuple[float, float]:
    """Return the two weights of ``(2, N)`` rows of least log loss; a step that overshoots is halved."""

    def loss(weights: Floats) -> float:
        logits = weights @ design
        return float((np.logaddexp(0.0, logits) - targets * logits).mean())

    weights = np.zeros(2)
    for _ in range(STEPS):
        expected = 0.5 * (1.0 + np.tanh(weights @ design / 2))
        curvature = (design * (expected * (1.0 - expected))) @ design.T
        step = np.linalg.solve(curvature, design @ (targets - expected))
        while np.abs(step).max() > SMALLEST_STEP and not loss(weights + step) <= loss(weights):
            step /= 2
        weights = weights + step
        if np.abs(step).max() <= SMALLEST_STEP:
            break
    return float(weights[0]), float(weights[1])


def calibration_error(probabilities: Floats, labels: Flags) -> float:
    """Return ECE: over equal-width bins, the mean distance of mean probability and share of labels."""
    gaps = np.bincount(_bins(probabilities), weights=labels - probabilities)
    return float(np.abs(gaps).sum() / len(labels))


def reliability(probabilities: Floats, labels: Flags) -> list[list[float]]:
    """Return, of each bin of `calibration_error` that is not empty: mean probability, share IBD, frames."""
    bins = _bins(probabilities)
    frames, means, shares = (np.bincount(bins, of, BINS) for of in (None, probabilities, labels))
    return [
        [round(float(p / n), 4), round(float(s / n), 4), int(n)]
        for n, p, s in zip(frames, means, shares, strict=True)
        if n
    ]


def _bins(probabilities: Floats) -> Ints:
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def adaptive_calibration_error(probabilities: Floats, labels: Flags) -> float:
    """Return the same over bins of equally many frames; among equal probabilities negatives come first."""
    order = np.lexsort((labels, probabilities))
    gaps = np.array_split((labels - probabilities)[order], BINS)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(labels))


def brier(probabilities: Floats, labels: Flags) -> float:
    """Return the mean squared distance of the probability from the label (Brier 1950, of one class)."""
    return float(np.mean((probabilities - labels) ** 2))
