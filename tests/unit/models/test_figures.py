"""The figures against scikit-learn and against sums written out."""

import numpy as np
import pytest

from models.counts import mcc
from models.figures import frame_figures, patient_figures, summarise

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
    readings = np.array([[1, -1, 0, 0], [1, 1, 0, 0]], np.int8)
    found = patient_figures(readings, labels)
    assert found["unpredicted"]["value"] == 0.125
    assert found["mcc_of_predicted"]["value"] == 1.0
    wrong = metrics.matthews_corrcoef(labels, [True, False, False, False])
    assert found["mcc_unpredicted_wrong"]["value"] == pytest.approx((wrong + 1) / 2, abs=1e-4)


def test_an_interval_leaves_out_the_sample_itself() -> None:
    found = summarise(np.array([99.0, *range(101)]))
    assert found == {"value": 99.0, "low": 2.5, "high": 97.5}
