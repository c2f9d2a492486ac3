"""Temperature and offset against scikit-learn's logistic regression; calibration errors written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration import (
    CalibrationError,
    adaptive_calibration_error,
    brier,
    calibration_error,
    fit_calibration,
    reliability,
)
from models.patient import calibrate

linear_model = pytest.importorskip(
    "sklearn.linear_model", reason="scikit-learn is the oracle of these tests (extra `train`)"
)


def log_loss(margins: np.ndarray, targets: np.ndarray, temperature: float, offset: float) -> float:
    p = calibrate(margins, temperature=temperature, offset=offset)
    return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean())


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(-300, 300), st.floats(0.01, 100), st.floats(0.3, 1.5))
def test_the_fit_is_unpenalised_logistic_regression_at_any_scale(
    seed: int, shift: float, scale: float, apart: float
) -> None:
    """Margins come in a network's own units, far from zero or spread over hundreds."""
    generator = np.random.default_rng(seed)
    labels = np.arange(200) % 3 == 0
    standard = generator.normal(np.where(labels, apart, -apart))
    temperature, offset = fit_calibration(standard * scale + shift, labels)
    fitted = linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(standard[:, None], labels)
    assert scale / temperature == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert (shift + offset) / temperature == pytest.approx(fitted.intercept_[0], rel=1e-4, abs=1e-4)


def test_no_neighbour_of_the_fit_has_a_lower_loss_and_the_mean_probability_is_the_prevalence() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(300) < 0.3
    margins = generator.normal(np.where(labels, 9.0, 2.0), 4.0).astype(np.float32)
    temperature, offset = fit_calibration(margins, labels)
    least = log_loss(margins, labels, temperature, offset)
    for t, b in ((1.01, 0), (0.99, 0), (1, 0.05), (1, -0.05)):
        assert log_loss(margins, labels, temperature * t, offset + b) > least
    assert calibrate(margins, temperature=temperature, offset=offset).mean() == pytest.approx(labels.mean())


def test_margins_that_separate_the_labels_get_platts_targets_and_a_finite_temperature() -> None:
    """On a few easy frames the log loss falls for ever; a temperature of zero would be sure of everything."""
    labels = np.array([False, False, False, True, True])
    margins = np.array([-4.0, -3.0, -2.0, 1.0, 5.0])
    temperature, offset = fit_calibration(margins, labels)
    targets = np.where(labels, 3 / 4, 1 / 5)
    least = log_loss(margins, targets, temperature, offset)
    for t, b in ((1.01, 0), (0.99, 0), (1, 0.05), (1, -0.05)):
        assert log_loss(margins, targets, temperature * t, offset + b) > least


def test_what_no_temperature_fits_is_one_clear_line() -> None:
    with pytest.raises(CalibrationError, match="frames of both classes, found 2 positive and 0 negative"):
        fit_calibration(np.array([1.0, 2.0]), np.array([True, True]))
    with pytest.raises(CalibrationError, match=r"found 1 against 2; .* classes are swapped"):
        fit_calibration(np.array([1.0, 2.0, 1.0]), np.array([True, False, True]))


def test_calibration_errors_are_the_sums_written_out() -> None:
    generator = np.random.default_rng(1)
    probabilities = np.append(generator.random(97).round(2), [0.0, 1.0, 1.0])
    labels = generator.random(100) < probabilities**2
    rows = sorted(zip(probabilities.tolist(), labels.tolist(), strict=True))
    equal = [[r for r in rows if b / 15 <= r[0] < (b + 1) / 15 or (b == 14 and r[0] == 1)] for b in range(15)]
    many = [
        rows[7 * b : 7 * b + 7] if b < 10 else rows[70 + 6 * (b - 10) : 76 + 6 * (b - 10)] for b in range(15)
    ]
    for bins, found in ((equal, calibration_error), (many, adaptive_calibration_error)):
        assert sum(map(len, bins)) == 100
        total = sum(
            len(held) / 100 * abs(sum(y for _, y in held) / len(held) - sum(p for p, _ in held) / len(held))
            for held in bins
            if held
        )
        assert found(probabilities, labels) == pytest.approx(total)
        assert found(probabilities[::-1], labels[::-1]) == pytest.approx(total)
    for (mean, share, frames), held in zip(
        reliability(probabilities, labels), filter(None, equal), strict=True
    ):
        assert frames == len(held)
        assert mean == pytest.approx(sum(p for p, _ in held) / len(held), abs=1e-4)
        assert share == pytest.approx(sum(y for _, y in held) / len(held), abs=1e-4)
    assert brier(probabilities, labels) == pytest.approx(sum((p - y) ** 2 for p, y in rows) / 100)
