"""Cut the model's view out of a frame: one function for training and for the node."""

import cv2

from pipeline.frame import Box, Pixels

VIEW_SIDE = 224
"""Rows and columns of the view (ImageNet's input size)."""

CENTRE = (0.62, 0.5)
SIDE_OF_COLUMNS = 0.56
SIDE_OF_ROWS = 0.75
"""Where the view lies in the content rectangle. The same square for every border: inside a circle, inside
every octagon seen, clear of the scope-position box (left third, lower third) and of the text at the left.
On 1,089 HyperKvasir frames a 16x16 map of what is black in the view tells colitis from normal with AUC 0.97
on a centred crop and 0.54 (no better than permuted labels) on this one."""


def view_box(content: Box) -> Box:
    """Return the square of the frame that the model sees, from the content rectangle.

    >>> view_box((0, 0, 633, 532))
    (215, 89, 569, 443)
    """
    x0, y0, x1, y1 = content
    columns, rows = x1 - x0, y1 - y0
    side = max(1, int(min(SIDE_OF_COLUMNS * columns, SIDE_OF_ROWS * rows)))
    left = x0 + min(columns - side, round(CENTRE[0] * columns - side / 2))
    top = y0 + min(rows - side, round(CENTRE[1] * rows - side / 2))
    return left, top, left + side, top + side


def crop_view(pixels: Pixels, content: Box, *, side: int = VIEW_SIDE) -> Pixels:
    """Return the ``(side, side, 3)`` uint8 RGB view of a frame, resampled by area."""
    x0, y0, x1, y1 = view_box(content)
    view: Pixels = cv2.resize(pixels[y0:y1, x0:x1], (side, side), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return view
