"""Overlay text that stands still: learnt from a few frames of a layout, confirmed cheaply on the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea
from pipeline.clean.strokes import (
    Channels,
    Plane,
    stroke_height,
    strokes_at,
    text_like,
    working_channels,
)
from pipeline.frame import Box, Pixels

MAJORITY = 0.5
"""Share of the samples above which a masked pixel stands still."""

ENVELOPE = 0.1
"""Share above which a pixel beside one that stands still is masked with it: boxes jitter by a pixel or two.
106 frames of other tissue behind one overlay, learnt from 16 of them: 0.06 covers 0.982 of what full
detection masks and is 1.07 times as large, 0.1 0.980 and 1.06, 0.15 0.976 and 1.03; on 64 others 0.1 0.988
and 1.08, 0.06 0.991 and 1.13. What is not covered is, more than half, tissue that full detection took for
text."""

LEAST_HELD = 0.5
"""Strokes that a known string must still have, as a share of its median over the samples: the digits of a
clock change them by a quarter."""

GROWTH = 0.1
"""Strokes beside a string, as a share of the square beside it, from which it has grown by a letter: the
thinnest, an i of 9 px, covers 0.06."""

LIT = 60
MOST_LIT = 6
"""Brightest channel, and pixels, from which something new stands on black. JPEG leaves black at 0-20; the
smallest digit painted has 12 pixels above it."""

RIM = 9
"""Pixels outside the content that its glow may light."""

COLOURED = 40
MOST_COLOURED = 10
"""Green or blue over red, and pixels, from which green or cyan letters are new. Mucosa stays below 20."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownText:
    """The text that stands still in one layout, and what else may be seen there.

    Attributes
    ----------
    mask
        ``(rows, columns)`` bool in source pixels, read-only: what a confirmed frame has masked.
    content
        The rectangle of the layout's content area.
    strings
        Each known string: its rectangle, the fewest strokes within, the most to its left and to its right.
    searched
        1 where nothing like text may appear: all but the known text and what always looks like text, though
        it was never detected as such. This and the next are at the working scale.
    dark
        1 where no sample was lit, apart from text: outside the content and its glow.
    most_coloured
        Pixels greener or bluer than tissue that a frame may have.
    """

    mask: NDArray[np.bool_]
    content: Box
    strings: tuple[tuple[Box, float, float, float], ...]
    searched: Plane
    dark: Plane
    most_coloured: int

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for plane in (self.mask, self.searched, self.dark):
            plane.setflags(write=False)


def learn_text(samples: Sequence[tuple[Pixels, NDArray[np.bool_]]], area: ContentArea) -> KnownText:
    """Return what stands still in frames of one layout.

    Parameters
    ----------
    samples
        Each a frame and the ``(rows, columns)`` bool mask that full detection gave it.
    area
        The content area of the layout.
    """
    votes = np.asarray(np.sum([mask for _, mask in samples], axis=0, dtype=np.uint8))
    loose = np.greater(votes, ENVELOPE * len(samples))
    mask = _envelope(np.greater(votes, MAJORITY * len(samples)), loose)
    frames = [working_channels(pixels) for pixels, _ in samples]
    shape = frames[0][0].shape
    masks = [_shrunk(text, shape) for _, text in samples]
    known = _shrunk(mask, shape)
    heights = [stroke_height(frame[1]) for frame in frames]
    strokes = [strokes_at(height) for height in heights]
    beside = 1 - _grown(known, 1)
    looks_like = [
        _painted(text_like(frame, height, beside), known.shape)
        for frame, height in zip(frames, heights, strict=True)
    ]
    always = (np.sum(looks_like, axis=0) > MAJORITY * len(samples)).astype(np.uint8)
    seen = np.maximum.reduce(masks) & beside
    searched = beside & ((1 - _grown(always, 2)) | seen)
    lit = [_lit(frame) & (1 - _grown(text, 2)) for frame, text in zip(frames, masks, strict=True)]
    coloured = [_coloured(frame) for frame in frames]
    content = _shrunk(area.mask, shape)
    dark = (1 - _grown(content, RIM)) & (1 - _grown(np.maximum.reduce(lit), 2)) & (1 - _grown(known, 2))
    return KnownText(
        mask=mask,
        content=area.box,
        strings=tuple(_string(box, strokes, beside) for box in _boxes(known)),
        searched=searched,
        dark=dark,
        most_coloured=MOST_COLOURED + 2 * max(cv2.countNonZero(each & searched) for each in coloured),
    )


