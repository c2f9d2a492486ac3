"""Find, in a millisecond, what is written like text: strokes of one height in a row. It cannot read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
"""``(rows, columns)`` uint8; as a mask, 1 where something is, else 0."""

Boxes = NDArray[np.intp]
"""``(n, 4)``: x0, y0, x1, y1, half-open."""

Channels = tuple[Plane, Plane, Plane]
"""Red, green and blue."""

STROKE_SIDE = 9
"""Pixels that a stroke is narrower than; those of 28 px bold letters are 5 wide."""

CONTRAST = 45
"""Green over its surroundings from which a known string has a stroke; green, for mucosa is dark in it and
every colour that processors write in is bright."""

GAPS = (7, 15)
"""Columns that join letters to a line: those of small and those of large letters."""

SHORTEST, TALLEST, NARROWEST, LEAST_ASPECT = 5, 36, 12, 1.2
"""Rows and columns of a line of text of 9 to 28 px, and its columns over its rows."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One contrast at which lines are looked for.

    Attributes
    ----------
    contrast
        Green over its surroundings from which a pixel is of a stroke.
    weights, bias
        A logistic regression on what `_traits` returns: above `CUT` a line is like text.
    """

    contrast: int
    weights: tuple[float, ...]
    bias: float


LOOKS = (
    _Look(45, (-3.30, 5.46, 10.29, 6.77, -16.28, 13.13, 3.17, -10.08), -9.24),
    _Look(110, (-2.23, 5.76, 9.11, 4.41, -18.66, 10.38, 3.29, -13.87), -11.68),
)
CUT = 3.2
"""Fitted on lines found in 157 text-free HyperKvasir frames and in the same with 18 strings painted on each
(`tests/overlays.py`), and held to the 159 others. There 4.4 % of text-free frames have a line above the cut
and 5.0 % of strings none, be they alone on their frame (contrast 45 alone: 6.4 %; 110 alone: 18 %; 35, 60 and
110 together: 4.3 % in half as much time again)."""


def stroke_height(green: Plane) -> Plane:
    """Return how much greener each pixel is than its surroundings, 0 to 255, where it is of a thin thing.

    The frame's short side is 576 pixels or less.
    """
    square = np.ones((STROKE_SIDE, STROKE_SIDE), np.uint8)
    height: Plane = cv2.morphologyEx(green, cv2.MORPH_TOPHAT, square)  # type: ignore[assignment]
    return height


def strokes_at(height: Plane, contrast: int = CONTRAST) -> Plane:
    """Return 1 where a stroke is."""
    plane: Plane = cv2.threshold(height, contrast, 1, cv2.THRESH_BINARY)[1]  # type: ignore[assignment]
    return plane


def text_like(channels: Channels, height: Plane, searched: Plane) -> Boxes:
    """Return the rectangles, within a plane, of strokes that stand together as letters do."""
    redness = cv2.subtract(channels[0], channels[1])
    found: list[Boxes] = [np.zeros((0, 4), np.intp)]
    for look in LOOKS:
        strokes = strokes_at(height, look.contrast) & searched
        boxes = _lines(strokes)
        if len(boxes):
            likeness = _traits(strokes, boxes, height=height, redness=redness) @ look.weights + look.bias
            found.append(np.asarray(boxes[likeness > CUT], np.intp))
    return np.concatenate(found)


def _lines(strokes: Plane) -> Boxes:
    found: list[Sequence[int]] = []
    for gap in GAPS:
        joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, gap), np.uint8))
        contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found += map(cv2.boundingRect, contours)
    x, y, columns, rows = np.array(found, np.intp).reshape(-1, 4).T
    fits = (rows >= SHORTEST) & (rows <= TALLEST) & (columns >= np.maximum(NARROWEST, LEAST_ASPECT * rows))
    return np.asarray(np.stack([x, y, x + columns, y + rows], axis=1)[fits], np.intp)


def _traits(strokes: Plane, boxes: Boxes, *, height: Plane, redness: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``(n, 8)``, what tells letters from reflections, which are ragged and end on no common line.

    How high and how long the line is, how many strokes it has across and down, how densely, how far their
    lower ends stand in one row, their contrast, and how much redder they are than green.
    """
    columns, rows = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ends = cv2.integral(cv2.subtract(strokes[:-1], strokes[1:]))
    area = _sums(cv2.integral(strokes), boxes)
    across = 1 + _sums(cv2.integral(cv2.subtract(strokes[:, 1:], strokes[:, :-1])), boxes - (1, 0, 1, 0))
    down = 1 + _sums(ends, boxes)
    each = np.clip(boxes[:, 1:2] + np.arange(TALLEST + 1), 0, np.minimum(boxes[:, 3:], len(ends) - 1))
    down_to_row = ends[each, boxes[:, 2:3]] - ends[each, boxes[:, :1]]
    return np.stack(
        [
            np.log(rows),
            np.log(columns / rows),
            np.log(across / columns),
            np.log(down / columns),
            area / (columns * rows),
            np.diff(down_to_row, axis=1).max(axis=1) / down,
            np.log(_sums(cv2.integral(cv2.multiply(height, strokes)), boxes) / area),
            _sums(cv2.integral(cv2.multiply(redness, strokes)), boxes) / area / 100,
        ],
        axis=1,
    )


def _sums(total: NDArray[Any], boxes: Boxes) -> NDArray[np.float64]:
    """Return the sum over each box, of an integral image."""
    rows, columns = total.shape
    x0, y0, x1, y1 = np.clip(boxes, 0, (columns - 1, rows - 1, columns - 1, rows - 1)).T
    return np.asarray(total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0], np.float64)
