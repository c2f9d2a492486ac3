"""An exam as a processor would write it: real mucosa behind one border, with text that stands still."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import find_content_area
from pipeline.clean.crop import view_box
from pipeline.frame import Box, Pixels
from tests.overlays import FONTS, Line, paint

ROWS, COLUMNS = 576, 720
SHAPES = ("octagon", "circle", "rectangle", "full")


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """Frames ``(576, 720, 3)`` uint8 RGB in order, and the box of every string on each."""

    frames: list[Pixels]
    strings: list[tuple[Box, ...]]


def paint_exam(tissue: list[Pixels], count: int, *, change_every: int = 0, seed: int = 0) -> Exam:
    """Return an exam over the given border-free tissue, another piece of it on every frame.

    Its clock ticks; everything else of the overlay stands still, until, where `change_every` is given, the
    processor changes border, font and places.
    """
    rng = np.random.default_rng(seed)
    frames: list[Pixels] = []
    strings: list[tuple[Box, ...]] = []
    inside, lines = _layout(rng, 0)
    for number in range(count):
        if change_every and number and number % change_every == 0:
            inside, lines = _layout(rng, number // change_every)
        piece = tissue[number % len(tissue)]
        if number // len(tissue) % 2:
            piece = piece[:, ::-1]
        frame = np.where(inside[..., None], cv2.resize(piece, (COLUMNS, ROWS)), 4).astype(np.uint8)
        clock = Line(
            f"00:{number // 60 % 60:02d}:{number % 60:02d}",
            lines[0].x,
            lines[0].y,
            lines[0].font,
            lines[0].size,
        )
        painted = paint(frame, [clock, *lines[1:]], jpeg_quality=90)
        frames.append(painted.pixels)
        strings.append(painted.boxes)
    return Exam(frames, strings)


def _layout(rng: np.random.Generator, number: int) -> tuple[NDArray[np.bool_], list[Line]]:
    shape = SHAPES[number % len(SHAPES)]
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    left = int(rng.integers(90, 150)) if shape != "full" else 0
    if shape == "circle":
        cv2.circle(mask, ((left + COLUMNS) // 2, ROWS // 2), min(ROWS, COLUMNS - left) // 2 - 4, 1, -1)
    elif shape == "octagon":
        right, cut = COLUMNS - 6, int(rng.integers(60, 130))
        corners = [(left + cut, 6), (right - cut, 6), (right, 6 + cut), (right, ROWS - 6 - cut),
                   (right - cut, ROWS - 6), (left + cut, ROWS - 6),
                   (left, ROWS - 6 - cut), (left, 6 + cut)]  # fmt: skip
        cv2.fillConvexPoly(mask, np.array(corners, np.int32).reshape(-1, 1, 2), 1)
    elif shape == "rectangle":
        mask[8 : ROWS - 8, left : COLUMNS - 8] = 1
    else:
        mask[:] = 1
    font, size = str(rng.choice(FONTS)), int(rng.integers(14, 22))
    tops = 20 + 30 * rng.permutation(8)
    texts = ["", "12/03/2013", "Mira Ostrovan", "ID: 4471208", "Age: 54"]
    lines = [Line(text, 8, int(top), font, size) for text, top in zip(texts, tops, strict=False)]
    lines.append(Line("Zoom x1.5", int(rng.integers(320, 480)), int(rng.integers(440, 520)), font, size))
    return mask.astype(np.bool_), lines


def load_tissue(data: Path, count: int = 220) -> list[Pixels]:
    """Return border-free, text-free squares of real frames: the view that the model would see."""
    pieces: list[Pixels] = []
    for path in sorted((data / "images" / "normal").rglob("*.jpg"))[:count]:
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        area = None if frame is None else find_content_area(frame.astype(np.uint8, copy=False))
        if frame is not None and area is not None:
            x0, y0, x1, y1 = view_box(area.box)
            pieces.append(frame[y0:y1, x0:x1].astype(np.uint8, copy=False))
    return pieces
