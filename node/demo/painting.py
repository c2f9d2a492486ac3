"""Endoscopic frames painted with numpy and OpenCV: nobody's colon, so free to ship and to show.

A frame is a tube seen from inside: its wall is coloured (tissue, vessels, ulcers), lit by the camera's lamp
(folds, relief, wet highlights), and put behind the processor's octagon and overlay text.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Pixels

Plane = NDArray[np.float32]
"""``(rows, columns)`` float32."""

TISSUE = np.array([206, 112, 84], np.float32)
TISSUE_FAR = np.array([120, 44, 30], np.float32)
VESSEL = np.array([150, 40, 40], np.float32)
ERYTHEMA = np.array([186, 52, 48], np.float32)
FIBRIN = np.array([232, 214, 160], np.float32)
STEEL = np.array([168, 172, 178], np.float32)
TEXT_GREY = (214, 214, 214)
"""Colours, RGB: chosen by eye beside real white-light frames."""

CORNER_CUT = 0.17
"""Share of the picture's height that the octagon cuts off each corner."""


def _noise(rng: np.random.Generator, rows: int, columns: int, *, cell: float, octaves: int = 4) -> Plane:
    """Return smooth noise of about unit range; `cell` is the largest feature in pixels."""
    total = np.zeros((rows, columns), np.float32)
    for octave in range(octaves):
        size = max(2.0, cell / 2**octave)
        grid = rng.normal(size=(int(rows / size) + 3, int(columns / size) + 3)).astype(np.float32)
        total += cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


def _step(values: Plane, low: float, high: float) -> Plane:
    """Return 0 below `low`, 1 above `high`, smooth between."""
    x = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def _mix(image: Plane, colour: NDArray[np.float32], weight: Plane) -> Plane:
    return np.asarray(image + (colour - image) * weight[..., None], np.float32)


