"""The figures against scikit-learn, on resamples that are really drawn, and against sums written out."""

import math
import time

import numpy as np
import pytest

from models.counts import mcc
from models.figures import (
    RADIUS,
    RESAMPLES,
    bootstrap,
    confusion,
    frame_change,
    frame_figures,
    frame_statistic,
    patient_change,
    patient_figures,
    published_figures,
    reading_statistic,
    roc_points,
    summarise,
)

stats = pytest.importorskip("scipy.stats", reason="scipy is an oracle of these tests (extra `train`)")
metrics = pytest.importorskip(
    "sklearn.metrics", reason="the extra `reference` (scikit-learn) is the oracle of these tests"
)


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 300 frames of 20 patients, probabilities rounded so that some tie across the classes."""
    generator = np.random.default_rng(1)
    patients = np.concatenate([np.arange(20), generator.integers(0, 20, 280)])
    labels = patients % 3 == 0
    probabilities = np.clip(generator.normal(0.35 + 0.3 * labels, 0.25), 0, 1).round(2)
    return probabilities, labels, patients


def test_frame_figures_are_scikit_learns(sample: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probabilities, labels, patients = sample
    found = frame_figures(probabilities, labels, patients)
    called = probabilities >= 0.5
    expected = {
        "auc": metrics.roc_auc_score(labels, probabilities),
        "mcc": metrics.matthews_corrcoef(labels, called),
        "sensitivity": metrics.recall_score(labels, called),
        "specificity": metrics.recall_score(~labels, ~called),
    }
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert all(found[name]["low"] < found[name]["value"] < found[name]["high"] for name in expected)


def test_the_calibration_error_is_the_written_out_sum_over_fifteen_bins(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probabilities, labels, patients = sample
    total = 0.0
    for b in range(15):
        inside = [
            i for i, p in enumerate(probabilities) if b / 15 <= p < (b + 1) / 15 or (b == 14 and p == 1)
        ]
        total += abs(sum(float(labels[i]) - float(probabilities[i]) for i in inside))
    found = frame_figures(probabilities, labels, patients)["ece"]["value"]
    assert found == pytest.approx(total / len(labels), abs=1e-4)


def test_the_curve_and_the_confusion_are_scikit_learns(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Between two rates the curve goes along the staircase, below any line between its corners."""
    probabilities, labels, _ = sample
    false, true, _ = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    points = roc_points(np.stack([probabilities, probabilities]), labels)
    for rate, point in zip(np.linspace(0, 1, len(points)) ** 2, points, strict=True):
        assert point == pytest.approx([rate, true[false <= rate].max()], abs=1e-4)
    counted = metrics.confusion_matrix(labels, probabilities >= 0.5)
    assert confusion(np.stack([probabilities, probabilities]), labels) == (2 * counted).tolist()


def test_one_patients_frames_are_resampled_together() -> None:
    """Frames of one patient repeat each other: an interval that counts them singly would be too narrow."""
    generator = np.random.default_rng(2)
    patients = np.arange(40)
    labels = patients % 2 == 0
    probabilities = np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    once = frame_figures(probabilities, labels, patients)["auc"]
    many = frame_figures(np.repeat(probabilities, 25), np.repeat(labels, 25), np.repeat(patients, 25))["auc"]
    assert many == pytest.approx(once)


def test_an_undefined_mcc_is_zero() -> None:
    counts = [np.array([5.0]), np.array([5.0]), np.array([0.0]), np.array([0.0])]
    assert mcc(*counts).tolist() == [0.0]


