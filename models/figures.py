"""Figures with intervals: patients are resampled, since the frames of one patient are not independent.

A figure is ``{"value", "low", "high"}``: the estimate, and the 2.5th and 97.5th percentile of a bootstrap.
Every bootstrap over as many patients draws the same resamples, so that figures of two models are paired.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.calibration import adaptive_calibration_error, brier, calibration_error
from models.counts import Flags, Floats, Ints, mcc, measures, ratio
from models.patient import DECISION

Figure = dict[str, float]
Readings = NDArray[np.int8]
Statistic = Callable[[Floats], dict[str, Floats]]
"""From ``(B, patients)`` counts, how often a resample holds a patient, to ``(B,)`` estimates by name."""

RESAMPLES = 100_000
"""As Datres et al. 2023."""

BLOCK = 250
"""Resamples at a time: 74 patients of 300 draws took 4.2 s so, 4.8 s by 1000 at a time and 4.4 s by 100."""

ROC_POINTS = 80

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
    pairs = pairs_won(probabilities, patients, labels, ~labels)

    def estimate(counts: Floats) -> dict[str, Floats]:
        right_positive, wrong_positive, wrong_negative, right_negative = counted = list((counts @ cells.T).T)
        of_pairs = (right_positive + wrong_negative) * (right_negative + wrong_positive)
        return {"auc": ratio(((counts @ pairs) * counts).sum(axis=1), of_pairs), **measures(*counted)}

    return estimate


def pairs_won(values: Floats, patients: Ints, ours: Flags, theirs: Flags) -> Floats:
    """Return ``(patients, patients)``: of our and their ``(N,)`` frames, the pairs in which ours is higher.

    A tie is half a pair.
    """
    size = int(patients.max()) + 1
    pairs = np.zeros((size, size))
    for patient in np.unique(patients[theirs]):
        against = np.sort(values[theirs & (patients == patient)])
        won = sum(np.searchsorted(against, values[ours], side=side) for side in ("left", "right"))
        pairs[:, patient] = np.bincount(patients[ours], weights=won / 2, minlength=size)
    return pairs


def roc_points(probabilities: Floats, labels: Flags) -> list[list[float]]:
    """Return (false, true) positive rates, the latter a mean over ``(models, N)`` probabilities.

    Of each false positive rate stands the highest true one with no more; the rates are denser near 0.
    """
    rates = np.linspace(0, 1, ROC_POINTS) ** 2
    reached = np.zeros(ROC_POINTS)
    for row in probabilities:
        ours, theirs = np.sort(row[labels]), np.append(np.sort(row[~labels])[::-1], -np.inf)
        allowed = theirs[(rates * (len(theirs) - 1)).astype(np.int64)]
        reached += 1 - np.searchsorted(ours, allowed, side="right") / len(ours)
    return [
        [round(float(x), 4) for x in pair] for pair in zip(rates, reached / len(probabilities), strict=True)
    ]


def confusion(probabilities: Floats, labels: Flags) -> list[list[int]]:
    """Return how many healthy frames, then IBD, are read as healthy and as IBD, over ``(models, N)``."""
    read = probabilities >= DECISION
    return [
        [int(((read == call) & (labels == truth)).sum()) for call in (False, True)] for truth in (False, True)
    ]


def _mean(found: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.mean([of_one[name] for of_one in found], axis=0) for name in found[0]}


def reading_statistic(
    readings: Readings, labels: Flags, *, of_cells: Callable[..., dict[str, Floats]] = measures
) -> Statistic:
    """Return `measures` of patients, averaged over draws, as a statistic of resampled patients.

    `readings` is ``(draws, patients)``: 1 IBD, 0 healthy, -1 unpredicted, which counts in no cell; `labels`
    is ``(patients,)``. Draws that read all patients alike are computed once, and counts in float32, which
    holds them exactly.
    """
    drawn, times = np.unique(readings, axis=0, return_counts=True)
    cells = [
        (labels == truth, (drawn[:, labels == truth] == call).T.astype(np.float32))
        for call, truth in ((1, True), (1, False), (0, True), (0, False))
    ]

    def estimate(counts: Floats) -> dict[str, Floats]:
        found = of_cells(*(counts[:, of].astype(np.float32) @ cell for of, cell in cells))
        return {name: value @ (times / len(readings)) for name, value in found.items()}

    return estimate


def _mcc_alone(*cells: Floats) -> dict[str, Floats]:
    return {"mcc": mcc(*cells)}


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
    """Return AUC, MCC, sensitivity, specificity, calibration errors and Brier score of single frames.

    The arrays are those of `frame_statistic`.
    """
    found = bootstrap(frame_statistic(probabilities, labels, patients), int(patients.max()) + 1)
    errors = {"ece": calibration_error, "adaptive_ece": adaptive_calibration_error, "brier": brier}
    rows = np.atleast_2d(probabilities)
    return {
        **{name: summarise(found[name]) for name in ("auc", "mcc", "sensitivity", "specificity")},
        **{  # resamples bias them
            name: {"value": round(float(np.mean([error(row, labels) for row in rows])), 4)}
            for name, error in errors.items()
        },
    }


def frame_change(after: Floats, before: Floats, labels: Flags, patients: Ints) -> dict[str, Figure]:
    """Return what AUC and MCC of single frames gain from `before` to `after`, two models' probabilities."""
    statistics = (frame_statistic(probabilities, labels, patients) for probabilities in (after, before))
    found = bootstrap(change(*statistics), int(patients.max()) + 1)
    return {name: summarise_change(found[name]) for name in ("auc", "mcc")}


def patient_figures(readings: Readings, labels: Flags) -> dict[str, Figure]:
    """Return MCC and the unpredicted share of patients, averaged over draws."""
    found = bootstrap(_patient_statistic(readings, labels, of_cells=_mcc_alone), len(labels))
    found["mcc_unpredicted_wrong"] = found["mcc"]
    return {
        name: summarise(found[name]) for name in ("unpredicted", "mcc_unpredicted_wrong", "mcc_of_predicted")
    }


def _patient_statistic(
    readings: Readings, labels: Flags, *, of_cells: Callable[..., dict[str, Floats]] = measures
) -> Statistic:
    unpredicted = (readings < 0).mean(axis=0)
    as_wrong = reading_statistic(unpredicted_as_wrong(readings, labels), labels, of_cells=of_cells)
    of_predicted = reading_statistic(readings, labels, of_cells=_mcc_alone)

    def estimate(counts: Floats) -> dict[str, Floats]:
        found = as_wrong(counts)
        return {
            **found,
            "mcc_of_predicted": of_predicted(counts)["mcc"] if unpredicted.any() else found["mcc"],
            "unpredicted": counts @ unpredicted / len(labels),
        }

    return estimate


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
