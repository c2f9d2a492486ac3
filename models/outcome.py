"""What a cross-validation found: every figure recomputed from its two tables, float and int8.

A table has one row for each frame and seed, by the network that never saw the frame's fold; beside it stand
the temperature, offset, threshold and top-k that were chosen for that network without the fold.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.calibration import reliability
from models.conformal import ALPHA, conformal_figures
from models.counts import Flags, Floats, Ints, clopper_pearson
from models.errors import ModelError
from models.figures import (
    Figure,
    Readings,
    Statistic,
    bootstrap,
    confusion,
    frame_change,
    frame_figures,
    frame_statistic,
    patient_change,
    patient_figures,
    roc_points,
    summarise,
)
from models.grid import average_bags, draw_bags, read_bags
from models.patient import DECISION, calibrate
from models.selective import certified_figures, selective_figures
from models.simulated import simulated_figures

COLUMNS = (
    "seed", "fold", "path", "patient", "kind", "group", "label",
    "margin", "temperature", "offset", "threshold", "top_k",
)  # fmt: skip
BAG, BAGS = 3, (1, 3, 5, 10)
"""Frames of the bag that is judged by, whole pseudo-patients being saturated, and of all that are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One side's rows, seed by seed in one order of frames.

    Attributes
    ----------
    probabilities, thresholds, top_ks
        ``(seeds, N)``: of the positive class, calibrated, and what was chosen for each row's network.
    labels, folds, patients, groups
        ``(N,)``; patients and near-duplicate groups are numbered from 0.
    kinds
        A finer class each.
    """

    probabilities: Floats
    thresholds: Floats
    top_ks: Ints
    labels: Flags
    folds: Ints
    patients: Ints
    groups: Ints
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
            np.array([int(row["fold"]) for row in first]),
            np.unique([row["patient"] for row in first], return_inverse=True)[1],
            np.unique([row["group"] for row in first], return_inverse=True)[1],
            tuple(row["kind"] for row in first),
        )
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{file}: a table of {', '.join(COLUMNS)} was expected: {error}") from error


def figures(floats: Table, int8s: Table) -> dict[str, Any]:
    """Return every figure: means over the seeds, intervals by bootstrap over patients."""
    labels, patients, sides = int8s.labels, int8s.patients, {"int8": int8s, "float": floats}
    firsts = np.unique(patients, return_index=True)[1]
    of_patients, folds = labels[firsts], int8s.folds[firsts]
    bags = {"all" if size is None else str(size): draw_bags(patients, size) for size in (*BAGS, None)}
    means = {name: _average(int8s, rows) for name, rows in bags.items()}
    rules = {name: _read_by_rule(int8s, rows) for name, rows in bags.items()}
    change = np.abs(int8s.probabilities - floats.probabilities)
    flipped = (int8s.probabilities >= DECISION) != (floats.probabilities >= DECISION)
    few = str(BAG)
    return {
        "frames": len(labels),
        "patients": len(of_patients),
        **{f"frame_{name}": frame_figures(of.probabilities, labels, patients) for name, of in sides.items()},
        **{
            f"each_seed_{name}": [_plain(row, labels, patients) for row in of.probabilities]
            for name, of in sides.items()
        },
        "confusion": {name: confusion(of.probabilities, labels) for name, of in sides.items()},
        "reliability": {
            name: reliability(of.probabilities.ravel(), np.tile(labels, len(of.probabilities)))
            for name, of in sides.items()
        },
        "roc": {name: roc_points(of.probabilities, labels) for name, of in sides.items()},
        "recall_int8": _recalls(int8s),
        "against_int8": _against(int8s),
        "int8_less_float": {
            **frame_change(int8s.probabilities, floats.probabilities, labels, patients),
            "flipped_of_each_seed": flipped.sum(axis=1).tolist(),
            "mean_absolute_change": round(float(change.mean()), 4),
            "largest_change": round(float(change.max()), 4),
            f"rule_of_bags_of_{BAG}": patient_change(
                rules[few], _read_by_rule(floats, bags[few]), of_patients
            ),
        },
        "bags": {
            name: {
                "mean": _of_bags((means[name] >= DECISION).astype(np.int8), of_patients, name),
                "rule": _of_bags(rules[name], of_patients, name),
            }
            for name in bags
        },
        "selective": {
            **selective_figures(means[few], of_patients, np.arange(len(of_patients))),
            "frames": selective_figures(int8s.probabilities, labels, patients),
            "certified": certified_figures(means["all"], of_patients),
        },
        "conformal": {
            "alpha": ALPHA,
            **{name: conformal_figures(means[name], of_patients, folds) for name in (few, "all")},
        },
        "simulated": simulated_figures(**_usual(int8s)),
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


def _average(side: Table, bags: Ints) -> Floats:
    """Return ``(seeds * draws, patients)`` plain means of bags."""
    return np.concatenate([average_bags(row, bags) for row in side.probabilities])


def _read_by_rule(side: Table, bags: Ints) -> Readings:
    """Return ``(seeds * draws, patients)`` readings by the rule, t and k as each network's were chosen."""
    found = np.zeros((len(side.probabilities), *bags.shape[:2]), np.int8)
    for row, thresholds, top_ks, readings in zip(
        side.probabilities, side.thresholds, side.top_ks, found, strict=True
    ):
        for threshold, top_k in {*zip(thresholds.tolist(), top_ks.tolist(), strict=True)}:
            asked = np.unique(side.patients[(thresholds == threshold) & (top_ks == top_k)])
            read = read_bags(row, bags[:, asked], groups=side.groups, thresholds=[threshold], top_ks=[top_k])
            readings[:, asked] = read[..., 0, 0]
    return np.concatenate(found)


def _of_bags(readings: Readings, labels: Flags, bag: str) -> dict[str, Figure]:
    """Return `patient_figures`; of whole patients, and where no bag errs, the error rate of the worst row.

    Its interval is Clopper and Pearson's: a bootstrap of no errors would find none at all.
    """
    found, wrong = patient_figures(readings, labels), int((readings != labels).sum(axis=1).max())
    if bag == "all" or not wrong:
        value, (low, high) = wrong / len(labels), clopper_pearson(wrong, len(labels))
        found["error_rate"] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return found


def _usual(side: Table) -> dict[str, Any]:
    """Return the commonest t and k."""
    chosen, times = np.unique(
        np.stack([side.thresholds.ravel(), side.top_ks.ravel()]), axis=1, return_counts=True
    )
    threshold, top_k = chosen[:, times.argmax()].tolist()
    return {"threshold": threshold, "top_k": int(top_k)}
