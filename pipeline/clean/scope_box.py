"""Find the box in which a processor draws the scope's position: flat teal, or painted over in black."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.edges import Points, brightest_channel, reference_unit
from pipeline.frame import Box, Pixels

TEAL = 80
"""Green minus red from which a pixel belongs to the scope-position box, drawn in flat teal (0, 160, 135).
Among 1,915 frames a patch of that size reaches 144-162 in the three that show the box, and 19 in tissue."""

BLACK = 12
"""Brightest channel up to which a pixel may be painted black; JPEG leaves painted areas at 0-8."""

PENALTY = 3
"""What a pixel that is not painted takes from a rectangle to which each painted one gives 1."""

WIDTHS, TOPS, BOTTOMS = (0.08, 0.5), (0.45, 0.9), (0.94, 1.0)
"""Where the right, upper and lower edges are looked for, as shares of the image's rectangle. The box is at
its left; below it a strip of the image may show."""

STRIDE = 2
"""Pixels of the reduced frame between the edges tried; the upper and right one are refined afterwards."""

SMALLEST, SMALLEST_BOX = 64, 8
"""Short side of an image, and of a box, in pixels of the reduced frame, below which no box is looked for."""

DEPTH = 0.06
"""How far, as a share of the image's short side, the box must reach into the hull of what is lit. The
largest rectangle in a cut corner reaches about 0. Of 251 frames without a box 99 % reach less than 0.041, of
467 with one 1 % reach less than 0.155."""

PAINTED_SHARE = 0.85
"""Least share of painted pixels near the box's inner corner: text stands on some."""

RISE = 6
"""How much brighter most pixels beside the box must be than the box."""

MOST = 0.6
"""Share of the pixels beside an edge of the box that must be so: a reflection or a lumen may touch it."""

REFINED = 18
"""Pixels, at 576 rows, beyond the coarse edge within which the sharp one lies: some boxes have a grey rim."""


BLED = 1
"""Pixels, at 576 rows, by which JPEG's coarser colour lets a teal box bleed out."""


def painted(pixels: Pixels, brightest: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a frame is black or teal, ``(rows, columns)`` bool."""
    return np.asarray((brightest <= BLACK) | (cv2.subtract(pixels[..., 1], pixels[..., 0]) > TEAL))


def find_scope_box(pixels: Pixels, small: Pixels, hull: Points) -> Box | None:
    """Return the box, in source pixels, or None where there is none.

    It is the rectangle, at the lower left of the image's, that holds most painted pixels for the fewest
    others; and it is a box only where its corner reaches into the hull of what is lit and both its inner
    edges are edges.

    Parameters
    ----------
    pixels, small
        ``(rows, columns, 3)`` uint8 RGB: the frame, and the same reduced.
    hull
        Convex outline of the image in ``small``, which bridges the box.
    """
    brightest = brightest_channel(small)
    left, top = (int(value) for value in hull.min(axis=0))
    columns, rows = (int(value) + 1 for value in hull.max(axis=0) - (left, top))
    right, upper, lower = (
        np.arange(int(share[0] * length), int(share[1] * length) + 1, STRIDE)
        for share, length in ((WIDTHS, columns), (TOPS, rows), (BOTTOMS, rows))
    )
    dark = painted(small, brightest)[top : top + rows, left : left + columns]
    if min(rows, columns) < SMALLEST:
        return None
    total = cv2.integral(np.where(dark[:, : right[-1]], 1, -PENALTY).astype(np.float32))
    held = total[lower][:, right][:, None] - total[upper][:, right][None]
    low, high, wide = (int(index) for index in np.unravel_index(held.argmax(), held.shape))
    x1, y0, y1 = int(right[wide]), int(upper[high]), int(lower[low])
    if x1 < SMALLEST_BOX or y1 - y0 < SMALLEST_BOX:
        return None
    corner = (float(left + x1), float(top + y0))
    if cv2.pointPolygonTest(hull.reshape(-1, 1, 2), corner, measureDist=True) < DEPTH * min(rows, columns):
        return None
    if dark[y0 : (y0 + y1) // 2, x1 // 2 : x1].mean() < PAINTED_SHARE:
        return None
    grown = (pixels.shape[1] / small.shape[1], pixels.shape[0] / small.shape[0])
    start, bottom = round(left * grown[0]), round((top + y1) * grown[1])
    coarse = (start, round((top + y0) * grown[1]), round((left + x1) * grown[0]), bottom)
    sharp_y0, sharp_x1 = _sharp_corner(pixels, coarse)
    box = (0, sharp_y0, sharp_x1, pixels.shape[0] if y1 >= rows - 2 else bottom)
    return box if _stands_out(pixels, start, box) else None


def is_painted(pixels: Pixels, content: Box, box: Box) -> bool:
    """Say whether a box found on an earlier frame is on this one, no smaller and no larger."""
    x0, y0, x1, y1 = max(box[0], content[0]), box[1], box[2], min(box[3], content[3])
    inside = pixels[y0:y1:4, x0:x1:4]
    return bool(painted(inside, brightest_channel(inside)).mean() > PAINTED_SHARE) and _stands_out(
        pixels, x0, box
    )


def _levels(pixels: Pixels) -> NDArray[np.float64]:
    """Return brightness with painted pixels at 0, ``(rows, columns)`` float64."""
    brightest = brightest_channel(pixels)
    return np.where(painted(pixels, brightest), 0.0, brightest)


def _sharp_corner(pixels: Pixels, coarse: Box) -> tuple[int, int]:
    """Return the upper and the right edge of a box: the steepest rise of brightness near the coarse ones."""
    unit = reference_unit(*pixels.shape[:2])
    back, ahead, bled = (max(least, round(far * unit)) for least, far in ((2, 4), (2, REFINED), (1, BLED)))
    x0, y0, x1, y1 = coarse
    beside = slice(x1 - back, x1 + ahead)
    across = np.median(_levels(pixels[y0 + back : (y0 + y1) // 2, beside]), axis=0)
    above = slice(y0 - ahead, y0 + back)
    down = np.median(_levels(pixels[above, (x0 + x1) // 2 : x1 - back]), axis=1)
    return (
        above.start + 1 + int(np.diff(down).argmin()) - bled,
        beside.start + 1 + int(np.diff(across).argmax()) + bled,
    )


def _stands_out(pixels: Pixels, left: int, box: Box) -> bool:
    """Say whether it is brighter above the box and at its right, near its inner corner, than in it."""
    gap = max(2, round(4 * reference_unit(*pixels.shape[:2])))
    _, y0, x1, y1 = box
    middle = ((left + x1) // 2, (y0 + y1) // 2)
    above = _levels(pixels[max(0, y0 - 2 * gap) : y0 - gap, middle[0] : x1 : 2])
    beside = _levels(pixels[y0 : middle[1] : 2, x1 + gap : x1 + 2 * gap])
    return all(part.size and (part > BLACK + RISE).mean() > MOST for part in (above, beside))
