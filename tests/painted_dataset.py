"""A small data set of painted frames: textured tissue, paler where healthy, in JPEG files beside a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.frame import Pixels

BASE = {"healthy": (200, 125, 100), "ibd": (165, 70, 60)}
ROWS, COLUMNS = 240, 280


def paint_tissue(label: str, seed: int) -> Pixels:
    """Return ``(240, 280, 3)`` uint8 RGB of unevenly lit tissue; a seed never gives the same twice."""
    random = np.random.default_rng(seed)
    coarse = cv2.resize(random.normal(0, 25, (12, 16)), (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(random.normal(0, 40, (ROWS, COLUMNS)), (0, 0), 1.0)
    shade = (coarse + fine)[..., np.newaxis] * (1.0, 0.8, 0.7)
    painted: Pixels = np.clip(np.array(BASE[label]) + shade, 30, 250).astype(np.uint8)
    return painted


def write_dataset(folder: Path, *, patients: int = 4, frames: int = 3) -> Path:
    """Write `frames` frames of each patient, healthy and ibd by turns; return the table ``frames.csv``."""
    rows = []
    for number in range(patients * frames):
        patient = number // frames
        label = ("healthy", "ibd")[patient % 2]
        name = f"p{patient}/{number:02d}.jpg"
        (folder / f"p{patient}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), paint_tissue(label, number)[..., ::-1])
        rows.append((f"P{patient}", label, name, f"scene-{patient}", str(patient % 2)))
    return write_rows(folder / "frames.csv", [("patient", "label", "path", "group", "fold"), *rows])


def write_rows(table: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write a table, its header the first row, and return it."""
    with table.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return table


def read_rows(table: Path) -> list[dict[str, str]]:
    """Read a table with the standard library alone."""
    with table.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
