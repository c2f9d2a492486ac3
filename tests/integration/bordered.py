"""Borders of known outline, drawn over real mucosa."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.frame import Box, Pixels

FINE = 4
TEXTS = ("12/03/2013", "14:22:07", "Name:", "D.O.B.:", "ID: 00412", "CVP:7", "Physician:")


@dataclass(frozen=True)
class Bordered:
    """A frame, what is inside its border, and the painted scope-position box."""

    pixels: Pixels
    inside: NDArray[np.bool_]
    box: Box | None


def backgrounds(folder: Path, *, capsule: bool = False) -> Iterator[Pixels]:
    """Return inner crops of real frames without a border of their own: next to nothing in them is black."""
    for path in sorted(folder.rglob("*.jpg")):
        frame = np.array(Image.open(path).convert("RGB"))
        rows, columns = frame.shape[:2]
        down, across = ((0.16, 0.84), (0.16, 0.84)) if capsule else ((0.12, 0.62), (0.36, 0.86))
        crop = frame[slice(*(int(a * rows) for a in down)), slice(*(int(a * columns) for a in across))]
        if (crop.max(axis=2) <= 10).mean() < 0.002:
            yield crop


def bordered(random: np.random.Generator, mucosa: Pixels, shape: str, size: tuple[int, int]) -> Bordered:
    """Draw one frame: a vignette, a lumen, a dark corner, a box and words, each on some; then JPEG."""
    rows, columns = size
    share = _outline(random, shape, rows, columns)
    inside = share > 0.5
    lit = cv2.resize(mucosa, (columns, rows), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    lit *= _shade(random, inside)[..., np.newaxis]
    border = random.uniform(0, 4 if random.random() < 0.5 else 14) + random.normal(0, 1, (rows, columns, 1))
    if random.random() < 0.5:
        blurred = cv2.GaussianBlur(share, (0, 0), random.uniform(0.4, 1.4), borderType=cv2.BORDER_REPLICATE)
        share = np.asarray(blurred, np.float32)
    frame = border * (1 - share[..., np.newaxis]) + lit * share[..., np.newaxis]
    frame = np.clip(frame, 0, 255).astype(np.uint8)
    box = _box(random, inside) if random.random() < 0.4 else None
    teal = random.random() < 0.3
    if box is not None and teal:
        frame[box[1] : box[3], box[0] : box[2]] = (0, 160, 135)
    if random.random() < 0.6:
        _letter(random, frame)
    if box is not None and not teal:
        frame[box[1] : box[3], box[0] : box[2]] = random.uniform(0, 4)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(60, 96))]
    _, packed = cv2.imencode(".jpg", frame[..., ::-1], quality)
    decoded = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    assert decoded is not None
    return Bordered(np.ascontiguousarray(decoded[..., ::-1], np.uint8), inside, box)


def hausdorff(one: NDArray[np.bool_], other: NDArray[np.bool_], hidden: Box | None) -> float:
    """Return the Hausdorff distance, in pixels, of two outlines where no box hides them."""
    edges = []
    for mask in (one, other):
        padded = np.pad(mask, 1).astype(np.uint8)
        edge = padded - cv2.erode(padded, np.ones((3, 3), np.uint8))
        if hidden is not None:
            edge[max(0, hidden[1] - 6) :, : hidden[2] + 8] = 0
        edges.append(edge > 0)
    if not edges[0].any() or not edges[1].any():
        return float("inf")
    away = [cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5) for edge in edges]
    return float(max(away[0][edges[1]].max(), away[1][edges[0]].max()))


def _outline(random: np.random.Generator, shape: str, rows: int, columns: int) -> NDArray[np.float32]:
    """Return how much of each pixel lies inside, drawn four times as fine."""
    high, wide = rows * FINE, columns * FINE
    fine = np.zeros((high, wide), np.uint8)
    u = random.uniform
    if shape == "full":
        fine[:] = 1
    elif shape == "rectangle":
        left, right = (u(0, 0.28), u(0, 0.1)) if random.random() < 0.5 else (u(0.01, 0.12), u(0.01, 0.12))
        top, bottom = (0.0, 0.0) if random.random() < 0.3 else (u(0, 0.12), u(0, 0.12))
        fine[int(top * high) : high - int(bottom * high), int(left * wide) : wide - int(right * wide)] = 1
    elif shape == "circle":
        radius, x, y = u(0.40, 0.60) * high, u(0.44, 0.56) * wide, u(0.47, 0.53) * high
        cv2.circle(fine, (int(x), int(y)), int(radius), 1, -1)
        if random.random() < 0.3:
            half = u(0.85, 0.97) * radius
            fine[:, : max(0, int(x - half))] = 0
            fine[:, int(x + half) :] = 0
    else:
        left, right, top, bottom = u(0, 0.2) * wide, u(0.94, 1) * wide, 0.0, float(high)
        if random.random() < 0.6:
            top, bottom = u(0, 0.06) * high, u(0.94, 1) * high
        cut, slope = u(0.1, 0.32) * (bottom - top), u(0.8, 1.25)
        low = cut if random.random() < 0.7 else u(0.1, 0.32) * (bottom - top)
        corners = [
            (left + slope * cut, top), (right - slope * cut, top), (right, top + cut), (right, bottom - low),
            (right - slope * low, bottom), (left + slope * low, bottom), (left, bottom - low),
            (left, top + cut),
        ]  # fmt: skip
        cv2.fillPoly(fine, [np.array(corners).astype(np.int32)], 1)
    share = cv2.resize(fine.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(share, np.float32)


def _shade(random: np.random.Generator, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    rows, columns = inside.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    shade = np.ones((rows, columns), np.float32)
    padded = np.pad(inside, 1).astype(np.uint8)
    if random.random() < 0.4:  # a vignette, down to a quarter at the rim
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        low = random.uniform(0.25, 0.8)
        shade *= low + (1 - low) * np.clip(depth / random.uniform(40, 160), 0, 1)
    if random.random() < 0.4:  # a lumen at the border
        rim = np.argwhere((padded - cv2.erode(padded, np.ones((3, 3), np.uint8)))[1:-1, 1:-1])
        row, column = rim[random.integers(len(rim))]
        radius = random.uniform(0.036, 0.096) * rows
        dark = np.exp(-((((x - column) ** 2 + (y - row) ** 2) / (2 * radius**2)) ** 2))
        shade *= 1 - random.uniform(0.75, 0.97) * dark
    if random.random() < 0.2:  # a dark corner
        away = np.hypot(x - random.choice([0, columns]), y - random.choice([0, rows])) / rows
        shade *= 1 - random.uniform(0.5, 0.9) * np.exp(-((away / random.uniform(0.15, 0.35)) ** 2))
    return shade


def _box(random: np.random.Generator, inside: NDArray[np.bool_]) -> Box:
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    wide, high = random.uniform(0.24, 0.36, 2) * (np.ptp(columns), np.ptp(rows))
    bottom = (
        len(inside) if random.random() < 0.7 else int(rows[-1] - random.uniform(0.005, 0.03) * len(inside))
    )
    left = 0 if random.random() < 0.7 else max(0, int(columns[0]) - 5)
    return left, int(rows[-1] - high), int(columns[0] + wide), bottom


def _letter(random: np.random.Generator, frame: Pixels) -> None:
    rows, columns = frame.shape[:2]
    for _ in range(random.integers(2, 10)):
        left = random.uniform(0.75, 0.95) if random.random() < 0.25 else random.uniform(0, 0.22)
        place = (int(left * columns), int(random.uniform(0.05, 0.95) * rows))
        size, font = random.uniform(0.4, 1.0) * rows / 576, int(random.integers(0, 4))
        text, stroke = str(random.choice(TEXTS)), int(random.integers(1, 3))
        cv2.putText(frame, text, place, font, size, (235, 235, 235), stroke, cv2.LINE_AA)
