"""Conformal sets: the quantile written out, and the coverage promised, where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.conformal import conformal_figures, conformal_quantile, conformal_sets, fit_conformal

ALPHA, REPEATS = 0.1, 2000


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_the_quantile_is_the_least_score_that_enough_of_the_others_do_not_exceed(
    scores: list[float], alpha: float
) -> None:
    percent = round(100 * (1 - alpha))
    enough = [s for s in scores if 100 * sum(other <= s for other in scores) >= (len(scores) + 1) * percent]
    assert conformal_quantile(np.array(scores), alpha=alpha) == min(enough, default=math.inf)


def test_a_set_holds_every_answer_whose_probability_is_near_enough_to_one() -> None:
    found = conformal_sets(np.array([0.05, 0.3, 0.6, 0.95]), (0.4, 0.5))
    assert found.tolist() == [[True, False], [True, False], [False, True], [False, True]]
    assert conformal_sets(np.array([0.5]), (0.4, 0.4)).tolist() == [[False, False]]
    assert conformal_sets(np.array([0.2]), (math.inf, math.inf)).tolist() == [[True, True]]


@pytest.mark.parametrize("size", [36, 71, 300])
def test_the_promised_share_of_later_patients_is_covered_and_hardly_more(size: int) -> None:
    """Known truth: the true answer's probability is u, u uniform, or its root for IBD; coverage is exact."""
    generator = np.random.default_rng(size)
    of_classes = []
    for _ in range(REPEATS):
        labels = np.arange(size) % 3 == 0
        of_truth = np.where(labels, np.sqrt(generator.random(size)), generator.random(size))
        probabilities = np.where(labels, of_truth, 1 - of_truth)
        healthy, ibd = fit_conformal(probabilities, labels, alpha=ALPHA)
        of_classes.append((min(healthy, 1.0), 1 - (1 - min(ibd, 1.0)) ** 2))
    for column, of_class in ((0, size - math.ceil(size / 3)), (1, math.ceil(size / 3))):
        within(np.array(of_classes)[:, column], of_class)


def test_each_fold_is_covered_by_quantiles_that_have_not_seen_it() -> None:
    """A fold read as the opposite of the truth is covered by none of its own patients' scores."""
    folds = np.repeat(np.arange(5), 40)
    labels = np.arange(200) % 2 == 0
    of_truth = np.where(folds == 4, 0.1, np.random.default_rng(0).uniform(0.5, 1, 200))
    found = conformal_figures(np.where(labels, of_truth, 1 - of_truth)[None], labels, folds)
    covered = {name: found[name]["value"] for name in ("coverage_healthy", "coverage_ibd")}
    others = []
    for truth in (False, True):
        held = 0
        for fold in range(5):
            scores = sorted(1 - of_truth[(labels == truth) & (folds != fold)])
            limit = scores[math.ceil(81 * (1 - ALPHA)) - 1]
            held += int((1 - of_truth[(labels == truth) & (folds == fold)] <= limit).sum())
        others.append(held / 100)
    assert [*covered.values()] == others
    assert max(others) < 0.9
    assert sum(found[name]["value"] for name in ("none", "one_answer", "both")) == pytest.approx(1)


def within(coverage: np.ndarray, size: int) -> None:
    error = coverage.std(ddof=1) / math.sqrt(REPEATS)
    assert 1 - ALPHA - 3 * error <= coverage.mean() <= 1 - ALPHA + 1 / (size + 1) + 3 * error
