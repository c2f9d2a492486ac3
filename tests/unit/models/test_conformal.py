"""Conformal sets: the quantile written out, and the coverage promised, where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.conformal import conformal_quantile, conformal_sets, fit_conformal

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
    together, of_classes = [], []
    for _ in range(REPEATS):
        labels = np.arange(size) % 3 == 0
        of_truth = np.where(labels, np.sqrt(generator.random(size)), generator.random(size))
        probabilities = np.where(labels, of_truth, 1 - of_truth)
        quantile, same = fit_conformal(probabilities, labels, alpha=ALPHA, by_class=False)
        assert quantile == same
        together.append(quantile)
        healthy, ibd = fit_conformal(probabilities, labels, alpha=ALPHA, by_class=True)
        of_classes.append((min(healthy, 1.0), 1 - (1 - min(ibd, 1.0)) ** 2))
    share = math.ceil(size / 3) / size
    q = np.array(together)
    within(share * (1 - (1 - q) ** 2) + (1 - share) * q, size)
    for column, of_class in ((0, size - math.ceil(size / 3)), (1, math.ceil(size / 3))):
        within(np.array(of_classes)[:, column], of_class)


def within(coverage: np.ndarray, size: int) -> None:
    error = coverage.std(ddof=1) / math.sqrt(REPEATS)
    assert 1 - ALPHA - 3 * error <= coverage.mean() <= 1 - ALPHA + 1 / (size + 1) + 3 * error