def test_unpredicted_patients_count_as_wrong_or_not_at_all() -> None:
    """While (t, k) is tuned an abstention is an error (Datres); beside it stands what the rest would say."""
    labels = np.array([True, True, False, False])
    readings = np.array([[1, -1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], np.int8)  # draws that read all alike
    found = patient_figures(readings, labels)
    assert found["unpredicted"]["value"] == pytest.approx(1 / 12, abs=1e-4)
    assert found["mcc_of_predicted"]["value"] == 1.0
    wrong = metrics.matthews_corrcoef(labels, [True, False, False, False])
    assert found["mcc_unpredicted_wrong"]["value"] == pytest.approx((wrong + 2) / 3, abs=1e-4)


def test_an_interval_leaves_out_the_sample_itself() -> None:
    found = summarise(np.array([99.0, *range(101)]))
    assert found == {"value": 99.0, "low": 2.5, "high": 97.5}


def test_every_estimate_is_that_of_the_frames_the_resample_holds(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """The shortcuts (pairs of patients, counts of cells) must equal frames repeated one by one."""
    probabilities, labels, patients = sample
    labels = labels ^ (np.arange(len(labels)) % 11 == 0)  # patients of mixed frames
    statistic = frame_statistic(probabilities, labels, patients)
    counts = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=5).astype(np.float64)
    found = statistic(counts)
    for row, of_patient in enumerate(counts.astype(int)):
        frames = np.repeat(np.arange(len(labels)), of_patient[patients])
        truth, called = labels[frames], probabilities[frames] >= 0.5
        expected = {
            "auc": metrics.roc_auc_score(truth, probabilities[frames]),
            "mcc": metrics.matthews_corrcoef(truth, called),
            "accuracy": metrics.accuracy_score(truth, called),
            "f1": metrics.f1_score(truth, called),
            "sensitivity": metrics.recall_score(truth, called),
            "specificity": metrics.recall_score(~truth, ~called),
        }
        assert {name: found[name][row] for name in found} == pytest.approx(expected)


def test_a_resample_without_a_class_has_no_auc_and_leaves_the_interval_alone() -> None:
    probabilities, labels, patients = np.array([0.2, 0.4, 0.9]), np.array([False, False, True]), np.arange(3)
    found = frame_statistic(probabilities, labels, patients)(np.array([[3.0, 0, 0], [1, 1, 1]]))
    np.testing.assert_array_equal(found["auc"], [np.nan, 1.0])
    np.testing.assert_array_equal(found["sensitivity"], [np.nan, 1.0])
    assert frame_figures(probabilities, labels, patients)["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_of_several_models_the_mean_of_their_figures_is_bootstrapped(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Three seeds are three models: their mean varies with the patients drawn, not with the seeds."""
    probabilities, labels, patients = sample
    models = np.stack([probabilities, 1 - probabilities])
    found = frame_figures(models, labels, patients)
    assert found["auc"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    alone = [frame_figures(model, labels, patients)["ece"]["value"] for model in models]
    assert found["ece"]["value"] == pytest.approx(np.mean(alone), abs=1e-4)


def test_a_hundred_thousand_resamples_spread_as_the_binomial_does_and_take_seconds() -> None:
    """The bootstrap of a share of n patients is binomial: its spread and the paper's radius are known."""
    labels = np.arange(272) < 152
    readings = np.where(np.arange(272) % 20 == 0, ~labels, labels).astype(np.int8)
    begun = time.perf_counter()
    found = published_figures(readings[None], labels)["accuracy"]
    assert time.perf_counter() - begun < 8
    share = 258 / 272
    spread = math.sqrt(share * (1 - share) / 272)
    assert RESAMPLES == 100_000
    assert (found["value"], found["mean"]) == pytest.approx((share, share), abs=2e-4)
    assert found["radius"] == pytest.approx(RADIUS * spread, abs=2e-4)
    ends = [stats.binom.ppf(q, 272, share) / 272 for q in (0.025, 0.975)]
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=1e-4)
    assert len(bootstrap(reading_statistic(readings[None], labels), 272)["mcc"]) == 1 + RESAMPLES


def test_the_change_between_two_models_of_the_same_patients_is_paired() -> None:
    """Float and int8 err on the same patients: unpaired intervals could not resolve three points of MCC."""
    labels = np.arange(272) < 152
    before = np.where(np.arange(272) % 18 == 0, ~labels, labels).astype(np.int8)
    after = before.copy()
    after[[1, 2, 3, 200]] = ~labels[[1, 2, 3, 200]]
    after[0] = labels[0]
    found = patient_change(after[None], before[None], labels)["mcc"]
    each = [metrics.matthews_corrcoef(labels, readings) for readings in (after, before)]
    assert found["value"] == pytest.approx(each[0] - each[1], abs=1e-4)
    spread = math.sqrt(5) / 272 * 2  # five patients differ; MCC moves by about 2 / n for each
    assert found["lower"] == pytest.approx(found["value"] - RADIUS * spread, abs=0.004)
    assert found["low"] < found["lower"] < found["value"] < found["high"]
    alone = published_figures(before[None], labels)["mcc"]
    assert found["high"] - found["low"] < 0.6 * (alone["high"] - alone["low"])


def test_two_models_that_say_the_same_of_frames_differ_by_exactly_nothing(
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probabilities, labels, patients = sample
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "lower": 0.0}
    assert frame_change(probabilities, probabilities**1.0, labels, patients) == {
        "auc": nothing,
        "mcc": nothing,
    }
    worse = np.where(np.arange(300) % 25 == 0, 1 - probabilities, probabilities)
    found = frame_change(worse, probabilities, labels, patients)
    for name, score in (("auc", metrics.roc_auc_score), ("mcc", None)):
        values = [
            score(labels, p) if score else metrics.matthews_corrcoef(labels, p >= 0.5)
            for p in (worse, probabilities)
        ]
        assert found[name]["value"] == pytest.approx(values[0] - values[1], abs=1e-4)
        assert found[name]["low"] < found[name]["lower"] < found[name]["value"] < found[name]["high"]
