"""Where an overlay's text stands: places that samples agree on, masked even where glare hides the letters."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.overlay import evened, faint_strokes

Mask = NDArray[np.bool_]
Places = NDArray[np.uint8]

AGREEING, SHARE = 3, 0.4
"""Samples, and share of them, that must have text at a pixel for an overlay to stand there. Text that is
elsewhere on every frame covers a twentieth of each: of 316 frames with such text, cleaned as one folder,
0.79 % of what is far from it is masked, as where each is alone; with two samples enough it was 9.4 %."""

SEEN, UPRIGHT = 0.1, 0.4
"""Share of the samples above which a piece in an overlay's columns is a place too, and share of its rectangle
that an upright piece fills: a counter is shown now and then; a reflection lies anywhere, and aslant."""

NEAR = (0.006, 0.08)
"""Shares of rows and columns by which two sizes differ that are one processor's, cropped below and on the
right: of 207 frames of a public folder 33 have a size of their own, all within this of one of four sizes."""

STANDING, EMPTY = 30, 0.04
"""Evened contrast of a stroke, and share of a place that strokes cover, up to which it is empty. Of 270
places on text-free tissue a quarter are seen to be; a counter on white glare has 0.054. At 50 and 0.02 such
counters of 0.001 stay readable."""

ROUND = 16
"""Pixels round a place from which its contrast is evened."""


def learn_places(masks: Sequence[Mask], shape: tuple[int, int]) -> Places:
    """Return ``shape`` uint8, read-only: the number of each place where an overlay has text, else 0.

    What fewer samples have counts where it stands above or below text that they agree on. Places past the
    255th share its number.

    Parameters
    ----------
    masks
        ``(rows, columns)`` bool: the text found on each sample of about this size.
    """
    votes = np.zeros(shape, np.uint8)
    for mask in masks:
        votes += fitted(mask, shape)
    agreed = _upright(votes >= max(AGREEING, SHARE * len(masks)))
    places = _upright(votes > SEEN * len(masks), columns=np.any(agreed, axis=0))
    places.setflags(write=False)
    return places


def standing(places: Places, pixels: NDArray[np.uint8]) -> Mask:
    """Return the places that are not seen to be empty in an RGB frame of about their size.

    Text on glare may be too faint to be found, and is read all the same.
    """
    rows, columns = pixels.shape[:2]
    here = fitted(places, (rows, columns))
    kept = np.zeros(256, np.uint8)
    for number in range(1, int(here.max(initial=0)) + 1):
        x, y, wide, high = cv2.boundingRect((here == number).view(np.uint8))
        top, left = max(0, y - ROUND), max(0, x - ROUND)
        even = evened(pixels[top : y + high + ROUND, left : x + wide + ROUND], short=min(rows, columns))
        strokes = faint_strokes(even, short=min(rows, columns))[y - top :, x - left :][:high, :wide]
        kept[number] = strokes.size > 0 and (strokes > STANDING).mean() > EMPTY
    return cv2.LUT(here, kept).view(np.bool_)


def is_near(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two sizes, rows and columns, are one processor's."""
    return all(abs(one - two) <= slack * one for one, two, slack in zip(size, other, NEAR, strict=True))


def fitted(plane: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return a plane cropped, or grown by zeros, below and on the right."""
    if plane.shape == shape:
        return plane
    here = np.zeros(shape, plane.dtype)
    common = plane[: shape[0], : shape[1]]
    here[: common.shape[0], : common.shape[1]] = common
    return here


def _upright(mask: Mask, *, columns: Any = None) -> Places:
    """Return the numbers of pieces that lie along the rows, at least half of their width in some columns."""
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    left, _, width, height, area = boxes[1:].T
    kept = area >= UPRIGHT * width * height
    if columns is not None:
        within = np.append(0, np.cumsum(columns))
        kept &= within[left + width] - within[left] >= width / 2
    numbers = np.append(0, np.cumsum(kept) * kept)
    return np.asarray(np.minimum(numbers[pieces], 255), np.uint8)
