"""What counts say: figures of a confusion table, and exact binomial bounds on an error rate."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

HALVINGS = 60
"""Of the unit interval in a bisection: 2 ** -60 is below what a float64 near one can tell apart."""


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole; NaN where there is no whole."""
    found: Floats = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return found


def mcc(
    right_positive: Floats, wrong_positive: Floats, wrong_negative: Floats, right_negative: Floats
) -> Floats:
    """Return Matthews correlation coefficients of confusion counts; 0 where one is undefined."""
    covariance = right_positive * right_negative - wrong_positive * wrong_negative
    margins = (
        (right_positive + wrong_positive)
        * (right_positive + wrong_negative)
        * (right_negative + wrong_positive)
        * (right_negative + wrong_negative)
    )
    return np.divide(covariance, np.sqrt(margins), out=np.zeros_like(covariance), where=margins > 0)


def measures(
    right_positive: Floats, wrong_positive: Floats, wrong_negative: Floats, right_negative: Floats
) -> dict[str, Floats]:
    """Return MCC, accuracy, F1, sensitivity and specificity of confusion counts of any one shape."""
    wrong = wrong_positive + wrong_negative
    right = right_positive + right_negative
    return {
        "mcc": mcc(right_positive, wrong_positive, wrong_negative, right_negative),
        "accuracy": ratio(right, right + wrong),
        "f1": ratio(2 * right_positive, 2 * right_positive + wrong),
        "sensitivity": ratio(right_positive, right_positive + wrong_negative),
        "specificity": ratio(right_negative, right_negative + wrong_positive),
    }


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Return the chance of at most `successes` in `trials`, for a `probability` inside (0, 1).

    The terms are summed as exponentials of their logarithms: all are positive, so that even a tail of 1e-200
    keeps its digits.
    """
    drawn = np.arange(successes + 1)
    of_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    ways = of_factorials[trials] - of_factorials[drawn] - of_factorials[trials - drawn]
    terms = ways + drawn * np.log(probability) + (trials - drawn) * np.log1p(-probability)
    return min(1.0, float(np.exp(terms).sum()))


def upper_bound(wrong: int, of: int, *, delta: float) -> float:
    """Return the error rate that is exceeded with chance `delta` at most: B with binomial_cdf = delta.

    One-sided Clopper-Pearson; Geifman & El-Yaniv 2017, lemma 3.1. Without an error it is
    1 - delta ** (1 / of).
    """
    if wrong >= of:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(wrong, of, middle) > delta else (low, middle)
    return high


def clopper_pearson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion (Clopper & Pearson, Biometrika 26:404, 1934)."""
    delta = (1 - level) / 2
    return (
        1 - upper_bound(trials - successes, trials, delta=delta),
        upper_bound(successes, trials, delta=delta),
    )
