"""The evidence gate: no frame is shown to a person before no text is found on it any more.

It runs on what was decoded, before a word of ours is drawn. What it finds it blanks; it is never read.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from node.results.overlay import fit
from node.results.report import Verdict
from pipeline.clean.fill import fill
from pipeline.clean.text import Quad, TextDetector, blank, sides_and_slant, text_mask
from pipeline.frame import Pixels

ROUNDS = 4
"""Times that found text is blanked; what still shows some becomes a plate. Of 208 real frames of 720x576,
half of them with six strings painted on each, none does."""

STRIP_ROWS, STRIP_COLUMNS, STRIP_OVERLAP = 384, 512, 64
"""Most rows and columns that text is looked for in at once, at source resolution, and how far parts overlap.

The columns bound the detector's memory, which grows with what it is shown. Of 48 strings each of 9, 12 and
16 px, painted over 16 real frames, strips as wide as the frame wholly missed, on 576 and on 1080 rows: of 640
rows 6, 1, 0 and 2, 0, 1; of 384 none and 0, 1, 1; of 320, at more time, none and 4, 0, 1."""

LEAST_ASPECT, MOST_SLANT = 1.5, 8.0
"""Length over height, and degrees off the rows, of a box that is a line of text on one look's word:
reflections and dark rims are boxed as compact or slanted things. Chosen on 80 real frames, on which 2.2 hides
one string less of 480. On 104 others, free of text, five are patched, 0.02 % of the area (21, four of them
plates, where every box is text); of 624 strings of 9 to 28 px painted there, more than a tenth of eight stays
(eight); of 20 painted frames four are patched, 0.03 % (19)."""

LEAST_ROWS = 6
"""Height of a box, in pixels, below which it is no line: that of text of 9 px is 11 and more."""

AGREEMENT = 0.5
"""Share of any other box, a letter or two alone, that the look at the other scale must have boxed too."""

LETTERS = 0.06
MIDDLE = 300
"""Sides of a box, as a share of the short side, up to which one that a look alone has is looked at once more,
in the middle of a part of as many rows and columns."""

REACH = 0.016
"""How near to text a box is its rest, as a share of the short side: 9 px at 576 rows, a letter's gap."""

RIM = 0.005
"""Half the width, as a share of the short side, up to which what is found beside a patch is its rim."""

DOUBTFUL, LINE = 1, 2

PLATE_LEVEL = 44
"""Grey of an empty plate: neither tissue nor the border's black."""


Plane = NDArray[np.uint8]
"""``(rows, columns)`` uint8: 0, ``DOUBTFUL`` or ``LINE``."""


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """A frame as it may be shown, ``(rows, columns, 3)`` uint8 RGB of its own size; what was done to it."""

    pixels: Pixels
    verdict: Verdict


def pass_gate(pixels: Pixels, detector: TextDetector, *, shown: tuple[int, int]) -> Gated:
    """Return a frame with its text blanked, or an empty plate where text is found time and again.

    For the detector's eyes what is already blanked is filled: it takes flat patches for text (on 7 of 30
    real frames), and what was under them is gone whatever it says.

    A line that is found at one scale is text. A spot that is, is a reflection or a letter: it counts where it
    is found again, at the other scale or in a part cut round it, and where it stands beside text.

    Parameters
    ----------
    shown
        Rows and columns of the largest place on a page: a frame passes when no text is found at the source's
        scale, nor at this one.
    """
    everywhere = np.ones(pixels.shape[:2], np.bool_)
    gone = ~everywhere
    rim = _square(RIM, gone)
    parts = looks = [
        (across, along)
        for across in _parts(pixels.shape[0], STRIP_ROWS)
        for along in _parts(pixels.shape[1], STRIP_COLUMNS)
    ]
    whole = True
    for blanked_before in range(1 + ROUNDS):
        seen, _hole = fill(pixels, gone, everywhere)
        large, small = np.zeros(gone.shape, np.uint8), np.zeros(gone.shape, np.uint8)
        if whole:
            shrunk = _look(fit(seen, *shown), detector)
            cv2.resize(shrunk, large.shape[::-1], dst=large, interpolation=cv2.INTER_NEAREST)
        for look in looks:
            small[look] = np.maximum(small[look], _look(np.ascontiguousarray(seen[look]), detector))
        text, rest = _text_among(large, small, gone)
        if not blanked_before:
            lone = ((large > 0) | (small > 0)) & ~(text | rest)
            text |= _seen_again(lone, seen, detector)
        # Anew is what is more than the rim of a patch, whose fill may itself be taken for text.
        anew = cv2.erode((text & ~gone).view(np.uint8), rim) > 0 if gone.any() else text
        gone = gone | text | rest
        if not anew.any():
            return Gated(blank(pixels, gone), "blanked") if gone.any() else Gated(pixels, "clean")
        # Looks that have not found this would again find nothing; what a part has found is left to it.
        looks = [part for part in parts if anew[part].any()]
        whole = bool((anew & ~_pieces(_numbered(anew), small > 0, least=AGREEMENT)).any())
    return Gated(np.full_like(pixels, PLATE_LEVEL), "plate")


