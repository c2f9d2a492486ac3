"""What of a frame is filled: how much of an activation map lies on it, and how a person is shown it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Box, Pixels

OUTLINE = (0, 229, 255)
CASING = (0, 0, 0)
"""Cyan on black: no mucosa, blood, bile or dye (indigo carmine) is as light and as blue-green."""


def synthetic_share(cam: NDArray[np.float32], synthetic: NDArray[np.bool_], view_box: Box) -> float:
    """Return the share, 0 to 1, of a class-activation map's mass that lies on filled pixels.

    What speaks against the class (negative) has no mass; each cell's is spread evenly over its part of the
    view. Where nothing speaks for the class, the whole view counts alike.

    Parameters
    ----------
    cam
        ``(h, w)`` activations of one class over `view_box`.
    synthetic
        ``(rows, columns)`` bool in the source's geometry.
    """
    x0, y0, x1, y1 = view_box
    filled = synthetic[y0:y1, x0:x1].astype(np.float32)
    if not filled.any():
        return 0.0
    part_of_cell = cv2.resize(filled, cam.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    mass = np.maximum(cam, 0.0, dtype=np.float64)
    if mass.sum() == 0:
        mass = np.ones_like(mass)
    return float(np.clip((mass * part_of_cell).sum() / mass.sum(), 0.0, 1.0))


def outline_synthetic(pixels: Pixels, synthetic: NDArray[np.bool_]) -> Pixels:
    """Return a copy in which filled places are outlined and labelled; the frame itself where none is.

    The outline runs just outside the filled pixels, so that they stay to be judged.

    Parameters
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB.
    synthetic
        ``(rows, columns)`` bool of the same size.
    """
    if not synthetic.any():
        return pixels
    shown = pixels.copy()
    line = max(1, round(min(synthetic.shape) / 300))
    mask = synthetic.astype(np.uint8)
    inner = _grown(mask, line)
    shown[(_grown(inner, line) > 0) & ~synthetic] = CASING
    shown[(inner > 0) & ~synthetic] = OUTLINE
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    largest = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    _label(
        shown, "filled", left=int(largest[cv2.CC_STAT_LEFT]), above=int(largest[cv2.CC_STAT_TOP]) - 2 * line
    )
    return shown


def _grown(mask: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return cv2.dilate(mask, square).astype(np.uint8)


def _label(shown: Pixels, text: str, *, left: int, above: int) -> None:
    """Write a word on a plate of its own, above a place where there is room, else over its upper edge."""
    size = max(0.35, min(shown.shape[:2]) / 900)
    (columns, rows), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    rows, pad = rows + below, 3
    left = max(0, min(left, shown.shape[1] - columns - 2 * pad))
    top = max(0, above - rows - 2 * pad)
    shown[top : top + rows + 2 * pad, left : left + columns + 2 * pad] = CASING
    where = (left + pad, top + pad + rows - below)
    cv2.putText(shown, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, OUTLINE, 1, cv2.LINE_AA)
