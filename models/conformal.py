"""Sets of readings that hold the true one as often as promised: split conformal prediction, by patient.

Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), sections 2.2 and 4.5. Sets of
one answer are readings, those of both or none abstain. Patients must be exchangeable with the calibrating
ones, on whom nothing else was chosen.
"""

import math

import numpy as np

from models.counts import Flags, Floats, Ints, ratio
from models.figures import Figure, bootstrap, summarise

ALPHA = 0.1
"""Share of patients whose set may lack the true answer, in `conformal_figures`."""


def conformal_quantile(scores: Floats, *, alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n scores; infinite where n is too few for alpha."""
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)  # 20 * 0.95 is 19, however it is rounded
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def fit_conformal(probabilities: Floats, labels: Flags, *, alpha: float) -> tuple[float, float]:
    """Return the largest 1 - probability of (healthy, ibd) at which that answer still belongs to the set.

    Both arrays are ``(patients,)``, probabilities of IBD. Each class has its own quantile (Mondrian), so that
    1 - `alpha` of each are covered.
    """
    groups = (probabilities[~labels], 1 - probabilities[labels])
    healthy, ibd = (conformal_quantile(scores, alpha=alpha) for scores in groups)
    return healthy, ibd


def conformal_sets(probabilities: Floats, quantiles: tuple[float, float]) -> Flags:
    """Return ``(patients, 2)``: whether healthy, and whether IBD, belongs to each patient's set."""
    return np.stack([probabilities, 1 - probabilities], axis=1) <= np.array(quantiles)


def conformal_figures(probabilities: Floats, labels: Flags, folds: Ints) -> dict[str, Figure]:
    """Return what the sets of each fold's patients hold, the quantiles fitted on the other folds'.

    `probabilities` are ``(draws, patients)``, the rest ``(patients,)``. Patients are resampled with their
    sets: the quantiles are not fitted again.
    """
    sets = np.empty((*probabilities.shape, 2), np.bool_)
    for row, of_draw in zip(probabilities, sets, strict=True):
        for fold in np.unique(folds):
            out = folds == fold
            of_draw[out] = conformal_sets(row[out], fit_conformal(row[~out], labels[~out], alpha=ALPHA))
    answers = sets.sum(axis=2)
    shares = {
        "coverage_healthy": (sets[..., 0], ~labels),
        "coverage_ibd": (sets[..., 1], labels),
        **{name: (answers == n, labels | True) for name, n in (("none", 0), ("one_answer", 1), ("both", 2))},
    }
    found = bootstrap(
        lambda counts: {
            name: ratio(counts @ (held.mean(axis=0) * of), counts @ of.astype(np.float64))
            for name, (held, of) in shares.items()
        },
        len(labels),
    )
    return {name: summarise(estimates) for name, estimates in found.items()}
