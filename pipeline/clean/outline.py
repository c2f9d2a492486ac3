"""Fit the outline of the endoscopic image to its edge, and say which shape it is."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.edges import RAYS, Points, edge_points, reference_unit
from pipeline.clean.votes import LEAST_POINTS, Line, distances, fit_cut, fit_ellipse, fit_side, held_by
from pipeline.frame import Box, Pixels

Shape = Literal["circle", "octagon", "rectangle", "full", "irregular"]

TOLERANCE = 2.0
"""Distance at 576 rows within which a point of the edge belongs to a line or an ellipse; at least 1 px."""

AT_THE_END = 0.75
"""Share of the tolerance within which a side is the frame's own end: a frame without a border stays whole."""

LEAST_RAYS = RAYS // 6
"""Rays that must show an edge for a shape to be fitted: those of five lines of five points."""

TELLING = 0.8
"""Share of the points off the four sides that settles the shape without a look at the other one."""

ARC_OVER_CUTS = 1.25
"""How many times the cut corners' points an ellipse must hold to be believed. Of 207 octagons over real
mucosa none is taken for a circle at 1.25, and 14 are at 1; no circle is taken for an octagon at either."""

LEAST_SHARE = 0.5
"""Share of all points that must lie on the fitted outline, and of the coarse one's area that it must have;
else it is the coarse one."""

ARC_CORNERS = 180
"""Corners of the polygon that stands for an ellipse: 0.1 px off at a radius of 500."""

SHORTEST_EDGE = 1e-3
"""Pixels between corners below which they are one."""

DIAGONALS = ((-1, -1), (1, -1), (-1, 1), (1, 1))


class Outline(NamedTuple):
    """A convex outline: its shape and its corners, in order."""

    shape: Shape
    polygon: Points


def fit_outline(pixels: Pixels, coarse: Points, hidden: Box | None) -> Outline:
    """Return the outline of the image in a frame: four sides, and cut corners or an ellipse within them.

    Parameters
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB.
    coarse
        Convex outline near the true one.
    hidden
        The scope-position box: no edge is looked for behind it.
    """
    rows, columns = pixels.shape[:2]
    tolerance = TOLERANCE * max(reference_unit(rows, columns), 0.5)
    points = edge_points(pixels, coarse, hidden)
    if len(points) < LEAST_RAYS:
        return Outline("irregular", coarse)
    sides = [fit_side(points, axis, sign, tolerance) for axis in (0, 1) for sign in (-1, 1)]
    ends = [0.5, columns - 0.5, 0.5, rows - 0.5]
    straight = [
        side
        for side, end in zip(sides, ends, strict=True)
        if side is not None and side.offset < end - AT_THE_END * tolerance
    ]
    rest = points[~held_by([side for side in sides if side is not None], points, tolerance)]
    cuts = _cuts(rest, sides, coarse, tolerance)
    by_cuts = int(held_by(cuts, rest, tolerance).sum())
    frame = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], np.float32) - np.float32(0.5)
    round_one = None
    if len(rest) >= 3 * LEAST_POINTS and by_cuts <= TELLING * len(rest):
        ellipse = fit_ellipse(rest, tolerance, enough=TELLING)
        if ellipse is not None:
            by_arc = int((np.abs(distances(ellipse[None], rest)) < tolerance).sum())
            if by_arc >= max(ARC_OVER_CUTS * by_cuts, LEAST_SHARE * len(rest)):
                round_one = _within(_clipped(frame, straight), ellipse)
    shape: Shape
    if round_one is not None:
        shape, polygon = "circle", round_one
    else:
        polygon = _clipped(frame, [*straight, *cuts])
        shape = "octagon" if cuts else "full" if _fills(polygon, frame, tolerance) else "rectangle"
    if cv2.contourArea(polygon) < LEAST_SHARE * cv2.contourArea(coarse):
        return Outline("irregular", coarse)
    if (np.abs(_depth(polygon, points)) < 2 * tolerance).mean() < LEAST_SHARE:
        return Outline("irregular", coarse)
    return Outline(shape, polygon)


def _cuts(
    points: NDArray[np.float64], sides: Sequence[Line | None], coarse: Points, tolerance: float
) -> list[Line]:
    """Return the cut corners.

    Processors cut corners in pairs; one of a pair may be dark, or behind the scope-position box. It is the
    other's mirror image where nothing lit lies beyond that.
    """
    middle = (coarse.min(axis=0) + coarse.max(axis=0)) / 2
    found = [
        fit_cut(points[(np.sign(points - middle) == diagonal).all(axis=1)], diagonal, tolerance)
        for diagonal in DIAGONALS
    ]
    for axis in (0, 1):
        low, high = sides[2 * axis : 2 * axis + 2]
        if low is not None and high is not None:
            twice_the_middle = high.offset - low.offset
            mirrored = [_mirrored(found[i ^ (axis + 1)], axis, twice_the_middle) for i in range(4)]
            found = [
                cut if cut is not None or other is None or _beyond(coarse, other) > 2 * tolerance else other
                for cut, other in zip(found, mirrored, strict=True)
            ]
    return [cut for cut in found if cut is not None]


def _mirrored(cut: Line | None, axis: int, twice_the_middle: float) -> Line | None:
    if cut is None:
        return None
    normal = cut.normal.copy()
    normal[axis] *= -1
    return Line(normal, cut.offset + float(normal[axis]) * twice_the_middle)


def _beyond(points: Points, line: Line) -> float:
    return float((points @ line.normal).max() - line.offset)


def _clipped(polygon: Points, lines: Sequence[Line]) -> Points:
    """Return what of a convex polygon lies inside of every line (Sutherland and Hodgman 1974)."""
    corners = polygon.astype(np.float64)
    for line in lines:
        outside = corners @ line.normal - line.offset
        kept = []
        for i in range(len(corners)):
            here, before = outside[i], outside[i - 1]
            if (here > 0) != (before > 0):
                kept.append(corners[i] + (corners[i - 1] - corners[i]) * here / (here - before))
            if here <= 0:
                kept.append(corners[i])
        corners = np.array(kept).reshape(-1, 2)
    return corners.astype(np.float32)


def _within(polygon: Points, ellipse: NDArray[np.float64]) -> Points:
    """Return what of a convex polygon lies inside of an ellipse."""
    angles = np.linspace(0, 2 * np.pi, ARC_CORNERS, endpoint=False)
    around = ellipse[:2] + ellipse[2:] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _, common = cv2.intersectConvexConvex(around.astype(np.float32), polygon)
    return np.zeros((0, 2), np.float32) if common is None else common.reshape(-1, 2).astype(np.float32)


def _fills(polygon: Points, frame: Points, tolerance: float) -> bool:
    gap = np.ptp(frame, axis=0) - (np.ptp(polygon, axis=0) if len(polygon) else 0)
    return bool((gap <= 2 * tolerance).all())


def _depth(polygon: Points, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how deep in a convex polygon each point lies; negative outside."""
    start = polygon.astype(np.float64)
    along = np.roll(start, -1, axis=0) - start
    length = np.hypot(*along.T)
    start, along, length = (part[length > SHORTEST_EDGE] for part in (start, along, length))
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / length[:, None]
    outward = np.sign(((start - start.mean(axis=0)) * normal).sum())
    return np.asarray((((start * normal).sum(axis=1) - points @ normal.T) * outward).min(axis=1))
