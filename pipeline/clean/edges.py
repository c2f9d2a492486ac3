"""Look across an outline along rays, and find the edge of the endoscopic image on them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Box, Pixels

Points = NDArray[np.float32]
"""``(n, 2)`` float32: x and y in source pixels; a pixel's centre has whole coordinates."""

REFERENCE = 576
"""Lengths are given in pixels of a frame whose short side has as many; they grow with the frame."""

RAYS = 160
REACH_OUT, REACH_IN, FLANK = 48, 40, 6
"""Rays to the middle across the coarse outline: from how far outside to how far inside it they look, and over
how many pixels brightness is averaged on either side of an edge. The coarse
outline cuts corners where a lumen is dark up to the border."""

DARK = 25.0
"""Brightness above the border's at which what lies outside makes an edge count 1 - tanh(1) = 0.24: tissue
beside tissue is no edge, a border that JPEG has smeared is."""

BRIGHTEST_BORDER = 20.0
"""Brightness up to which what surrounds the image is a border; the greyest panel of 718 frames has 19."""

LEAST_STEP = 5.0
"""Step of brightness, so weighted, from which there is an edge: a dark rim against a grey border."""

BESIDE_BOX = 6
"""Pixels round the scope-position box in which no edge is looked for."""


def reference_unit(rows: int, columns: int) -> float:
    """Return how many pixels of a frame are one at 576 rows.

    >>> reference_unit(1152, 1440)
    2.0
    """
    return min(rows, columns) / REFERENCE


def rays_across(
    pixels: Pixels, polygon: Points, depth: NDArray[np.float64], *, count: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Look across a convex outline, at points spread evenly along it.

    Returns
    -------
    at
        ``(count, len(depth), 2)`` float64: where it was looked, on lines to the middle; depth in pixels.
    brightness
        ``(count, len(depth))`` uint8: the brightest channel there; 0 outside of the frame.
    """
    start = _spread(polygon, count)
    inward = (polygon.min(axis=0) + polygon.max(axis=0)) / 2 - start
    inward /= np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-6)
    at = start[:, None] + depth[:, None] * inward[:, None]
    x, y = at[..., 0].astype(np.float32), at[..., 1].astype(np.float32)
    seen = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return at, brightest_channel(seen)  # type: ignore[arg-type]


def brightest_channel(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the greatest of the three channels: tissue is red, and dark only where red is."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def edge_points(pixels: Pixels, coarse: Points, hidden: Box | None) -> NDArray[np.float64]:
    """Return where the frame turns from dark to lit, one point a ray at most, ``(n, 2)`` float64.

    An edge counts by its step and by how dark it is outside of it (Budd et al. 2022, "Rapid and robust
    endoscopic content area estimation", whose strips are rows and whose darkness is that of all pixels
    before). What lies outside of the frame is as dark as the border, so that the frame's end is an edge.
    """
    rows, columns = pixels.shape[:2]
    unit = reference_unit(rows, columns)
    depth = np.arange(-REACH_OUT - FLANK, REACH_IN + FLANK + 1, dtype=np.float64) * max(unit, 0.5)
    at, brightness = rays_across(pixels, coarse, depth, count=RAYS)
    framed = np.asarray(((at >= 0) & (at <= (columns - 1, rows - 1))).all(axis=2))
    far = np.s_[:, : REACH_OUT // 2]
    border = brightness[far][framed[far]]
    level = min(float(np.median(border)), BRIGHTEST_BORDER) if border.size else 0.0
    brightness[~framed] = int(level)
    mean = cv2.boxFilter(brightness, cv2.CV_32F, (FLANK, 1), anchor=(0, 0))[:, : 1 - FLANK]
    outside, inside = mean[:, :-FLANK], mean[:, FLANK:]
    strength = (inside - outside) * (1 - np.tanh((np.maximum(outside - level, 0) / DARK) ** 2))
    best, ray = strength.argmax(axis=1), np.arange(RAYS)
    points = (at[ray, best + FLANK - 1] + at[ray, best + FLANK]) / 2
    points = np.clip(points, -0.5, np.array([columns, rows]) - 0.5)
    found = strength[ray, best] > LEAST_STEP
    if hidden is not None:
        x0, y0, x1, y1 = hidden
        near = BESIDE_BOX * unit
        found &= ~((points >= (x0 - near, y0 - near)) & (points <= (x1 + near, y1 + near))).all(axis=1)
    return np.asarray(points[found])


def _spread(polygon: Points, count: int) -> NDArray[np.float64]:
    """Return points at equal distances along a closed polygon."""
    closed = np.vstack([polygon, polygon[:1]]).astype(np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    wanted = np.arange(count) * along[-1] / count
    return np.stack([np.interp(wanted, along, closed[:, axis]) for axis in (0, 1)], axis=1)
