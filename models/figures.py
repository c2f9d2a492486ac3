"""Figures with intervals: patients are resampled, since the frames of one patient are not independent.

A figure is ``{"value", "low", "high"}``: the estimate, and the 2.5th and 97.5th percentile of a bootstrap.
"""

import numpy as np
from numpy.typing import NDArray

from models.package import DEFAULT_THRESHOLD, DEFAULT_TOP_K
from models.patient import DECISION, FramePrediction, read_patient
from pipeline.frame import FrameSource

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Figure = dict[str, float]

CODES = {"unpredicted": -1, "healthy": 0, "ibd": 1}

RESAMPLES = 2000
ECE_BINS = 15
"""Equal-width bins of the positive class's probability."""


def resample(patients: int) -> Floats:
    """Return ``(1 + RESAMPLES, patients)`` counts; the first row is the sample itself, once each."""
    drawn = np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES)
    return np.vstack([np.ones((1, patients)), drawn])


def summarise(estimates: Floats) -> Figure:
    """Return the first of ``(1 + RESAMPLES,)`` estimates with the interval that the others span."""
    low, high = np.nanpercentile(estimates[1:], [2.5, 97.5])
    return {name: round(float(x), 4) for name, x in (("value", estimates[0]), ("low", low), ("high", high))}


def mcc(
    right_positive: Floats, wrong_positive: Floats, wrong_negative: Floats, right_negative: Floats
) -> Floats:
    """Return Matthews correlation coefficients of confusion counts; 0 where one is undefined."""
    covariance = right_positive * right_negative - wrong_positive * wrong_negative
    margins = (
        (right_positive + wrong_positive)
        * (right_positive + wrong_negative)
        * (right_negative + wrong_positive)
        * (right_negative + wrong_negative)
    )
    return np.divide(covariance, np.sqrt(margins), out=np.zeros_like(covariance), where=margins > 0)


def frame_figures(probabilities: Floats, labels: Flags, patients: NDArray[np.int64]) -> dict[str, Figure]:
    """Return AUC, MCC, sensitivity, specificity and calibration error (ECE) of single frames.

    All arrays are ``(N,)``; patients are numbered from 0.
    """
    size = int(patients.max()) + 1
    belongs = (np.arange(size)[:, None] == patients).astype(np.float64)  # (patients, N)
    counts = resample(size)
    weights = counts @ belongs
    called = probabilities >= DECISION
    cells = [
        weights @ ((called == call) & (labels == truth)).astype(np.float64)
        for call, truth in ((True, True), (True, False), (False, True), (False, False))
    ]
    right_positive, wrong_positive, wrong_negative, right_negative = cells
    won = np.heaviside(probabilities[labels][:, None] - probabilities[~labels], 0.5)
    pairs = belongs[:, labels] @ won @ belongs[:, ~labels].T
    of_pairs = (weights @ labels) * (weights @ ~labels)
    bins = np.minimum((probabilities * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = (np.arange(ECE_BINS)[:, None] == bins) * (labels - probabilities)
    return {
        "auc": summarise(((counts @ pairs) * counts).sum(axis=1) / of_pairs),
        "mcc": summarise(mcc(*cells)),
        "sensitivity": summarise(right_positive / (right_positive + wrong_negative)),
        "specificity": summarise(right_negative / (right_negative + wrong_positive)),
        "ece": {"value": round(float(np.abs(gaps.sum(axis=1)).sum() / len(labels)), 4)},  # resamples bias it
    }


def patient_figures(readings: NDArray[np.int8], labels: Flags) -> dict[str, Figure]:
    """Return MCC and the unpredicted share of patients, averaged over draws.

    `readings` is ``(draws, patients)``: 1 IBD, 0 healthy, -1 unpredicted; `labels` is ``(patients,)``.
    """
    counts = resample(len(labels))

    def mean_mcc(called: NDArray[np.int8]) -> Figure:
        """Average over draws; an unpredicted patient (-1) counts in no cell."""
        cells = [
            counts @ ((called == call) & (labels == truth)).T.astype(np.float64)
            for call, truth in ((1, True), (1, False), (0, True), (0, False))
        ]
        return summarise(mcc(*cells).mean(axis=1))

    unpredicted = readings < 0
    return {
        "unpredicted": summarise(counts @ unpredicted.mean(axis=0) / counts.sum(axis=1)),
        "mcc_unpredicted_wrong": mean_mcc(np.where(unpredicted, ~labels, readings).astype(np.int8)),
        "mcc_of_predicted": mean_mcc(readings),
    }


def patient_labels(labels: Flags, patients: NDArray[np.int64]) -> Flags:
    """Return ``(patients,)`` labels, each that of the patient's frames."""
    return labels[np.unique(patients, return_index=True)[1]]


def bag_figures(
    probabilities: Floats, labels: Flags, patients: NDArray[np.int64], *, bag: int | None, draws: int
) -> dict[str, dict[str, Figure]]:
    """Return the figures of patients read from `bag` frames drawn of each (None: from all), `draws` times.

    ``mean`` is the plain mean of the probabilities; ``rule`` is the patient rule with the paper's t and k.
    """
    frames = [
        FramePrediction(FrameSource(str(place), 1), "", p, max(p, 1 - p))
        for place, p in enumerate(probabilities.tolist())
    ]
    members = [np.flatnonzero(patients == patient) for patient in range(patients.max() + 1)]
    readings = np.empty((2, draws, len(members)), np.int8)
    generator = np.random.default_rng(0)
    for draw in range(draws):
        for patient, places in enumerate(members):
            drawn = [frames[place] for place in generator.permutation(places)[:bag]]
            by_mean = np.mean([frame.probability for frame in drawn]) >= DECISION
            by_rule = read_patient(drawn, threshold=DEFAULT_THRESHOLD, top_k=DEFAULT_TOP_K)
            readings[:, draw, patient] = by_mean, CODES[by_rule.reading]
    of_patients = patient_labels(labels, patients)
    return {
        "mean": patient_figures(readings[0], of_patients),
        "rule": patient_figures(readings[1], of_patients),
    }
