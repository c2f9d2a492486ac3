"""What composites are made of: frames without and masks of instruments, no scene or outline in two parts.

Frames are grouped before they are split: by file name (some frames come in two sizes), by the near-duplicate
group of ``pseudo_patients.csv`` and by likeness of a small picture. Masks are grouped by overlap, for many
were drawn on neighbouring frames of one film.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from models.errors import ModelError
from pipeline.clean.content_area import find_content_area
from pipeline.frame import Pixels

Part = Literal["train", "validation", "test"]
Mask = NDArray[np.bool_]

FRAME_FOLDERS = (
    "matched_256/normal", "matched_256/uc", "images/normal/bbps-2-3", "images/normal/normal-cecum",
    "images/other/bbps-0-1", "images/other/impacted-stool", "images/other/polyp",
)  # fmt: skip
MASK_FOLDER = "instruments/kvasir_instrument_masks_only"
PAIR_FOLDERS = ("instruments/images", "instruments/figure_crops")

WITH_INSTRUMENT = Path(__file__).with_name("frames_with_instruments.txt")
"""Stems of frames of those folders in which a tool or the endoscope itself is seen, found by looking."""

LIKENESS = 0.97
"""Correlation of two frames' 16x16 grey pictures, less their means, from which they are one scene."""

OVERLAP = 0.75
"""Intersection over union from which two masks, shrunken to 48x48, are one shape."""

MIDDLE = 127
"""Level above which a mask's pixel is an instrument; the masks hold 0 and 255."""

PARTS: tuple[tuple[Part, float], ...] = (("train", 0.62), ("validation", 0.70), ("test", 1.0))
"""Upper ends of the parts on the line that a group's digest is thrown on."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A real frame without instruments, and where its content is.

    Attributes
    ----------
    pixels, content
        ``(rows, columns, 3)`` uint8 RGB and ``(rows, columns)`` bool.
    """

    name: str
    part: Part
    pixels: Pixels
    content: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An instrument's mask, ``(rows, columns)`` bool, as drawn by the makers of Kvasir-Instrument."""

    name: str
    part: Part
    mask: Mask


def part_of(group: str) -> Part:
    """Return the part that a group of frames or masks belongs to, by its name alone."""
    thrown = int.from_bytes(hashlib.sha256(group.encode()).digest()[:6]) / 2**48
    return next(part for part, end in PARTS if thrown < end)


def group_alike(alike: NDArray[np.bool_], names: Sequence[str]) -> list[str]:
    """Return, for each of N items, the least name among those ``(N, N)`` `alike` links it to, over steps."""
    order = sorted(set(names))
    ranks = np.array([order.index(name) for name in names])
    while True:
        least = np.where(alike, ranks, len(order)).min(axis=1)
        if (least == ranks).all():
            return [order[rank] for rank in ranks]
        ranks = least


def load_scenes(data: Path, *, rows: int, columns: int) -> list[Scene]:
    """Decode every instrument-free frame, at one size, and say which part it belongs to."""
    barred = set(WITH_INSTRUMENT.read_text(encoding="utf-8").split())
    barred |= {file.stem.rpartition("_")[2] for file in (data / PAIR_FOLDERS[0]).iterdir()}
    files = [
        file
        for folder in FRAME_FOLDERS
        for file in sorted((data / folder).glob("*.jpg"))
        if file.stem not in barred
    ]
    with (data / "pseudo_patients.csv").open(newline="", encoding="utf-8") as lines:
        known = {Path(row["path"]).stem: row["near_duplicate_group"] for row in csv.DictReader(lines)}
    frames = [read_frame(file) for file in files]
    small = np.stack([_fingerprint(frame) for frame in frames])
    names = [known.get(file.stem, file.stem) for file in files]
    labels = np.unique(names, return_inverse=True)[1]
    groups = group_alike((small @ small.T >= LIKENESS) | (labels[:, None] == labels), names)
    return [
        make_scene(str(file.relative_to(data)), part_of(group), frame, rows=rows, columns=columns)
        for file, frame, group in zip(files, frames, groups, strict=True)
    ]


def read_frame(file: Path) -> Pixels:
    """Decode a JPEG file to ``(rows, columns, 3)`` uint8 RGB."""
    pixels: Pixels = simplejpeg.decode_jpeg(file.read_bytes(), colorspace="RGB")
    return pixels


def make_scene(name: str, part: Part, frame: Pixels, *, rows: int, columns: int) -> Scene:
    """Bring a frame to a size and find its content."""
    smaller = frame.shape[0] > rows
    resized = cv2.resize(
        frame, (columns, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    area = find_content_area(frame)
    mask = np.ones(frame.shape[:2], np.uint8) if area is None else area.mask.astype(np.uint8)
    content = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST) > 0
    return Scene(name, part, np.asarray(resized, np.uint8), content)


def _fingerprint(frame: Pixels) -> NDArray[np.float32]:
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    flat = grey.astype(np.float32).ravel()
    flat -= flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1.0)


def load_shapes(data: Path, *, rows: int, columns: int) -> list[Shape]:
    """Read every instrument mask, at one size, and say which part it belongs to."""
    files = sorted((data / MASK_FOLDER).glob("*.png"))
    masks = [read_mask(file) for file in files]
    small = np.stack([_shrunken(mask, 48, 48).ravel() for mask in masks])
    counts = small.sum(axis=1)
    both = small.astype(np.int32) @ small.T.astype(np.int32)
    united = np.maximum(counts[:, None] + counts - both, 1)
    alike = (both >= OVERLAP * united) | np.eye(len(files), dtype=np.bool_)
    groups = group_alike(alike, [file.stem for file in files])
    return [
        make_shape(file.stem, part_of(group), mask, rows=rows, columns=columns)
        for file, mask, group in zip(files, masks, groups, strict=True)
    ]


def read_mask(file: Path) -> Mask:
    """Read a mask of black and white to ``(rows, columns)`` bool."""
    levels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if levels is None:
        raise ModelError(f"{file}: a readable mask was expected; restore the folder of data")
    return np.asarray(levels > MIDDLE)


def make_shape(name: str, part: Part, mask: Mask, *, rows: int, columns: int) -> Shape:
    """Bring a mask to a size."""
    return Shape(name, part, _shrunken(mask, rows, columns))


def _shrunken(mask: Mask, rows: int, columns: int) -> Mask:
    levels = cv2.resize(mask.astype(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(levels > MIDDLE)
