"""What a cross-validation found: every figure recomputed from its two tables, float and int8.

A table has one row for each frame and seed, by the network that never saw the frame's fold; beside it stand
the temperature, offset, threshold and top-k that were chosen for that network without the fold.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.counts import Flags, Floats, Ints
from models.errors import ModelError
from models.figures import (
    Statistic,
    bootstrap,
    frame_change,
    frame_figures,
    frame_statistic,
    patient_change,
    patient_figures,
    patient_labels,
    summarise,
)
from models.grid import draw_bags, read_bags
from models.patient import DECISION, calibrate

COLUMNS = (
    "seed", "fold", "path", "patient", "kind", "label",
    "margin", "temperature", "offset", "threshold", "top_k",
)  # fmt: skip
BAG = 3
"""Frames a bag: whole pseudo-patients are saturated."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One side's rows, seed by seed in one order of frames.

    Attributes
    ----------
    probabilities, thresholds, top_ks
        ``(seeds, N)``: of the positive class, calibrated, and what was chosen for each row's network.
    labels, patients
        ``(N,)``; patients are numbered from 0.
    kinds
        A finer class each.
    """

    probabilities: Floats
    thresholds: Floats
    top_ks: Ints
    labels: Flags
    patients: Ints
    kinds: tuple[str, ...]


def read_table(file: Path, *, positive: str = "ibd") -> Table:
    """Read a table.

    Raises
    ------
    ModelError
        It cannot be read, or its seeds have not the same frames.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        seeds = sorted({int(row["seed"]) for row in rows})
        by_seed = [sorted((r for r in rows if int(r["seed"]) == seed), key=_path) for seed in seeds]
        (first, *others) = by_seed
        if any([*map(_path, other)] != [*map(_path, first)] for other in others):
            raise ModelError(f"{file}: the same frames were expected of every seed, others were found")
        probabilities = [
            [
                calibrate(
                    np.array([float(row["margin"])]),
                    temperature=float(row["temperature"]),
                    offset=float(row["offset"]),
                )[0]
                for row in of_seed
            ]
            for of_seed in by_seed
        ]
        return Table(
            np.array(probabilities),
            np.array([[float(row["threshold"]) for row in of_seed] for of_seed in by_seed]),
            np.array([[int(row["top_k"]) for row in of_seed] for of_seed in by_seed]),
            np.array([row["label"] == positive for row in first]),
            np.unique([row["patient"] for row in first], return_inverse=True)[1],
            tuple(row["kind"] for row in first),
        )
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{file}: a table of {', '.join(COLUMNS)} was expected: {error}") from error


def figures(floats: Table, int8s: Table) -> dict[str, Any]:
    """Return every figure: means over the seeds, intervals by bootstrap over patients."""
    labels, patients = int8s.labels, int8s.patients
    of_patients = patient_labels(labels, patients)
    rules = [_read(side, rule=True) for side in (int8s, floats)]
    means = [_read(side, rule=False) for side in (int8s, floats)]
    flipped = (int8s.probabilities >= DECISION) != (floats.probabilities >= DECISION)
    change = np.abs(int8s.probabilities - floats.probabilities)
    return {
        "frames": len(labels),
        "patients": len(of_patients),
        "frame_int8": frame_figures(int8s.probabilities, labels, patients),
        "frame_float": frame_figures(floats.probabilities, labels, patients),
        "each_seed_int8": [_plain(row, labels, patients) for row in int8s.probabilities],
        "each_seed_float": [_plain(row, labels, patients) for row in floats.probabilities],
        "recall_int8": _recalls(int8s),
        "against_int8": _against(int8s),
        "int8_less_float": {
            **frame_change(int8s.probabilities, floats.probabilities, labels, patients),
            "flipped_of_each_seed": flipped.sum(axis=1).tolist(),
            "mean_absolute_change": round(float(change.mean()), 4),
            "largest_change": round(float(change.max()), 4),
        },
        f"bags_of_{BAG}_int8": {
            "mean": patient_figures(means[0], of_patients),
            "rule": patient_figures(rules[0], of_patients),
            "rule_int8_less_float": patient_change(rules[0], rules[1], of_patients),
        },
        "whole_patients_int8": patient_figures(_whole(int8s), of_patients),
    }


def _path(row: Mapping[str, str]) -> str:
    return row["path"]


def _plain(probabilities: Floats, labels: Flags, patients: Ints) -> dict[str, float]:
    """Return a seed's AUC and MCC, without intervals."""
    found = frame_statistic(probabilities, labels, patients)(np.ones((1, int(patients.max()) + 1)))
    return {name: round(float(found[name][0]), 4) for name in ("auc", "mcc")}


def _recalls(side: Table) -> dict[str, dict[str, float]]:
    kinds = np.array(side.kinds)
    right = ((side.probabilities >= DECISION) == side.labels).mean(axis=0)
    return {
        kind: {"frames": int((kinds == kind).sum()), "recall": round(float(right[kinds == kind].mean()), 4)}
        for kind in sorted(set(side.kinds))
    }


def _against(side: Table) -> dict[str, dict[str, Any]]:
    """Return AUC and MCC of all positives against each finer class of the negatives apart."""
    kinds, found = np.array(side.kinds), {}
    for kind in sorted({*kinds[~side.labels].tolist()}):
        rows = side.labels | (kinds == kind)
        patients = np.unique(side.patients[rows], return_inverse=True)[1]
        statistic: Statistic = frame_statistic(side.probabilities[:, rows], side.labels[rows], patients)
        estimates = bootstrap(statistic, int(patients.max()) + 1)
        found[kind] = {name: summarise(estimates[name]) for name in ("auc", "mcc")}
    return found


def _read(side: Table, *, rule: bool) -> NDArray[np.int8]:
    """Return ``(seeds * draws, patients)`` readings of bags: by the rule as chosen, or by the plain mean."""
    bags = draw_bags(side.patients, BAG)
    found = []
    for probabilities, thresholds, top_ks in zip(
        side.probabilities, side.thresholds, side.top_ks, strict=True
    ):
        if not rule:
            mean = np.where(bags < 0, 0.0, probabilities[bags]).sum(axis=2) / (bags >= 0).sum(axis=2)
            found.append((mean >= DECISION).astype(np.int8))
            continue
        readings = np.zeros(bags.shape[:2], np.int8)
        choices: Sequence[tuple[float, int]] = sorted(
            {*zip(thresholds.tolist(), top_ks.tolist(), strict=True)}
        )
        for threshold, top_k in choices:
            chosen = (thresholds == threshold) & (top_ks == top_k)
            of_patients = np.unique(side.patients[chosen])
            read = read_bags(probabilities, bags[:, of_patients], thresholds=[threshold], top_ks=[top_k])
            readings[:, of_patients] = read[..., 0, 0]
        found.append(readings)
    return np.concatenate(found)


def _whole(side: Table) -> NDArray[np.int8]:
    """Return ``(seeds, patients)`` readings from all frames, by the plain mean."""
    size = np.bincount(side.patients)
    means = [np.bincount(side.patients, weights=row) / size for row in side.probabilities]
    return (np.array(means) >= DECISION).astype(np.int8)
