"""Figures, tables and warnings of an evaluation, against arithmetic written out here frame by frame."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.dataset import Dataset, DatasetError, load_dataset
from models.evaluate import describe, measure, predict, warnings_of, write_predictions
from models.ood import learn_rarity
from models.package import load_package
from models.run_folder import to_json, write_run
from tests.foreign_colours import tell_foreign
from tests.painted_dataset import read_rows, write_rows

Write = Callable[..., Path]
Outcomes = list[Any]

SHADES = {
    "A": (90, 118, 160),
    "B": (121, 123, 110),
    "C": (100, 90, 119),
    "D": (180, 170, 80),
    "E": (0,),
    "F": (121,),
}
"""Each patient's frames, flat views of one grey; 0 stands for one that the cleaning refused. The first two
of C are so near that they vote once."""

LABELS = {"A": "healthy", "B": "healthy", "C": "healthy", "D": "ibd", "E": "ibd", "F": "ibd"}
ECE_BINS = 15
TEMPERATURE, OFFSET = 20.0, -240.0
"""The small network's margin is twice the grey: from 120 on a frame is read as ibd."""


@pytest.fixture
def package(write_package: Write) -> Path:
    calibration = {"temperature": TEMPERATURE, "offset": OFFSET}
    return write_package(calibration=calibration, threshold=0.6, top_k=2)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [("patient", "label", "path", "group")]
    for patient, shades in SHADES.items():
        for number in range(len(shades)):
            name = f"{patient}{number}"
            (tmp_path / name).write_text(name)
            rows.append((patient, LABELS[patient], name, name))
    return load_dataset(write_rows(tmp_path / "table.csv", rows), tmp_path)


@pytest.fixture
def outcomes() -> Outcomes:
    return [
        np.full((224, 224, 3), shade, np.uint8) if shade else "blurred"
        for shades in SHADES.values() for shade in shades
    ]  # fmt: skip


def evaluated(package: Path, dataset: Dataset, outcomes: Outcomes, out: Path) -> dict[str, Any]:
    opened = load_package(package)
    said = predict(opened, dataset, outcomes)
    write_predictions(out, dataset, said)
    metrics: dict[str, Any] = json.loads(to_json(measure(opened, dataset, said)))
    return metrics


def coefficient(pairs: list[tuple[bool, bool]]) -> float:
    """Return Matthews correlation of (called, truth) as Pearson's r, which it is."""
    called, truth = np.array(pairs, float).T
    return float(np.corrcoef(called, truth)[0, 1])