def _parts(length: int, most: int) -> list[slice]:
    """Return overlapping parts that cover a side: small text is lost where a large frame is shrunk."""
    count = 1 if length <= most else -(-length // (most - STRIP_OVERLAP))
    edges = [length * number // count for number in range(count + 1)]
    reach = STRIP_OVERLAP // 2
    return [slice(max(0, first - reach), last + reach) for first, last in pairwise(edges)]


def _look(pixels: Pixels, detector: TextDetector) -> Plane:
    """Return, for each pixel, whether it is in a box, in one that is a line of text, or in none."""
    rows, columns = pixels.shape[:2]
    quads = detector(pixels)
    boxed = text_mask(quads, rows=rows, columns=columns)
    lines = text_mask([quad for quad in quads if _is_line(quad)], rows=rows, columns=columns)
    return np.where(lines, LINE, np.where(boxed, DOUBTFUL, 0)).astype(np.uint8)


def _is_line(quad: Quad) -> bool:
    """Return whether a box is longer than high and lies along the rows, as what a processor writes does."""
    length, height, slant = sides_and_slant(quad)
    return height >= LEAST_ROWS and length >= LEAST_ASPECT * height and slant <= MOST_SLANT


def _text_among(
    large: Plane, small: Plane, gone: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what is text of that which looks at two scales have boxed, and the rest of it.

    A line is text; so is another box that both looks have. A box beside text is its rest.
    """
    text = (large == LINE) | (small == LINE)
    pieces_at = [
        (_numbered(boxed == DOUBTFUL), other > 0) for boxed, other in ((large, small), (small, large))
    ]
    for pieces, boxed_too in pieces_at:
        text |= _pieces(pieces, boxed_too, least=AGREEMENT)
    beside = cv2.dilate((text | gone).view(np.uint8), _square(REACH, gone)) > 0
    rest = np.zeros_like(text)
    for pieces, _ in pieces_at:
        rest |= _pieces(pieces, beside, least=0)
    return text, rest


def _seen_again(lone: NDArray[np.bool_], seen: Pixels, detector: TextDetector) -> NDArray[np.bool_]:
    """Return which boxes, of a letter or two at most, are found again in a part cut round one of them."""
    again, looked = np.zeros_like(lone), np.zeros_like(lone)
    _, pieces, boxes, middles = cv2.connectedComponentsWithStats(lone.view(np.uint8))
    is_small = boxes[:, 2:4].max(axis=1) <= LETTERS * min(lone.shape)
    for (x, y, columns, rows, _), middle in zip(boxes[is_small], middles[is_small], strict=True):
        if looked[y : y + rows, x : x + columns].all():
            continue
        first = (np.clip(middle[::-1] - MIDDLE / 2, 0, np.maximum(np.array(lone.shape) - MIDDLE, 0))).astype(
            int
        )
        window = (slice(first[0], first[0] + MIDDLE), slice(first[1], first[1] + MIDDLE))
        again[window] |= _look(np.ascontiguousarray(seen[window]), detector) > 0
        looked[window] = True
    again &= is_small[pieces]
    return _pieces(pieces.astype(np.int32), again, least=AGREEMENT)


def _pieces(pieces: NDArray[np.int32], within: NDArray[np.bool_], *, least: float) -> NDArray[np.bool_]:
    """Return the numbered pieces of which more than a share lies within."""
    area = np.bincount(pieces.ravel())
    kept = np.bincount(pieces[within], minlength=len(area)) > least * area
    kept[0] = False
    return np.asarray(kept[pieces])


def _numbered(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.asarray(cv2.connectedComponents(mask.view(np.uint8))[1], np.int32)


def _square(reach: float, frame: NDArray[np.bool_]) -> Plane:
    """Return a square of ones that reaches, on either side of its middle, a share of a frame's short side."""
    side = 2 * round(reach * min(frame.shape)) + 1
    return np.ones((side, side), np.uint8)
