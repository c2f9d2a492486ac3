"""Figures with intervals: patients are resampled, since the frames of one patient are not independent.

A figure is ``{"value", "low", "high"}``: the estimate, and the 2.5th and 97.5th percentile of a bootstrap.
Every bootstrap over as many patients draws the same resamples, so that figures of two models are paired.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.calibration import calibration_error
from models.counts import Flags, Floats, Ints, measures, ratio
from models.patient import DECISION

Figure = dict[str, float]
Readings = NDArray[np.int8]
Statistic = Callable[[Floats], dict[str, Floats]]
"""From ``(B, patients)`` counts, how often a resample holds a patient, to ``(B,)`` estimates by name."""

RESAMPLES = 100_000
"""As Datres et al. 2023."""

BLOCK = 250
"""Resamples at a time: 74 patients of 300 draws took 4.2 s so, 4.8 s by 1000 at a time and 4.4 s by 100."""

RADIUS = 1.645
"""Standard deviations from the mean to the 5 % and 95 % of a normal distribution: the paper's interval."""


def bootstrap(statistic: Statistic, patients: int) -> dict[str, Floats]:
    """Return ``(1 + RESAMPLES,)`` estimates by name; the first is of the sample itself."""
    generator = np.random.default_rng(0)

    def draw() -> Floats:
        """Count by one histogram with bins for each resample: five times as fast as a multinomial."""
        drawn = generator.integers(patients, size=(BLOCK, patients)) + np.arange(BLOCK)[:, None] * patients
        counts = np.bincount(drawn.ravel(), minlength=BLOCK * patients)
        return counts.reshape(BLOCK, patients).astype(np.float64)

    found = [statistic(np.ones((1, patients))), *(statistic(draw()) for _ in range(RESAMPLES // BLOCK))]
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}


def summarise(estimates: Floats) -> Figure:
    """Return the first of ``(1 + RESAMPLES,)`` estimates with the interval that the others span."""
    low, high = np.nanpercentile(estimates[1:], [2.5, 97.5])
    return {name: round(float(x), 4) for name, x in (("value", estimates[0]), ("low", low), ("high", high))}


def as_published(estimates: Floats) -> Figure:
    """Return the same with the mean of the resamples and the radius of the paper's normal 90 % interval."""
    mean, radius = np.nanmean(estimates[1:]), RADIUS * np.nanstd(estimates[1:])
    return {**summarise(estimates), "mean": round(float(mean), 4), "radius": round(float(radius), 4)}


def summarise_change(estimates: Floats) -> Figure:
    """Return the same of a difference, with its one-sided 95 % lower bound."""
    return {**summarise(estimates), "lower": round(float(np.nanpercentile(estimates[1:], 5)), 4)}


def frame_statistic(probabilities: Floats, labels: Flags, patients: Ints) -> Statistic:
    """Return AUC and `measures` of single frames as a statistic of resampled patients.

    All arrays are ``(N,)``; patients are numbered from 0. Probabilities may be ``(models, N)``: the estimate
    is then the models' mean. The AUC needs only how many pairs of frames each pair of patients wins.
    """
    if probabilities.ndim > 1:
        of_models = [frame_statistic(row, labels, patients) for row in probabilities]
        return lambda counts: _mean([statistic(counts) for statistic in of_models])
    size = int(patients.max()) + 1
    called = probabilities >= DECISION
    cells = np.stack(
        [
            np.bincount(patients[(called == call) & (labels == truth)], minlength=size).astype(np.float64)
            for call, truth in ((True, True), (True, False), (False, True), (False, False))
        ]
    )
    positives = probabilities[labels]
    pairs = np.zeros((size, size))
    for patient in np.unique(patients[~labels]):
        against = np.sort(probabilities[~labels & (patients == patient)])
        won = sum(np.searchsorted(against, positives, side=side) for side in ("left", "right"))
        pairs[:, patient] = np.bincount(patients[labels], weights=won / 2, minlength=size)

    def estimate(counts: Floats) -> dict[str, Floats]:
        right_positive, wrong_positive, wrong_negative, right_negative = counted = list((counts @ cells.T).T)
        of_pairs = (right_positive + wrong_negative) * (right_negative + wrong_positive)
        return {"auc": ratio(((counts @ pairs) * counts).sum(axis=1), of_pairs), **measures(*counted)}

    return estimate


def _mean(found: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.mean([of_one[name] for of_one in found], axis=0) for name in found[0]}


def reading_statistic(readings: Readings, labels: Flags) -> Statistic:
    """Return `measures` of patients, averaged over draws, as a statistic of resampled patients.

    `readings` is ``(draws, patients)``: 1 IBD, 0 healthy, -1 unpredicted, which counts in no cell; `labels`
    is ``(patients,)``.
    """
    cells = [
        ((readings == call) & (labels == truth)).T.astype(np.float64)
        for call, truth in ((1, True), (1, False), (0, True), (0, False))
    ]

    def estimate(counts: Floats) -> dict[str, Floats]:
        found = measures(*(counts @ cell for cell in cells))
        return {name: value.mean(axis=1) for name, value in found.items()}

    return estimate


def change(after: Statistic, before: Statistic) -> Statistic:
    """Return the difference of two statistics of the same patients: the bootstrap is then a paired one."""

    def estimate(counts: Floats) -> dict[str, Floats]:
        was = before(counts)
        return {name: value - was[name] for name, value in after(counts).items()}

    return estimate


def unpredicted_as_wrong(readings: Readings, labels: Flags) -> Readings:
    """Return the readings with each unpredicted one replaced by the opposite of its label (Datres)."""
    return np.where(readings < 0, ~labels, readings).astype(np.int8)


def frame_figures(probabilities: Floats, labels: Flags, patients: Ints) -> dict[str, Figure]:
    """Return AUC, MCC, sensitivity, specificity and calibration error (ECE) of single frames.

    The arrays are those of `frame_statistic`.
    """
    errors = [calibration_error(row, labels) for row in np.atleast_2d(probabilities)]
    found = bootstrap(frame_statistic(probabilities, labels, patients), int(patients.max()) + 1)
    return {
        **{name: summarise(found[name]) for name in ("auc", "mcc", "sensitivity", "specificity")},
        "ece": {"value": round(float(np.mean(errors)), 4)},  # resamples bias it
    }


def frame_change(after: Floats, before: Floats, labels: Flags, patients: Ints) -> dict[str, Figure]:
    """Return what AUC and MCC of single frames gain from `before` to `after`, two models' probabilities."""
    statistics = (frame_statistic(probabilities, labels, patients) for probabilities in (after, before))
    found = bootstrap(change(*statistics), int(patients.max()) + 1)
    return {name: summarise_change(found[name]) for name in ("auc", "mcc")}


def patient_figures(readings: Readings, labels: Flags) -> dict[str, Figure]:
    """Return MCC and the unpredicted share of patients, averaged over draws."""
    found = bootstrap(_patient_statistic(readings, labels), len(labels))
    found["mcc_unpredicted_wrong"] = found["mcc"]
    return {
        name: summarise(found[name]) for name in ("unpredicted", "mcc_unpredicted_wrong", "mcc_of_predicted")
    }


def _patient_statistic(readings: Readings, labels: Flags) -> Statistic:
    unpredicted = (readings < 0).mean(axis=0)
    as_wrong = reading_statistic(unpredicted_as_wrong(readings, labels), labels)
    of_predicted = reading_statistic(readings, labels)
    return lambda counts: {
        **as_wrong(counts),
        "mcc_of_predicted": of_predicted(counts)["mcc"],
        "unpredicted": counts @ unpredicted / len(labels),
    }


def published_figures(readings: Readings, labels: Flags) -> dict[str, Figure]:
    """Return the paper's Table 5 (MCC, accuracy, F1), sensitivity and specificity; Unpredicted is wrong.

    Beside them stand the MCC of those predicted, and the share unpredicted.
    """
    found = bootstrap(_patient_statistic(readings, labels), len(labels))
    return {name: as_published(estimates) for name, estimates in found.items()}


def patient_change(after: Readings, before: Readings, labels: Flags) -> dict[str, Figure]:
    """Return what the patients' measures gain from `before` to `after`, Unpredicted counted wrong in both."""
    statistics = (
        reading_statistic(unpredicted_as_wrong(readings, labels), labels) for readings in (after, before)
    )
    found = bootstrap(change(*statistics), len(labels))
    return {name: summarise_change(estimates) for name, estimates in found.items()}


def patient_labels(labels: Flags, patients: Ints) -> Flags:
    """Return ``(patients,)`` labels, each that of the patient's frames."""
    return labels[np.unique(patients, return_index=True)[1]]
