"""What one package gains over another: two evaluations of the same frames, held against each other.

The bootstrap is paired: each resample of patients is judged by both.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from models.dataset import CLASSES
from models.errors import ModelError
from models.figures import frame_change, patient_change
from models.patient import DECISION

READINGS = {"unpredicted": -1, "healthy": 0, "ibd": 1}


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Return what frames and patients gain from `before` to `after`, two folders that ``evaluate`` wrote.

    Raises
    ------
    ModelError
        A folder's tables cannot be read, or the two are not of the same frames, labels and patients.
    """
    frames = [_rows(folder / "frames.csv", "path") for folder in (before, after)]
    patients = [_rows(folder / "patients.csv", "patient") for folder in (before, after)]
    for tables in (frames, patients):
        one, other = ({key: row["label"] for key, row in table.items()} for table in tables)
        if one != other:
            raise ModelError(
                f"{after}: the frames, patients and labels of {before} were expected, others were found; "
                "evaluate both packages on one table"
            )
    kept = [path for path, row in frames[0].items() if row["kept"] == frames[1][path]["kept"] == "true"]
    was, now = (np.array([float(table[path]["probability"]) for path in kept]) for table in frames)
    labels = np.array([frames[0][path]["label"] == CLASSES[1] for path in kept])
    numbers = np.unique([frames[0][path]["patient"] for path in kept], return_inverse=True)[1]
    said = [np.array([[READINGS[row["reading"]] for row in table.values()]], np.int8) for table in patients]
    truths = np.array([row["label"] == CLASSES[1] for row in patients[0].values()])
    return {
        "frames": len(kept),
        "frames_kept_by_one_alone": sum(row["kept"] != frames[1][p]["kept"] for p, row in frames[0].items()),
        "frames_flipped": int(((was >= DECISION) != (now >= DECISION)).sum()),
        "patients": len(truths),
        "patients_read_otherwise": int((said[0] != said[1]).sum()),
        "frame": frame_change(now, was, labels, numbers),
        "patient": patient_change(said[1], said[0], truths),
    }


def describe(found: dict[str, Any]) -> str:
    """Return the gains as a short table."""
    lines = [
        f"{part + ' ' + name:<24}{figure['value']:+.4f}  ({figure['low']:+.4f} to {figure['high']:+.4f})"
        for part in ("frame", "patient")
        for name, figure in found[part].items()
    ]
    otherwise = f"{found['frames_flipped']} of {found['frames']} frames"
    otherwise += f" and {found['patients_read_otherwise']} of {found['patients']} patients"
    return "\n".join([*lines, f"{otherwise} are read otherwise"]) + "\n"


def _rows(file: Path, key: str) -> dict[str, dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return {row[key]: row for row in csv.DictReader(lines)}
    except (OSError, KeyError) as error:
        raise ModelError(f"{file}: a table that evaluate writes was expected: {error}") from error
