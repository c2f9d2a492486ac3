"""Sets of readings that hold the true one as often as promised: split conformal prediction, by patient.

Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), sections 2.2 and 4.5. Sets of
one answer are readings, those of both or none abstain. Patients must be exchangeable with the calibrating
ones, on whom nothing else was chosen.
"""

import math

import numpy as np

from models.counts import Flags, Floats


def conformal_quantile(scores: Floats, *, alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n scores; infinite where n is too few for alpha."""
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)  # 20 * 0.95 is 19, however it is rounded
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def fit_conformal(
    probabilities: Floats, labels: Flags, *, alpha: float, by_class: bool
) -> tuple[float, float]:
    """Return the largest 1 - probability of (healthy, ibd) at which that answer still belongs to the set.

    Both arrays are ``(patients,)``, probabilities of IBD. One quantile for both answers covers 1 - `alpha` of
    all patients; `by_class` (Mondrian) gives each its own and covers 1 - `alpha` of each class.
    """
    of_truth = np.where(labels, 1 - probabilities, probabilities)
    groups = (of_truth[~labels], of_truth[labels]) if by_class else (of_truth, of_truth)
    healthy, ibd = (conformal_quantile(scores, alpha=alpha) for scores in groups)
    return healthy, ibd


def conformal_sets(probabilities: Floats, quantiles: tuple[float, float]) -> Flags:
    """Return ``(patients, 2)``: whether healthy, and whether IBD, belongs to each patient's set."""
    return np.stack([probabilities, 1 - probabilities], axis=1) <= np.array(quantiles)