def confirms(known: KnownText, pixels: Pixels, area: ContentArea) -> bool:
    """Return whether a frame of the layout shows the known text and nothing else like text."""
    if pixels.shape[:2] != known.mask.shape or area.box != known.content:
        return False
    frame = working_channels(pixels)
    if cv2.countNonZero(_lit(frame) & known.dark) > MOST_LIT:
        return False
    if cv2.countNonZero(_coloured(frame) & known.searched) > known.most_coloured:
        return False
    height = stroke_height(frame[1])
    strokes = strokes_at(height)
    if not all(_holds(string, strokes, known.searched) for string in known.strings):
        return False
    return not len(text_like(frame, height, known.searched))


def _holds(string: tuple[Box, float, float, float], strokes: Plane, searched: Plane) -> bool:
    box, least, most_left, most_right = string
    if _within(box, strokes) < least:
        return False
    left, right = _beside(box, strokes, searched)
    return left <= most_left and right <= most_right


def _string(box: Box, strokes: Sequence[Plane], searched: Plane) -> tuple[Box, float, float, float]:
    held = np.median([_within(box, plane) for plane in strokes])
    left, right = np.max([_beside(box, plane, searched) for plane in strokes], axis=0)
    grown = GROWTH * (box[3] - box[1]) ** 2
    return box, LEAST_HELD * float(held), float(left + grown), float(right + grown)


def _within(box: Box, strokes: Plane) -> int:
    x0, y0, x1, y1 = box
    return cv2.countNonZero(strokes[y0:y1, x0:x1])


def _beside(box: Box, strokes: Plane, searched: Plane) -> tuple[int, int]:
    """Return the strokes in the squares to the left and to the right of a string."""
    x0, y0, x1, y1 = box
    high = y1 - y0
    left = (slice(y0, y1), slice(max(0, x0 - high), x0))
    right = (slice(y0, y1), slice(x1, x1 + high))
    found = [int((strokes[window] & searched[window]).sum()) for window in (left, right)]
    return found[0], found[1]


def _envelope(core: NDArray[np.bool_], loose: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pieces of a mask that hold a pixel of another."""
    _, pieces = cv2.connectedComponents(loose.astype(np.uint8))
    return np.isin(pieces, np.unique(pieces[core]))


def _shrunk(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Plane:
    """Return a mask at the working scale; a pixel that it touches is in it."""
    size = (shape[1], shape[0])
    plane = mask.astype(np.uint8)
    if plane.shape == shape:
        return plane
    return (cv2.resize(plane * 255, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)


def _grown(plane: Plane, distance: int) -> Plane:
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return cv2.dilate(plane, square).astype(np.uint8)


def _lit(channels: Channels) -> Plane:
    red, green, blue = channels
    return _above(cv2.max(cv2.max(red, green), blue), LIT)


def _coloured(channels: Channels) -> Plane:
    red, green, blue = channels
    return _above(cv2.subtract(cv2.max(green, blue), red), COLOURED)


def _above(plane: NDArray[Any], level: int) -> Plane:
    found: Plane = cv2.threshold(plane, level, 1, cv2.THRESH_BINARY)[1]  # type: ignore[assignment]
    return found


def _boxes(plane: Plane) -> list[Box]:
    contours, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = [cv2.boundingRect(contour) for contour in contours]
    return [(x, y, x + columns, y + rows) for x, y, columns, rows in found]


def _painted(boxes: NDArray[np.intp], shape: tuple[int, ...]) -> Plane:
    plane = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        plane[y0:y1, x0:x1] = 1
    return plane
