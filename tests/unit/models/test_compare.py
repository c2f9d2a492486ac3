"""Two packages on the same frames: what one gains, and a refusal where the frames are not the same."""

from pathlib import Path

import numpy as np
import pytest

from models.compare import compare, describe
from models.errors import ModelError
from models.evaluate import FRAME_COLUMNS, PATIENT_COLUMNS
from tests.painted_dataset import write_rows


def write_evaluation(folder: Path, probabilities: list[list[float]]) -> Path:
    """Write what evaluate would of patients, healthy and ibd by turns, read by the mean of their frames."""
    folder.mkdir()
    frames: list[tuple[str, ...]] = [FRAME_COLUMNS]
    patients: list[tuple[str, ...]] = [PATIENT_COLUMNS]
    for number, given in enumerate(probabilities):
        label = ("healthy", "ibd")[number % 2]
        for place, p in enumerate(given):
            frames.append((f"{number}-{place}", f"P{number}", label, str(p), str(max(p, 1 - p)), "true", ""))
        reading = "ibd" if np.mean(given) >= 0.5 else "healthy"
        patients.append((f"P{number}", label, reading, "", "", "", ""))
    write_rows(folder / "frames.csv", frames)
    write_rows(folder / "patients.csv", patients)
    return folder


WORSE = [[0.1, 0.6], [0.9, 0.4], [0.2, 0.1], [0.8, 0.3], [0.7, 0.6], [0.9, 0.8]]
BETTER = [[0.1, 0.2], [0.9, 0.6], [0.2, 0.1], [0.8, 0.7], [0.3, 0.4], [0.9, 0.8]]


def test_a_better_package_gains_and_the_other_way_round_it_loses_as_much(tmp_path: Path) -> None:
    worse, better = write_evaluation(tmp_path / "a", WORSE), write_evaluation(tmp_path / "b", BETTER)
    found, back = compare(worse, better), compare(better, worse)
    assert found["frames_flipped"] == 5
    assert found["patients_read_otherwise"] == 1
    mcc = (4 * 3 - 3 * 2) / np.sqrt(7 * 6 * 6 * 5)  # of the worse: 4 of 6 positives, 3 of 6 negatives right
    assert found["frame"]["mcc"]["value"] == pytest.approx(1 - mcc, abs=1e-4)
    assert found["frame"]["auc"]["value"] == pytest.approx(-back["frame"]["auc"]["value"])
    assert "1 of 6 patients are read otherwise" in describe(found)


def test_a_package_gains_nothing_over_itself(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", WORSE)
    found = compare(folder, folder)
    assert found["frames_flipped"] == found["patients_read_otherwise"] == 0
    assert {
        value for part in ("frame", "patient") for each in found[part].values() for value in each.values()
    } == {0}


def test_evaluations_of_other_frames_are_refused(tmp_path: Path) -> None:
    one, other = write_evaluation(tmp_path / "a", WORSE), write_evaluation(tmp_path / "b", WORSE[:4])
    with pytest.raises(ModelError, match="one table"):
        compare(one, other)
    with pytest.raises(ModelError, match="a table that evaluate writes"):
        compare(one, tmp_path)
