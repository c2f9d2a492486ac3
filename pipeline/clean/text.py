"""Overlay text: the port through which it is found, and the mask made of what was found."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Pixels

Quad = NDArray[np.float32]
"""``(4, 2)`` float32: the corners of a rectangle round one piece of text, as x and y in source pixels."""

TALLEST = 0.12
"""Height of a text box, as a share of the frame's short side, above which it is no text. 28 px text at 576
rows is boxed at 0.07; the boxes that the detector draws round text-free mucosa are 0.16 to 1.2 high."""

SHORTEST = 0.012
"""The same, below which it is none (7 px at 576 rows): single bright dots. The least real text has 0.021."""

MARGIN = 0.004
"""Growth of each box, as a share of the short side (2 px at 576): the blurred rim of the outer letters."""

BLANK_LEVEL = 96
"""Grey of blanked text: darker than mucosa, lighter than the border, so that it reads as neither."""


class TextDetector(Protocol):
    """Finds where text stands; never what it says."""

    def __call__(self, pixels: Pixels) -> Sequence[Quad]:
        """Return one rectangle a piece of text in a ``(rows, columns, 3)`` uint8 RGB frame."""
        ...


def text_mask(quads: Sequence[Quad], *, rows: int, columns: int) -> NDArray[np.bool_]:
    """Return ``(rows, columns)`` bool: True inside the rectangles that have the size and shape of text."""
    short = min(rows, columns)
    mask = np.zeros((rows, columns), np.uint8)
    for quad in quads:
        centre, sides, angle = cv2.minAreaRect(quad.astype(np.float32).reshape(-1, 1, 2))
        if not SHORTEST * short <= min(sides) <= TALLEST * short:
            continue
        grown = (sides[0] + 2 * MARGIN * short, sides[1] + 2 * MARGIN * short)
        corners = cv2.boxPoints((centre, grown, angle))
        cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32).reshape(-1, 1, 2), 1)
    return mask.astype(np.bool_)


def sides_and_slant(quad: Quad) -> tuple[float, float, float]:
    """Return a rectangle's longer side, its shorter one, and the degrees by which the longer is off the rows.

    >>> sides_and_slant(np.array([(0, 0), (10, 0), (10, 40), (0, 40)], np.float32))
    (40.0, 10.0, 90.0)
    """
    _, (length, height), angle = cv2.minAreaRect(quad.astype(np.float32).reshape(-1, 1, 2))
    if length < height:
        length, height, angle = height, length, angle + 90
    return length, height, abs((angle + 90) % 180 - 90)


def blank(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Return a copy in which every masked pixel is flat grey: plainly removed, never invented."""
    blanked = pixels.copy()
    blanked[mask] = BLANK_LEVEL
    return blanked
