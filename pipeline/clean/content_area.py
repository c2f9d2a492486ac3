"""Find the endoscopic image in a frame: against black borders, side panels and the scope-position box."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.edges import Points, brightest_channel, rays_across, reference_unit
from pipeline.clean.outline import Shape, fit_outline
from pipeline.clean.scope_box import find_scope_box, is_painted, painted
from pipeline.frame import Box, Pixels

WORKING_SHORT_SIDE = 288
"""Rows (or columns) at which the image is found roughly, before its outline is fitted at full resolution."""

LIT = 20
"""Brightest channel from which a pixel is lit. Every third of 1,422 HyperKvasir, EDD2020 and Kvasir-SEG
frames: any value from 12 to 28 finds the same rectangle, within 4 px, on 99 % of them."""

OPENING_SHARE = 0.04
"""Side of the opening, as a share of the short side: 23 px at 576 rows, wider than any stroke of text."""

MINIMUM_SHARE = 0.05
"""Least share of the frame that content must fill; the smallest of 1,915 frames fills 0.5."""

SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class ContentArea:
    """Where the endoscopic image is.

    Attributes
    ----------
    box
        Smallest rectangle around it, in source pixels.
    mask
        ``(rows, columns)`` bool, read-only: inside the outline and outside the scope-position box.
    shape
        What the outline is: an arc, cut corners, four sides, or the whole frame; ``irregular`` where the
        edge fits none of them and the outline is the hull of what is lit.
    scope_box
        The rectangle that the scope-position box hides, to the frame's left edge, or None.
    outline
        ``(n, 2)`` float32: the corners of the convex outline. The corners of ``box`` where none are given.
    """

    box: Box
    mask: NDArray[np.bool_]
    shape: Shape = "full"
    scope_box: Box | None = None
    outline: Points = field(default_factory=lambda: np.empty((0, 2), np.float32))

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        if not len(self.outline):
            x0, y0, x1, y1 = self.box
            corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32) - np.float32(0.5)
            object.__setattr__(self, "outline", corners)
        self.mask.setflags(write=False)
        self.outline.setflags(write=False)


def find_content_area(pixels: Pixels) -> ContentArea | None:
    """Return the content area of an RGB frame, or None where nothing that could be tissue is lit.

    The lit pixels are opened, so that text and thin lines vanish; round the hull of the largest piece that
    remains, the outline is fitted to the edge itself.
    """
    rows, columns = pixels.shape[:2]
    scale = min(1.0, WORKING_SHORT_SIDE / min(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    brightest = brightest_channel(small)
    hull = _coarse_outline(brightest, painted(small, brightest))
    if hull is None:
        return None
    scope_box = find_scope_box(pixels, small, hull)
    grown = np.array([columns / size[0], rows / size[1]], np.float32)
    shape, outline = fit_outline(pixels, (hull + np.float32(0.5)) * grown - np.float32(0.5), scope_box)
    left, top = (int(value) for value in np.maximum(np.rint(outline.min(axis=0) + 0.5), 0))
    right, bottom = (int(value) for value in np.minimum(np.rint(outline.max(axis=0) + 0.5), (columns, rows)))
    within = outline - np.sign(outline - outline.mean(axis=0)) / 2  # what is drawn covers its own edge
    corners = np.rint((within - (left, top)) * 2**SUBPIXEL_BITS).astype(np.int32).reshape(-1, 1, 2)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillConvexPoly(mask[top:bottom, left:right], corners, 1, shift=SUBPIXEL_BITS)
    if scope_box is not None:
        x0, y0, x1, y1 = scope_box
        mask[y0:y1, x0:x1] = 0
    return ContentArea((left, top, right, bottom), mask.view(np.bool_), shape, scope_box, outline)


def _coarse_outline(brightest: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> Points | None:
    side = max(3, round(OPENING_SHARE * min(brightest.shape))) | 1
    square = np.ones((side, side), np.uint8)
    lit = ((brightest > LIT) & ~hidden).astype(np.uint8)
    pieces, _ = cv2.findContours(
        cv2.morphologyEx(lit, cv2.MORPH_OPEN, square), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    largest = max(pieces, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < MINIMUM_SHARE * lit.size:
        return None
    hull: Points = cv2.convexHull(largest).reshape(-1, 2).astype(np.float32)
    return hull


PROBES = 96
NEAR, FAR = 3, 7
"""Points along the outline where it is looked at again, from 3 to 7 px (at 576 rows) on either side."""

RISE = 6.0
"""How much brighter the inner probes must be than the outer ones for the edge to be there."""

STILL_DARK = 40
"""Brightness 7 px outside from which a probe misses. Without it glare inside a wider image passed for the
edge: 2 of 843 pairs of different layouts were confirmed, with it none."""

LONGEST_GAP, MOST_GAPS = 6, 12
"""How many of the probes may miss the edge, in a row and in all. So 281 of 285 pairs of one layout of
`matched_256` are confirmed, 4,682 of 4,690 of `images/normal`, 611 of 654 of CrohnIPI (dark rims), and no
pair whose boxes differ by more than 8 px."""


def still_holds(area: ContentArea, pixels: Pixels) -> bool:
    """Say whether a later frame has its image where ``area`` is, in a twentieth of the time of finding it.

    All along the outline it is lit just inside and dark just outside, but for short gaps (a lumen, a word);
    and the scope-position box is there, or not there, as before.
    """
    rows, columns = pixels.shape[:2]
    if area.mask.shape != (rows, columns):
        return False
    unit = reference_unit(rows, columns)
    depth = np.array([-FAR, -(NEAR + FAR) / 2, -NEAR, NEAR, (NEAR + FAR) / 2, FAR]) * unit
    at, seen = rays_across(pixels, area.outline, depth, count=PROBES)
    outer, inner = seen[:, :3].mean(axis=1), seen[:, 3:].mean(axis=1)
    holds = (inner - outer > RISE) & (inner > LIT / 2) & (seen[:, 0] < STILL_DARK)
    if area.scope_box is not None:
        x0, y0, x1, y1 = area.scope_box
        middle = (at[:, 2] + at[:, 3]) / 2
        holds |= ((middle >= (x0, y0 - FAR * unit)) & (middle <= (x1 + FAR * unit, y1))).all(axis=1)
    if PROBES - int(holds.sum()) > MOST_GAPS or _longest_gap(holds) > LONGEST_GAP:
        return False
    return area.scope_box is None or is_painted(pixels, area.box, area.scope_box)


def _longest_gap(holds: NDArray[np.bool_]) -> int:
    """Return the most points in a row, round and round, at which nothing holds."""
    kept = np.nonzero(holds)[0]
    if not len(kept):
        return len(holds)
    return int(np.diff(np.append(kept, kept[0] + len(holds))).max()) - 1
