"""Exact bounds against SciPy's binomial and beta distributions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.counts import binomial_cdf, clopper_pearson, upper_bound

stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle of these tests (extra `train`)")

counts = st.tuples(st.integers(1, 2000), st.floats(0, 1)).map(
    lambda drawn: (int(drawn[0] * drawn[1]), drawn[0])
)


@given(counts, st.floats(1e-6, 1 - 1e-6))
def test_the_binomial_tail_keeps_its_digits_however_small(given_counts: tuple[int, int], p: float) -> None:
    """A certificate compares a tail with delta: an absolute error of 1e-9 would be most of a small one."""
    successes, trials = given_counts
    expected = stats.binom.logcdf(successes, trials, p)
    if expected > -600:
        assert binomial_cdf(successes, trials, p) == pytest.approx(
            stats.binom.cdf(successes, trials, p), rel=1e-8
        )


@given(counts, st.sampled_from([1e-4, 0.05 / 7, 0.05, 0.3]))
def test_the_one_sided_bound_is_the_beta_quantile(given_counts: tuple[int, int], delta: float) -> None:
    wrong, of = given_counts
    expected = stats.beta.ppf(1 - delta, wrong + 1, of - wrong) if wrong < of else 1.0
    assert upper_bound(wrong, of, delta=delta) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 71), (71, 71), (3, 74), (256, 272)])
def test_the_clopper_pearson_interval_is_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert clopper_pearson(successes, trials, level=0.9) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )
