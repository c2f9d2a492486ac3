"""Find, in a millisecond, what is written like text: strokes of one height in a row. It cannot read."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Pixels

Plane = NDArray[np.uint8]
"""``(rows, columns)`` uint8; as a mask, 1 where something is, else 0."""

Boxes = NDArray[np.intp]
"""``(n, 4)``: x0, y0, x1, y1, half-open."""

Channels = tuple[Plane, Plane, Plane]
"""Red, green and blue."""

WORKING_SHORT_SIDE = 576
"""Rows (or columns) that a larger frame is brought to: there the strokes of its text are as thin."""

STROKE_SIDE = 9
"""Pixels that a stroke is narrower than; those of 28 px bold letters are 5 wide."""

CONTRAST = 45
"""Green over its surroundings from which a known string has a stroke; green, for mucosa is dark in it and
every colour that processors write in is bright."""

GAPS = (7, 15)
"""Columns that join letters to a line: those of small and those of large letters."""

SHORTEST, TALLEST, NARROWEST, LEAST_ASPECT = 5, 36, 12, 1.2
"""Rows and columns of a line of text of 9 to 28 px, and its columns over its rows."""


LOOKS = (45, 70, 110)
"""Contrasts at which lines are looked for: faint letters fall apart at a high one, letters beside a
reflection join it at a low one."""

FORM = (
    (-0.654, -5.675, -6.817, 4.964, -1.937, 3.185, 0.697, -15.882, 11.53, 4.215),
    (0, -2.485, 2.897, -1.097, -0.274, 13.716, -3.185, -0.763, -14.747, 41.553),
    (0, 0, 7.74, -7.41, -2.872, 13.818, -7.066, 17.387, -5.531, 54.662),
    (0, 0, 0, 1.563, 26.482, 12.937, 2.014, -1.899, 5.001, -26.93),
    (0, 0, 0, 0, 32.183, 6.551, 11.354, -23.33, -34.779, -79.863),
    (0, 0, 0, 0, 0, -0.168, -5.989, -15.353, 15.231, 16.905),
    (0, 0, 0, 0, 0, 0, -1.893, 1.648, -2.698, 19.748),
    (0, 0, 0, 0, 0, 0, 0, 5.571, -11.458, 34.211),
    (0, 0, 0, 0, 0, 0, 0, 0, -6.518, 15.016),
    (0, 0, 0, 0, 0, 0, 0, 0, 0, -72.799),
)
"""A logistic regression, of second order, on what `_traits` returns: trait times trait times weight; the last
is 1. One for every look."""

CUT = 4.0
"""Likeness above which a line is like text. Form and cut are fitted on one half of 316 HyperKvasir frames
and held to the other: on lines in their tissue, in the same with 18 strings painted on each
(`tests/overlays.py`), and, at three times the weight, in the overlays of 182 as they were taken (1174
strings that the network sees). Of the other half 2.5 % of text-free frames have a line above the cut; 3.3 %
of painted strings and 7.7 % of real ones have none, be they alone on their frame; 1.7 and 4.7 % have no line
at all (a cut of 3.5: 3.8, 3.0 and 6.3 %). Each half held to the other, at 4.1 % of text-free frames: a form
of the first order a contrast, at 45 and 110 alone and without the upper ends of strokes, loses 4.7 % of
painted strings; one of the second order, with 70, 2.8; with the upper ends 2.4, but 35 % of the real ones,
whose letters are thin and fringed with colour; fitted to these as well 2.8 and 8.9."""


def working_channels(pixels: Pixels) -> Channels:
    """Return the colour planes of an RGB frame at the working scale."""
    rows, columns = pixels.shape[:2]
    scale = WORKING_SHORT_SIDE / min(rows, columns)
    if scale < 1:
        size = (round(columns * scale), round(rows * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    red, green, blue = cv2.split(pixels)
    return red, green, blue  # type: ignore[return-value]


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
    for contrast in LOOKS:
        strokes = strokes_at(height, contrast) & searched
        boxes = _lines(strokes)
        if len(boxes):
            traits = _traits(strokes, boxes, height=height, redness=redness)
            likeness = (traits @ np.array(FORM) * traits).sum(axis=1)
            found.append(np.asarray(boxes[likeness > CUT], np.intp))
    return np.concatenate(found)


def find_lines(pixels: Pixels) -> NDArray[np.float32]:
    """Return ``(n, 4)`` float32, what is like text in an RGB frame: x0, y0, x1, y1 in its pixels."""
    channels = working_channels(pixels)
    height = stroke_height(channels[1])
    boxes = text_like(channels, height, np.ones_like(height))
    stretch = np.array(pixels.shape[1::-1] * 2) / np.array(height.shape[::-1] * 2)
    return np.asarray(boxes * stretch, np.float32)


def _lines(strokes: Plane) -> Boxes:
    found: set[tuple[int, ...]] = set()
    for gap in GAPS:
        joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, gap), np.uint8))
        contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found.update(tuple(cv2.boundingRect(contour)) for contour in contours)
    x, y, columns, rows = np.array(sorted(found), np.intp).reshape(-1, 4).T
    fits = (rows >= SHORTEST) & (rows <= TALLEST) & (columns >= np.maximum(NARROWEST, LEAST_ASPECT * rows))
    return np.asarray(np.stack([x, y, x + columns, y + rows], axis=1)[fits], np.intp)


def _traits(strokes: Plane, boxes: Boxes, *, height: Plane, redness: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``(n, 10)``, what tells letters from reflections, which are ragged and end on no common line.

    How high and how long the line is, how many strokes it has across and down, how densely, how far their
    lower ends stand in one row, their contrast, how much redder they are than green, how far their upper ends
    stand in one row, and 1.
    """
    left = cv2.subtract(strokes[:, 1:], strokes[:, :-1])
    lower, upper = cv2.subtract(strokes[:-1], strokes[1:]), cv2.subtract(strokes[1:], strokes[:-1])
    counted = []
    for x0, y0, x1, y1 in boxes.tolist():  # windows, for they are few: integral images take twice as long
        window = (slice(y0, y1), slice(x0, x1))
        within = strokes[window]
        counted.append(
            (
                cv2.countNonZero(within),
                1 + cv2.countNonZero(left[y0:y1, max(0, x0 - 1) : x1 - 1]),
                *_ends(lower[window]),
                cv2.mean(height[window], mask=within)[0],
                cv2.mean(redness[window], mask=within)[0],
                *_ends(upper[max(0, y0 - 1) : y1 - 1, x0:x1]),
            )
        )
    area, across, down, lowest, contrast, red, up, highest = np.array(counted, np.float64).T
    columns, rows = (boxes[:, 2:] - boxes[:, :2]).T
    return np.stack(
        [
            np.log(rows),
            np.log(columns / rows),
            np.log(across / columns),
            np.log(down / columns),
            area / (columns * rows),
            lowest / down,
            np.log(contrast),
            red / 100,
            highest / up,
            np.ones(len(boxes)),
        ],
        axis=1,
    )


def _ends(ends: NDArray[Any]) -> tuple[int, float]:
    """Return one more than how many strokes end in a window, and the most that do so in one row."""
    return 1 + cv2.countNonZero(ends), cv2.minMaxLoc(cv2.reduce(ends, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S))[1]
