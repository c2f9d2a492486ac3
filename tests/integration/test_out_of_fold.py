"""The committed out-of-fold tables bear out every figure that the package and its card state."""

import csv
from pathlib import Path

import numpy as np
import pytest

from models.grid import draw_bags
from models.outcome import figures, read_table
from models.package import load_package
from models.patient import FramePrediction, read_patient, vote_once
from pipeline.frame import FrameSource

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FLOATS, INTEGERS = RESULTS / "oof_float.csv", RESULTS / "oof_int8.csv"


def test_every_stated_figure_is_recomputed_from_the_tables() -> None:
    stated = load_package(None).manifest["metrics"]
    found = figures(read_table(FLOATS), read_table(INTEGERS))
    assert {name: stated[name] for name in found} == found


def test_auc_and_mcc_by_other_means_are_the_same() -> None:
    """The figures' own code may be wrong twice in one way."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra `train`, is needed")
    with INTEGERS.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    aucs, coefficients = [], []
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        truths = [row["label"] == "ibd" for row in of_seed]
        logits = [(float(r["margin"]) + float(r["offset"])) / float(r["temperature"]) for r in of_seed]
        aucs.append(metrics.roc_auc_score(truths, logits))
        coefficients.append(metrics.matthews_corrcoef(truths, np.array(logits) >= 0))
    stated = load_package(None).manifest["metrics"]["frame_int8"]
    assert stated["auc"]["value"] == pytest.approx(np.mean(aucs), abs=1e-4)
    assert stated["mcc"]["value"] == pytest.approx(np.mean(coefficients), abs=1e-4)


def test_each_networks_choices_are_one_and_no_patient_is_in_two_folds() -> None:
    with INTEGERS.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    chosen = {(r["seed"], r["fold"], r["temperature"], r["offset"], r["threshold"], r["top_k"]) for r in rows}
    assert len(chosen) == len({row["seed"] for row in rows}) * 5
    folds = {(row["patient"], row["fold"]) for row in rows}
    assert len(folds) == len({row["patient"] for row in rows})


def test_a_bag_is_read_as_the_node_reads_an_exam() -> None:
    """Arrays read the bags here, values in the node; near-duplicates of a scene vote once in both."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra `train`, is needed")
    table, silent, coefficients = read_table(INTEGERS), 0, []
    bags = draw_bags(table.patients, 3)
    truths = [bool(table.labels[table.patients == patient][0]) for patient in range(bags.shape[1])]
    for seed, probabilities in enumerate(table.probabilities.tolist()):
        frames = [
            FramePrediction(FrameSource(f"{row:04}", 1), "", p, max(p, 1 - p))
            for row, p in enumerate(probabilities)
        ]
        for draw in bags.tolist():
            calls = []
            for rows, truth in zip(draw, truths, strict=True):
                held = vote_once([frames[row] for row in rows], [int(table.groups[row]) for row in rows])
                t, k = float(table.thresholds[seed, rows[0]]), int(table.top_ks[seed, rows[0]])
                reading = read_patient(held, threshold=t, top_k=k).reading
                silent += reading == "unpredicted"
                calls.append(not truth if reading == "unpredicted" else reading == "ibd")
            coefficients.append(metrics.matthews_corrcoef(truths, calls))
    stated = load_package(None).manifest["metrics"]["bags"]["3"]["rule"]
    assert stated["mcc_unpredicted_wrong"]["value"] == pytest.approx(np.mean(coefficients), abs=1e-4)
    assert stated["unpredicted"]["value"] == pytest.approx(
        silent / (len(coefficients) * len(truths)), abs=1e-4
    )