def test_frames_are_read_from_one_half_on_and_their_figures_follow(
    package: Path, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    metrics = evaluated(package, dataset, outcomes, tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "frames.csv")
    assert list(rows[0]) == ["path", "patient", "label", "probability", "confidence", "kept", "reason"]
    (refused,) = (row for row in rows if row["kept"] == "false")
    assert [*refused.values()] == ["E0", "E", "ibd", "", "", "false", "blurred"]
    read = [row for row in rows if row["kept"] == "true"]
    shades = [shade for shades in SHADES.values() for shade in shades if shade]
    for row, shade in zip(read, shades, strict=True):
        probability = 1 / (1 + math.exp(-(2 * shade + OFFSET) / TEMPERATURE))
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
        assert float(row["confidence"]) == pytest.approx(max(probability, 1 - probability), abs=1e-6)
        assert (float(row["probability"]) >= 0.5) == (shade >= 120)
    given = [(float(row["probability"]), row["label"] == "ibd") for row in read]
    won = [
        (p > q) + 0.5 * (p == q)
        for p, is_ibd in given if is_ibd for q, also_ibd in given if not also_ibd
    ]  # fmt: skip
    assert metrics["frame"]["auc"]["value"] == pytest.approx(sum(won) / len(won), abs=1e-4)
    expected = coefficient([(p >= 0.5, is_ibd) for p, is_ibd in given])
    assert metrics["frame"]["mcc"]["value"] == pytest.approx(expected, abs=1e-4)
    gap = 0.0
    for each in range(ECE_BINS):
        inside = [(p, is_ibd) for p, is_ibd in given if min(int(p * ECE_BINS), ECE_BINS - 1) == each]
        gap += abs(sum(is_ibd - p for p, is_ibd in inside)) / len(given)
    assert metrics["frame"]["ece"]["value"] == pytest.approx(gap, abs=1e-4)


def test_patients_are_read_by_the_packages_rule_and_one_without_a_reading_is_wrong(
    package: Path, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    """A model that stays silent on what is hard would else look better than one that answers."""
    metrics = evaluated(package, dataset, outcomes, tmp_path / "out")
    rows = {row["patient"]: row for row in read_rows(tmp_path / "out" / "patients.csv")}
    assert list(rows["A"]) == ["patient", "label", "reading", "reason", "probability", "frames", "used"]
    assert {patient: (row["reading"], row["reason"]) for patient, row in rows.items()} == {
        "A": ("ibd", ""), "B": ("healthy", ""), "C": ("healthy", ""), "D": ("ibd", ""),
        "E": ("unpredicted", "no_frames"), "F": ("unpredicted", "below_threshold"),
    }  # fmt: skip
    assert [(row["frames"], row["used"]) for row in rows.values()] == [
        ("3", "2"), ("3", "1"), ("3", "1"), ("3", "2"), ("1", "0"), ("1", "0"),
    ]  # fmt: skip
    high, low = (1 / (1 + math.exp(-(2 * shade + OFFSET) / TEMPERATURE)) for shade in (160, 90))
    expected = (high * high + (1 - low) * low) / (high + 1 - low)
    assert float(rows["A"]["probability"]) == pytest.approx(expected, abs=1e-6)
    readings = [(row["reading"], row["label"] == "ibd") for row in rows.values()]
    counted = [((said == "ibd") if said != "unpredicted" else not truth, truth) for said, truth in readings]
    found = {name: figure["value"] for name, figure in metrics["patient"].items()}
    assert found == pytest.approx(
        {
            "mcc": coefficient(counted),
            "accuracy": 3 / 6,
            "f1": 2 * 1 / (2 * 1 + 1 + 2),
            "sensitivity": 1 / 3,
            "specificity": 2 / 3,
            "error_rate": 3 / 6,
            "mcc_of_predicted": coefficient([(said == "ibd", truth) for said, truth in readings[:4]]),
            "unpredicted": 2 / 6,
        },
        abs=1e-4,
    )
    interval = metrics["patient"]["accuracy"]  # of 6 fair coins: 0 heads in 1.6 %, at most 1 in 10.9 %
    assert (interval["low"], interval["high"]) == pytest.approx((1 / 6, 5 / 6), abs=1e-4)
    low, high = metrics["patient"]["error_rate"]["low"], metrics["patient"]["error_rate"]["high"]
    for chance in (1 - low, high):  # the exact bounds leave 3 or fewer of 6 a chance of 2.5 %
        assert sum(math.comb(6, n) * chance**n * (1 - chance) ** (6 - n) for n in range(4)) == pytest.approx(
            0.025, abs=1e-3
        )


def test_a_foreign_frame_keeps_its_probability_and_has_no_vote(
    package: Path, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    """Of D's shades only 80 is among those learnt from: alone it calls D healthy."""
    evaluated(package, dataset, outcomes, tmp_path / "before")
    known = [view for view in outcomes if not isinstance(view, str) and view[0, 0, 0] < 140]
    tell_foreign(package, learn_rarity(np.stack(known)), threshold=5.0)
    metrics = evaluated(package, dataset, outcomes, tmp_path / "after")
    before, after = (read_rows(tmp_path / name / "frames.csv") for name in ("before", "after"))
    assert [row["probability"] for row in before] == [row["probability"] for row in after]
    assert {row["path"]: (row["kept"], row["reason"]) for row in after if row["reason"]} == {
        **dict.fromkeys(("A2", "D0", "D1"), ("true", "out_of_distribution")), "E0": ("false", "blurred"),
    }  # fmt: skip
    patients = {row["patient"]: row for row in read_rows(tmp_path / "after" / "patients.csv")}
    assert (patients["D"]["reading"], patients["D"]["used"]) == ("healthy", "1")
    assert metrics["counts"]["out_of_distribution"] == 3
    assert "13 of 14 frames read (3 out of distribution, without a vote), 1 blurred" in describe(metrics)


def test_everything_is_counted_and_named(
    package: Path, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    metrics = evaluated(package, dataset, outcomes, tmp_path / "out")
    assert metrics["counts"] == {
        "frames": 14, "kept": 13, "rejected": {"blurred": 1}, "frames_of_label": {"healthy": 9, "ibd": 5},
        "patients": 6, "patients_of_label": {"healthy": 3, "ibd": 3}, "unpredicted": 2,
            "out_of_distribution": 0,
    }  # fmt: skip
    assert metrics["data_digest"] == dataset.digest
    assert metrics["package"]["digest"] == hashlib.sha256((package / "model.json").read_bytes()).hexdigest()
    said = describe(metrics)
    assert said.startswith("tiny 1: 13 of 14 frames read, 1 blurred; 6 patients, 2 unpredicted\n")
    assert "patient accuracy         0.500 (0.167 to 0.833)\n" in said


def test_frames_seen_in_training_are_counted_and_warned_of(
    write_package: Write, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    """Figures on frames that the network was fitted to say how well it remembers."""
    listed = "".join(hashlib.sha256(name).hexdigest() + "\n" for name in (b"A0", b"D2", b"of another set"))
    folder = write_package(training_data={"frames": "frames.sha256"})
    manifest = json.loads((folder / "model.json").read_text())
    manifest["files"]["frames.sha256"] = hashlib.sha256(listed.encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(manifest))
    (folder / "frames.sha256").write_text(listed)
    metrics = evaluated(folder, dataset, outcomes, tmp_path / "out")
    assert metrics["in_training"] == 2
    assert warnings_of(metrics)[0].startswith("2 of 14 frames were in training")


def test_a_package_that_names_no_training_frames_is_warned_of(
    package: Path, dataset: Dataset, outcomes: Outcomes, tmp_path: Path
) -> None:
    metrics = evaluated(package, dataset, outcomes, tmp_path / "out")
    assert metrics["in_training"] is None
    assert warnings_of(metrics) == [
        "the package does not say which frames it was trained with; these may be among them"
    ]


@pytest.mark.parametrize(
    ("lost", "count", "figure"), [("ibd", 5, "sensitivity"), ("healthy", 9, "specificity")]
)
def test_what_one_label_alone_cannot_tell_is_not_told(
    package: Path, dataset: Dataset, tmp_path: Path, lost: str, count: int, figure: str
) -> None:
    """Of the other label no frame is left: AUC and MCC of frames have no meaning, and JSON knows no NaN."""
    view = np.full((224, 224, 3), 90, np.uint8)
    outcomes = ["undecodable" if frame.label == lost else view for frame in dataset.frames]
    metrics = evaluated(package, dataset, outcomes, tmp_path / "out")
    assert metrics["frame"] is None
    assert metrics["patient"][figure]["value"] == 0
    assert warnings_of(metrics)[1:] == [
        f"{count} of 14 frames could not be decoded",
        "no figures of single frames: some of both labels are needed",
    ]


def test_a_patient_of_two_labels_is_refused(package: Path, tmp_path: Path) -> None:
    rows = [("patient", "label", "path", "group"), ("A", "ibd", "a", "g"), ("A", "healthy", "b", "g")]
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    dataset = load_dataset(write_rows(tmp_path / "table.csv", rows), tmp_path)
    with pytest.raises(
        DatasetError, match="b: the label of its patient's other frames was expected, healthy"
    ):
        predict(load_package(package), dataset, ())


def test_a_run_folder_holds_settings_figures_versions_and_the_datas_digest(tmp_path: Path) -> None:
    metrics = {"frame": {"auc": {"value": 0.9, "low": 0.8}}, "count": 3, "none": None}
    write_run(tmp_path / "run", settings={"root": tmp_path}, metrics=metrics, data_digest="abc")
    files = {file.name: file.read_text() for file in (tmp_path / "run").iterdir()}
    assert sorted(files) == ["metrics.csv", "metrics.json", "settings.json", "versions.json"]
    assert json.loads(files["settings.json"]) == {"root": str(tmp_path)}
    assert json.loads(files["metrics.json"]) == metrics
    assert files["metrics.csv"].splitlines() == [
        "name,value", "frame.auc.value,0.9", "frame.auc.low,0.8", "count,3", "none,",
    ]  # fmt: skip
    versions = json.loads(files["versions.json"])
    assert (versions["data_digest"], versions["packages"]["numpy"]) == ("abc", np.__version__)
