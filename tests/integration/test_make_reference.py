"""The command that makes the reference package, on a handful of frames."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.classifier import Classifier
from models.package import load_package

pytest.importorskip("onnx", reason="the extra `reference` (onnx) is needed to make a package")
pytest.importorskip("sklearn", reason="the extra `reference` (scikit-learn) is needed to make a package")

FRAMES_A_PATIENT = 4


@pytest.fixture
def few_frames(data_dir: Path, tmp_path: Path) -> Path:
    """Return a data folder with a patient of each label in each fold, the first frames of each."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("matched_256", "weights"):
        (folder / name).symlink_to(data_dir / name)
    with (data_dir / "pseudo_patients.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    taken: dict[tuple[str, str], str] = {}
    for row in rows:
        taken.setdefault((row["cv_fold"], row["label"]), row["pseudo_patient_id"])
    with (folder / "pseudo_patients.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.DictWriter(lines, rows[0].keys())
        table.writeheader()
        for patient in sorted(taken.values()):
            table.writerows([row for row in rows if row["pseudo_patient_id"] == patient][:FRAMES_A_PATIENT])
    return folder


@pytest.mark.data
def test_the_command_makes_a_package_that_loads_and_twice_the_same_bytes(
    few_frames: Path, tmp_path: Path
) -> None:
    """Whoever doubts the committed file can make it again; a set's order may not change it."""
    folders = [tmp_path / "once", tmp_path / "again"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "models.make_reference", "--data", few_frames, "--out", out],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        for seed, out in enumerate(folders)
    ]
    assert [run.wait(timeout=280) for run in runs] == [0, 0]
    once, again = ({file.name: file.read_bytes() for file in out.iterdir()} for out in folders)
    assert once.keys() == {"model.onnx", "model.json", "MODEL_CARD.md"}
    assert [name for name in once if once[name] != again[name]] == []
    package = load_package(folders[0])
    assert package.manifest["metrics"]["frames"] == 10 * FRAMES_A_PATIENT
    Classifier(package)
