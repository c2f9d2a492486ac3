"""Fit lines and ellipses to points of which many lie elsewhere: each point votes for what it lies on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Spots = NDArray[np.float64]
"""``(n, 2)`` float64: x and y."""

Ellipse = NDArray[np.float64]
"""``(4,)`` float64: x and y of the middle, then the radii along x and y."""

LEAST_POINTS = 5
"""Points that make a line believable."""

SLANTED = 0.45
"""Least of either component of a cut corner's normal, 27 to 63 degrees: 99 % of 2,389 in real frames have
28 to 53."""

CIRCLE, ELLIPSE = 3, 4
"""Unknowns of each."""

TRIALS = 64
"""Random samples: with half the points astray, four pure samples of four are drawn on average, and the
refinement needs one."""

MORE = 1.1
"""How many times the circle's points an ellipse must hold; matched frames are squeezed to squares."""

SINGULAR = 1e-3
"""Determinant, of points scaled to a deviation of 1, below which a sample says nothing."""

SLIMMEST = 0.4
"""Least squared ratio of radii, either way: 1.6 to 1 is more than any resampling squeezes."""


class Line(NamedTuple):
    """The image lies where ``normal @ point <= offset``."""

    normal: NDArray[np.float64]
    offset: float


def fit_side(points: Spots, axis: int, sign: int, tolerance: float) -> Line | None:
    """Return the upright (axis 0) or level line that most points of one half lie on; of equals, the outer."""
    low, high = points[:, axis].min(), points[:, axis].max()
    values = np.sort(sign * points[:, axis])
    values = values[values > sign * (low + high) / 2]
    if len(values) < LEAST_POINTS:
        return None
    votes = (np.abs(values - values[:, None]) < tolerance).sum(axis=1)
    best = len(votes) - 1 - int(votes[::-1].argmax())
    if votes[best] < LEAST_POINTS:
        return None
    normal = np.zeros(2)
    normal[axis] = sign
    return Line(normal, float(np.median(values[np.abs(values - values[best]) < tolerance])))


def fit_cut(points: Spots, towards: tuple[int, int], tolerance: float) -> Line | None:
    """Return the slanted line that most points of one corner lie on; every pair of points proposes one."""
    if len(points) < LEAST_POINTS:
        return None
    first, second = np.triu_indices(len(points), 3)
    along = points[second] - points[first]
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normals /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    normals *= np.sign(normals @ towards)[:, None]
    slanted = (normals * towards > SLANTED).all(axis=1)
    if not slanted.any():
        return None
    normals, first = normals[slanted], first[slanted]
    offsets = (normals * points[first]).sum(axis=1)
    votes = (np.abs(points @ normals.T - offsets) < tolerance).sum(axis=0)
    best = int(votes.argmax())
    if votes[best] < LEAST_POINTS:
        return None
    on = points[np.abs(points @ normals[best] - offsets[best]) < tolerance]
    middle = on.mean(axis=0)
    normal = np.linalg.svd(on - middle)[2][1]
    normal *= np.sign(normal @ towards)
    return Line(normal, float(normal @ middle))


def fit_ellipse(points: Spots, tolerance: float, *, enough: float) -> Ellipse | None:
    """Return the circle that most points lie on, or the level ellipse where it holds a tenth more of them.

    By random samples (Fischler and Bolles 1981), always the same ones, and least squares over the points
    within tolerance of the best. A circle that holds the share ``enough`` is not compared.
    """
    random = np.random.default_rng(0)
    middle, size = points.mean(axis=0), float(points.std())
    scaled, near = (points - middle) / size, tolerance / size
    best, most = None, 0
    for unknowns in (CIRCLE, ELLIPSE):
        design, target = _equations(scaled, unknowns)
        picks = random.integers(0, len(points), (TRIALS, unknowns))
        sound = np.abs(np.linalg.det(design[picks])) > SINGULAR
        answers = np.linalg.solve(design[picks[sound]], target[picks[sound]][..., None])[..., 0]
        proposed = _ellipses(answers)
        votes = (np.abs(distances(proposed, scaled)) < near).sum(axis=1)
        if not len(votes) or votes.max() < MORE * most:
            continue
        chosen = proposed[int(votes.argmax())]
        for _ in range(2):
            on = np.abs(distances(chosen[None], scaled)[0]) < near
            refined = _ellipses(np.linalg.lstsq(design[on], target[on], rcond=None)[0][None])
            chosen = refined[0] if len(refined) else chosen
        best, most = chosen, int(votes.max())
        if most > enough * len(points):
            break
    return None if best is None else np.concatenate([best[:2] * size + middle, best[2:] * size])


def distances(ellipses: NDArray[np.float64], points: Spots) -> NDArray[np.float64]:
    """Return ``(ellipses, points)`` float64: how far outside, near enough, each point lies of each."""
    x, y = ((points[:, axis] - ellipses[:, axis, None]) / ellipses[:, axis + 2, None] for axis in (0, 1))
    return np.asarray((np.sqrt(x * x + y * y) - 1) * ellipses[:, 2:].mean(axis=1, keepdims=True))


def held_by(lines: Sequence[Line], points: Spots, tolerance: float) -> NDArray[np.bool_]:
    """Return ``(points,)`` bool: which lie on any of the lines."""
    held = np.zeros(len(points), np.bool_)
    for line in lines:
        held |= np.abs(points @ line.normal - line.offset) < tolerance
    return held


def _equations(points: Spots, unknowns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the linear equations that hold at every point of an ellipse; `_ellipses` reads the unknowns."""
    x, y = points.T
    if unknowns == CIRCLE:
        return np.stack([x, y, np.ones_like(x)], axis=1), x**2 + y**2
    return np.stack([x, y, np.ones_like(x), -(y**2)], axis=1), x**2


def _ellipses(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return those answers that are ellipses of endoscopic proportions, ``(n, 4)``."""
    ratio = answers[:, 3] if answers.shape[1] == ELLIPSE else np.ones(len(answers))
    fine = (ratio > SLIMMEST) & (ratio < 1 / SLIMMEST)
    x, ratio, rest = answers[fine, 0] / 2, ratio[fine], answers[fine, 2]
    y = answers[fine, 1] / (2 * ratio)
    square = np.maximum(rest + x**2 + ratio * y**2, 0)
    ellipses = np.stack([x, y, np.sqrt(square), np.sqrt(square / ratio)], axis=1)
    return np.asarray(ellipses[square > 0])
