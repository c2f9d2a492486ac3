"""Find all overlay text: by two looks of the detector, by strokes, and where columns or layouts have it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.strokes import STROKE_SIDE, WORKING_SHORT_SIDE, find_lines
from pipeline.clean.text import Quad, TextDetector, sides_and_slant, text_mask
from pipeline.frame import Box, Pixels

WINDOW, FLOOR, GAIN, GREY = 25, 8, 50, 110
"""Pixels at 576 rows, levels, and levels a deviation, by which the second look's contrast is evened. On 20
frames with six painted strings each a gain of 70 finds as much of them, and masks 1.08 % of what is far
from text in place of 0.64. On 40, the least of the colours finds 0.6 % less than blue, in which glare on
mucosa is darkest. On 33 frames whose text glare hides, a look at a short side of 768 instead shows as many
counters and fewer clocks, in 1.8 times the time."""

MOST_SLANT = 6.0
LEAST_ASPECT = 1.1
"""Degrees off the rows, and length over height, of a box that is a line. Of the second look only lines
count: 53 frames have as many of their letters masked, 0.72 % of what is far from text (0.87 % where each
box counts), and 0.04 % of what has none (0.15)."""

LEAST_LINES = 3
"""Lines with one left edge that are a column."""

ALIGNED = 0.4
"""How far left edges in a column lie apart, as a share of the lines' height."""

ABOVE, BELOW, ASIDE = 2, 6, 6
"""Heights of a line by which a column may go on above and below, and by which a line may start too late:
counters stand 3.5 below clocks. These, and what a column is, are chosen by eye on those 33 frames."""

FAINT = (35, 60, 100)
"""Evened contrasts at which a column's lines are looked for, as faint and as clear ones need it."""

LONGEST = 10
"""Heights of a line that what continues a column is long, at most: borders are longer."""

GAP = 9
"""Columns that join a column's letters to a line."""

SLIT = 0.03
"""Rows between lines, as a share of the short side, that are masked with them (17 at 576): between the boxes
of one block up to 16 were left, with the tips of letters."""


def find_text(detector: TextDetector, pixels: Pixels) -> NDArray[np.bool_]:
    """Return ``(rows, columns)`` bool: where text stands in an RGB frame, or is likely to.

    Of 1896 strings painted on 316 frames one look of the network and lines of strokes miss 21, this 16; of
    207 frames as they were taken 33 keep something readable with those, about 18 with this, and none where
    the layouts' places are masked too.
    """
    rows, columns = pixels.shape[:2]
    short = min(rows, columns)
    even = evened(pixels, short=short)
    second = [quad for quad in detector(np.repeat(even[..., np.newaxis], 3, axis=2)) if _is_line(quad, short)]
    quads = [*detector(pixels), *second, *map(_quad, find_lines(pixels))]
    return without_slits(text_mask([*quads, *_completing(quads, even)], rows=rows, columns=columns))


def without_slits(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of lines with the slits between them, in which the tips of letters would stay."""
    rows = max(1, round(SLIT * min(mask.shape)))
    column = np.ones((rows, 1), np.uint8)
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, column).view(np.bool_)


def evened(pixels: Pixels, *, short: int) -> NDArray[np.uint8]:
    """Return how far blue lies from its mean nearby, in local deviations: letters on glare stand out.

    `pixels` may be a part of a frame; `short` is the frame's short side.
    """
    blue = pixels[..., 2].astype(np.float32)
    side = _scaled(WINDOW, short)
    mean = cv2.blur(blue, (side, side))
    deviation = np.sqrt(np.maximum(cv2.blur(blue * blue, (side, side)) - mean * mean, 0))
    return np.asarray(np.clip(GREY + GAIN * (blue - mean) / (deviation + FLOOR), 0, 255), np.uint8)


def faint_strokes(even: NDArray[np.uint8], *, short: int) -> NDArray[np.uint8]:
    """Return how much brighter each pixel of an evened frame is than its surroundings, where it is thin."""
    side = _scaled(STROKE_SIDE, short)
    return np.asarray(cv2.morphologyEx(even, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8)), np.uint8)


def _completing(quads: Sequence[Quad], even: NDArray[np.uint8]) -> list[Quad]:
    """Return what continues the columns of lines: the starts of lines that were found in part, and others."""
    lines = [_bounds(quad) for quad in quads if _is_line(quad, min(even.shape))]
    added: list[Quad] = []
    groups: list[Box] | None = None
    for left, top, bottom, high in _columns(lines):
        groups = _groups(even) if groups is None else groups
        first, last = top - ABOVE * high, bottom + BELOW * high
        for x0, y0, x1, y1 in lines:
            if (
                first <= y0
                and y1 <= last
                and left < x0 <= left + ASIDE * high
                and 0.5 * high < y1 - y0 < 1.6 * high
            ):
                added.append(_quad((left, y0, x1, y1)))
        for x0, y0, x1, y1 in groups:
            fits = 0.3 * high <= y1 - y0 <= high and 0.6 * high <= x1 - x0 <= LONGEST * high
            if fits and first <= y0 and y1 <= last and abs(x0 - left - 0.2 * high) <= ALIGNED * high:
                added.append(_quad((left, y0 - 3, x1 + 4, y1 + 3)))
    return added


def _columns(lines: Sequence[Box]) -> list[tuple[float, float, float, float]]:
    """Return the left edge, the top, the bottom and the lines' height of each column."""
    found = []
    for x0, y0, _, y1 in lines:
        high = y1 - y0
        mates = sorted(
            (line[1], line[3], line[0], line[3] - line[1])
            for line in lines
            if abs(line[0] - x0) <= ALIGNED * high and 0.6 * high <= line[3] - line[1] <= 1.6 * high
        )
        tops = [mates[0][0]]
        for mate in mates[1:]:
            if mate[0] - tops[-1] > 0.5 * high:
                tops.append(mate[0])
        if len(tops) >= LEAST_LINES:
            left = float(np.median([mate[2] for mate in mates]))
            found.append(
                (
                    left,
                    float(mates[0][0]),
                    float(max(m[1] for m in mates)),
                    float(np.median([m[3] for m in mates])),
                )
            )
    return sorted(set(found))


def _scaled(length: int, short: int) -> int:
    """Return a length at 576 rows for a larger frame; a smaller one has the same strokes."""
    return round(length * max(1, short / WORKING_SHORT_SIDE))


def _groups(even: NDArray[np.uint8]) -> list[Box]:
    short = min(even.shape)
    height = faint_strokes(even, short=short)
    found: set[Box] = set()
    for contrast in FAINT:
        strokes = cv2.threshold(height, contrast, 1, cv2.THRESH_BINARY)[1]
        joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, _scaled(GAP, short)), np.uint8))
        contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            x, y, columns, rows = cv2.boundingRect(contour)
            found.add((x, y, x + columns, y + rows))
    return sorted(found)


def _is_line(quad: Quad, short: int) -> bool:
    length, height, slant = sides_and_slant(quad)
    is_text = 0.012 * short <= height <= 0.08 * short
    return is_text and length >= LEAST_ASPECT * height and slant <= MOST_SLANT


def _bounds(quad: Quad) -> Box:
    x0, y0 = quad.min(axis=0)
    x1, y1 = quad.max(axis=0)
    return (int(x0), int(y0), int(x1), int(y1))


def _quad(box: Sequence[float]) -> Quad:
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32)
