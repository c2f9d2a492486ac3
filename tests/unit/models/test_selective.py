"""Certificates where the truth is known, and what abstaining buys against sums written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.selective import (
    augrc_statistic,
    certified_figures,
    certify,
    least_certifiable,
    risk_coverage,
    selective_figures,
)

DELTA, REPEATS = 0.1, 1000


def area(confidences: np.ndarray, wrong: np.ndarray) -> float:
    """Return AUGRC of patients of one frame each."""
    statistic = augrc_statistic(confidences[None], wrong[None], np.arange(len(wrong)))
    return float(statistic(np.ones((1, len(wrong))))["augrc"][0])


def test_no_error_among_71_patients_certifies_no_less_than_six_point_seven_percent() -> None:
    """Delta 0.05, shared by the seven tests that a search among 71 patients may take."""
    assert least_certifiable(71) == pytest.approx(1 - (0.05 / 7) ** (1 / 71), abs=1e-12)
    assert round(least_certifiable(71), 3) == 0.067
    confidences, right = np.linspace(0.5, 1, 71), np.zeros(71, bool)
    granted = certify(confidences, right, risk=0.0673)
    assert (granted.threshold, granted.read, granted.wrong) == (0.5, 71, 0)
    assert granted.bound == least_certifiable(71)
    refused = certify(confidences, right, risk=0.067)
    assert (refused.threshold, refused.read, refused.bound) == (None, 0, 1.0)
    stated = certified_figures(confidences[None], ~right)
    (of_seed,) = stated["each_seed"]
    assert (of_seed["bound"], of_seed["coverage"], stated["least_certifiable"]) == (0.0672, 1.0, 0.0672)
    assert of_seed["says"] == "at most 6.7% of those read (71 of 71 patients, 0 wrong)"
    assert certified_figures(confidences[None], right)["each_seed"][0]["says"].startswith(
        "10.0% not certified"
    )


def test_the_bound_that_is_granted_is_that_of_the_patients_who_reach_the_threshold() -> None:
    """SciPy's beta quantile, for a ranking with its errors at the bottom and confidences that tie."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle (extra `train`)")
    confidences = np.repeat(np.linspace(0.51, 1, 50), 4)
    wrong = np.zeros(200, bool)
    wrong[:30] = True
    generator = np.random.default_rng(0)
    order = generator.permutation(200)
    found = certify(confidences[order], wrong[order], risk=0.1)
    assert found.threshold is not None
    assert found.read == (confidences >= found.threshold).sum()
    assert found.wrong == (wrong & (confidences >= found.threshold)).sum()
    assert found.bound == pytest.approx(
        stats.beta.ppf(1 - 0.05 / 8, found.wrong + 1, found.read - found.wrong)
    )
    assert found.bound <= 0.1
    lower = [t for t in np.unique(confidences) if t < found.threshold][-1]
    kept = confidences >= lower
    assert stats.binom.cdf(wrong[kept].sum(), kept.sum(), 0.1) > 0.05 / 8
    assert certify(confidences, ~wrong, risk=0.1).threshold is None


@pytest.mark.parametrize("size", [36, 71, 300])
@pytest.mark.parametrize("slope", [0.0, 0.8])
def test_a_certified_risk_is_exceeded_no_more_often_than_delta_allows(size: int, slope: float) -> None:
    """Known truth: confidence c is uniform, the chance of an error just above the risk plus slope (1/2 - c).

    Without a slope no threshold is any good, and every certificate breaks its promise.
    """
    generator = np.random.default_rng(size)
    risk = 0.3
    broken = granted = 0
    for _ in range(REPEATS):
        confidences = generator.random(size)
        wrong = generator.random(size) < np.clip(risk + 1e-6 + slope * (0.5 - confidences), 0, 1)
        found = certify(confidences, wrong, risk=risk, delta=DELTA)
        if found.threshold is not None:
            granted += 1
            above = np.linspace(found.threshold, 1, 1001)
            broken += np.clip(risk + 1e-6 + slope * (0.5 - above), 0, 1).mean() > risk
    assert broken / REPEATS <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / REPEATS)
    assert broken > 0
    assert granted > (REPEATS * 0.5 if slope and size == 300 else 0)


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30)
)
def test_areas_under_risk_and_coverage_are_those_of_random_order_within_ties(
    patients: list[tuple[float, bool]],
) -> None:
    """The oracle walks the curve in small steps; both areas are integrals of it."""
    confidences, wrong = np.array([c for c, _ in patients]), np.array([w for _, w in patients])
    found = risk_coverage(confidences, wrong)
    points = [(0.0, 0.0)]
    for c in sorted({c for c, _ in patients}, reverse=True):
        held = [w for other, w in patients if other >= c]
        points.append((len(held) / len(patients), sum(held) / len(patients)))
    np.testing.assert_allclose(np.stack([found.coverage, found.kept_errors], axis=1), points)
    steps = (np.arange(40_000) + 0.5) / 40_000
    kept = np.interp(steps, [c for c, _ in points], [e for _, e in points])
    assert area(confidences, wrong) == pytest.approx(kept.mean(), abs=1e-6)
    assert found.aurc == pytest.approx((kept / steps).mean(), abs=1e-4)


def test_a_perfect_ranking_reaches_the_published_optima_and_none_is_below() -> None:
    wrong = np.arange(50) < 8
    perfect = risk_coverage(np.linspace(0.5, 1, 50), wrong)
    assert area(np.linspace(0.5, 1, 50), wrong) == pytest.approx(0.16**2 / 2)
    assert perfect.aurc == pytest.approx(0.16 + 0.84 * math.log(0.84))
    assert perfect.e_aurc == pytest.approx(0, abs=1e-12)
    worse = risk_coverage(np.linspace(1, 0.5, 50), wrong)
    assert worse.e_aurc > 0.3
    assert area(np.linspace(1, 0.5, 50), wrong) == pytest.approx(0.16 - 0.16**2 / 2)
    assert risk_coverage(np.array([0.9, 0.8]), np.array([True, True])).e_aurc == pytest.approx(0)


def test_a_resamples_augrc_is_that_of_the_frames_it_holds_and_the_curve_ends_at_the_error_rate() -> None:
    """Pairs of patients stand for frames repeated one by one; the frame's own tie is among them."""
    generator = np.random.default_rng(0)
    patients = np.concatenate([np.arange(8), generator.integers(0, 8, 52)])
    probabilities, labels = generator.random((2, 60)).round(2), patients % 2 == 0
    confidences, wrong = np.maximum(probabilities, 1 - probabilities), (probabilities >= 0.5) != labels
    counts = generator.multinomial(8, np.full(8, 1 / 8), size=4)
    found = augrc_statistic(confidences, wrong, patients)(counts.astype(np.float64))["augrc"]
    for of_patient, value in zip(counts, found, strict=True):
        rows = np.repeat(np.arange(60), of_patient[patients])
        assert value == pytest.approx(
            np.mean([area(c[rows], w[rows]) for c, w in zip(confidences, wrong, strict=True)])
        )
    figures = selective_figures(probabilities, labels, patients)
    assert figures["curve"][-1] == pytest.approx([1.0, wrong.mean()], abs=1e-4)
    assert figures["augrc"]["low"] < figures["augrc"]["value"] < figures["augrc"]["high"]
    assert figures["aurc"] > figures["e_aurc"] > 0