def _tube(rng: np.random.Generator, rows: int, columns: int) -> tuple[Plane, Plane, Plane]:
    """Return the wall's depth (0 at the camera), its height (relief) and the shade that its folds cast."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
    centre_y, centre_x = rng.uniform(0.2, 0.8), columns / rows * rng.uniform(0.2, 0.8)
    x = x - centre_x + 0.035 * _noise(rng, rows, columns, cell=rows / 2, octaves=2)
    y = y - centre_y + 0.035 * _noise(rng, rows, columns, cell=rows / 2, octaves=2)
    angle = np.arctan2(y, x)
    # The lumen of a colon is nearer a rounded triangle than a circle: three taeniae hold its wall.
    radius = np.hypot(x, y) * (1 + 0.10 * np.cos(3 * angle + rng.uniform(0, 6.28)))
    depth = (0.26 / (radius + 0.07)).astype(np.float32)
    # A fold is bright along its crest, which hides what lies just behind it: there the wall is in shadow.
    phase = 2.1 * depth + 0.20 * np.sin(2 * angle + rng.uniform(0, 6.28)) + rng.uniform(0, 1)
    behind, crest = phase % 1, np.round(phase)
    reach = _step(np.cos(2 * angle + 2.4 * crest + rng.uniform(0, 6.28)).astype(np.float32), -0.7, 0.8)
    shade = 1 - 0.62 * reach * np.exp(-behind / 0.22) + 0.20 * reach * np.exp(-(1 - behind) / 0.10)
    relief = 0.012 * _noise(rng, rows, columns, cell=rows / 4, octaves=3)
    return depth, relief.astype(np.float32), shade.astype(np.float32)


def _vessels(rng: np.random.Generator, rows: int, columns: int) -> Plane:
    """Return trees of wandering, thinning, forking lines: the net seen through healthy mucosa."""
    net = np.zeros((rows, columns), np.uint8)
    tips = [
        (rng.uniform(0, columns), rng.uniform(0, rows), rng.uniform(0, 6.28), rows / 180) for _ in range(9)
    ]
    while tips:
        x, y, heading, width = tips.pop()
        for _ in range(int(rng.integers(8, 22))):
            heading += rng.normal(0, 0.28)
            to_x, to_y = x + rows / 52 * np.cos(heading), y + rows / 52 * np.sin(heading)
            cv2.line(net, (int(x), int(y)), (int(to_x), int(to_y)), 255, max(1, round(width)), cv2.LINE_AA)
            x, y, width = to_x, to_y, width * 0.98
        if width > rows / 600:
            fork = rng.uniform(0.35, 0.8)
            tips += [(x, y, heading + fork, width * 0.72), (x, y, heading - fork, width * 0.6)]
    return np.asarray(cv2.GaussianBlur(net, (0, 0), rows / 640).astype(np.float32) / 255, np.float32)


def _ulcers(rng: np.random.Generator, image: Plane, height: Plane, near: Plane) -> tuple[Plane, Plane]:
    """Make the wall red and granular, with fibrin-covered ulcers in it; return image and height."""
    rows, columns = height.shape
    patchy = _noise(rng, rows, columns, cell=rows / 4)
    image = _mix(image, ERYTHEMA, 0.7 * _step(patchy, -1.6, 1.0) * near)
    grains = _noise(rng, rows, columns, cell=rows / 90, octaves=2)
    image = _mix(image, VESSEL, 0.35 * _step(grains + 0.7 * patchy, 1.3, 2.8))
    edge = 0.30 * _noise(rng, rows, columns, cell=rows / 14, octaves=3)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
    inside = np.full((rows, columns), -9, np.float32)
    for _ in range(int(rng.integers(4, 8))):
        turn, long, wide = rng.uniform(0, 3.14), rng.uniform(0.05, 0.13), rng.uniform(0.025, 0.055)
        dx, dy = x - columns / rows * rng.uniform(0.12, 0.88), y - rng.uniform(0.12, 0.88)
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        inside = np.maximum(inside, 1 - np.hypot(u / long, v / wide) + edge)
    image = _mix(image, ERYTHEMA, 0.75 * _step(inside, -0.9, 0.1) * near)
    image = _mix(image, FIBRIN * (1 + 0.05 * patchy[..., None]), 0.8 * _step(inside, 0.0, 0.35) * near)
    granular = 0.0016 * _noise(rng, rows, columns, cell=rows / 45, octaves=2) * (inside < 0)
    return image, height + granular - 0.02 * _step(inside, -0.1, 0.3)


def _light(rng: np.random.Generator, image: Plane, height: Plane, depth: Plane, shade: Plane) -> Plane:
    """Shade the wall by its slope and distance from the lamp, and put wet highlights where it faces us."""
    rows, columns = height.shape
    dy, dx = np.gradient(cv2.GaussianBlur(height, (0, 0), 1.2) * rows)
    slope_y, slope_x = np.gradient(depth * rows * 0.12)
    facing = 1 / np.sqrt(1 + 4 * ((dx - slope_x) ** 2 + (dy - slope_y) ** 2))
    lamp = 1.30 * np.exp(-0.95 * np.maximum(depth - 0.25, 0)) * shade
    image = image * (lamp * (0.40 + 0.64 * facing))[..., None]
    image = image + np.array([26, 22, 4], np.float32) * _step(lamp * facing, 0.75, 1.25)[..., None]
    wet = _noise(rng, rows, columns, cell=rows / 34, octaves=4)
    pooled = _noise(rng, rows, columns, cell=rows / 5, octaves=2)
    glint = _step(wet + 0.6 * pooled + 1.2 * facing, 3.5, 4.0) * _step(lamp, 0.5, 0.8)
    return _mix(image, np.array([255, 252, 244], np.float32), np.asarray(glint, np.float32))


def _instrument(rng: np.random.Generator, image: Plane) -> Plane:
    """Draw closed biopsy forceps that enter from the lower edge."""
    rows, columns = image.shape[:2]
    tip = np.array([columns * rng.uniform(0.45, 0.6), rows * rng.uniform(0.45, 0.6)])
    start = np.array([columns * rng.uniform(0.62, 0.8), rows * 1.02])
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    axis = (tip - start) / np.linalg.norm(tip - start)
    along = (x - start[0]) * axis[0] + (y - start[1]) * axis[1]
    across = ((x - start[0]) * axis[1] - (y - start[1]) * axis[0]) / (rows * 0.032)
    length = float(np.linalg.norm(tip - start))
    jaws = length * 0.80
    half = np.where(along < jaws, 1.0, np.sqrt(np.clip((length - along) / (length - jaws), 0, 1)) * 1.1)
    body = _step((half - np.abs(across)).astype(np.float32), 0.0, 0.12)
    body *= along < length
    coil = 0.90 + 0.10 * np.sin(along / rows * 260) * (along < jaws)
    shade = (0.35 + 0.65 * np.sqrt(np.clip(1 - (across + 0.25) ** 2 / 1.6, 0, 1))) * coil
    slit = 0.10
    shade = np.where((along > jaws) & (np.abs(across) < slit), 0.25 * shade, shade)
    shadow = cv2.GaussianBlur(np.roll(body, (rows // 50, rows // 40), (0, 1)), (0, 0), rows / 70)
    image = image * (1 - 0.5 * shadow)[..., None]
    return np.asarray(image + (STEEL * shade[..., None] - image) * body[..., None], np.float32)


def paint_frame(
    seed: int, *, ulcers: bool, instrument: bool, text: str | None, rows: int = 576, columns: int = 720
) -> Pixels:
    """Paint one frame.

    Parameters
    ----------
    seed
        The same seed gives the same frame.
    ulcers
        Whether the mucosa is red, without vessels and ulcerated.
    instrument
        Whether closed forceps are in view.
    text
        What the processor burns in at the upper left (ASCII, lines by newline), or None.

    Returns
    -------
    ``(rows, columns, 3)`` uint8, RGB, full range.
    """
    rng = np.random.default_rng(seed)
    depth, height, shade = _tube(rng, rows, columns)
    near = 1 - _step(depth, 0.7, 1.4)
    image = np.broadcast_to(TISSUE, (rows, columns, 3)).astype(np.float32)
    image = image * (1 + 0.05 * _noise(rng, rows, columns, cell=rows / 5, octaves=5))[..., None]
    image = image * (1 + 0.035 * _noise(rng, rows, columns, cell=rows / 170, octaves=1))[..., None]
    image = _mix(image, TISSUE_FAR, _step(depth, 0.5, 1.8))
    if ulcers:
        image, height = _ulcers(rng, image, height, near)
    else:
        image = _mix(image, VESSEL, 0.6 * _vessels(rng, rows, columns) * near)
    image = _light(rng, image, height, depth, shade)
    if instrument:
        image = _instrument(rng, image)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    off_centre = np.hypot((x - columns / 2) / columns, (y - rows / 2) / rows) * 2
    image = image * (1 - 0.22 * _step(off_centre, 0.7, 1.4))[..., None]
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), rows / 900), np.float32)
    image = image + rng.normal(0, 2.0, image.shape[:2]).astype(np.float32)[..., None]
    painted = np.clip(image, 0, 255).astype(np.uint8)
    return _behind_the_border(painted, text)


def _behind_the_border(painted: Pixels, text: str | None) -> Pixels:
    rows, columns = painted.shape[:2]
    cut, left = int(rows * CORNER_CUT), int(columns * 0.02)
    right, last = columns - left - 1, rows - 1
    corners = [
        (left + cut, 0), (right - cut, 0), (right, cut), (right, last - cut),
        (right - cut, last), (left + cut, last), (left, last - cut), (left, cut),
    ]  # fmt: skip
    field = np.zeros((rows, columns), np.uint8)
    cv2.fillConvexPoly(field, np.array(corners, np.int32), 255)
    framed = painted.copy()
    framed[field == 0] = 3
    for number, line in enumerate((text or "").splitlines()):
        at, size = (left + 6, int(rows * (0.055 + 0.042 * number))), rows / 1150
        cv2.putText(framed, line, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(framed, line, at, cv2.FONT_HERSHEY_SIMPLEX, size, TEXT_GREY, 1, cv2.LINE_AA)
    return framed
