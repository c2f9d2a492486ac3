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
from pipeline.clean.text import TextDetector, blank, text_mask
from pipeline.frame import Pixels

ROUNDS = 4
"""Times that found text is blanked; what still shows some becomes a plate. Of 40 real frames 37 need at most
two, two three, one four; none becomes a plate."""

STRIP_ROWS, STRIP_COLUMNS, STRIP_OVERLAP = 384, 512, 64
"""Most rows and columns that text is looked for in at once, at source resolution, and how far parts overlap.

The columns bound the detector's memory, which grows with what it is shown. Of 48 strings each of 9, 12 and
16 px, painted over 16 real frames, strips as wide as the frame wholly missed, on 576 and on 1080 rows: of 640
rows 6, 1, 0 and 2, 0, 1; of 384 none and 0, 1, 1; of 320, at more time, none and 4, 0, 1."""

PLATE_LEVEL = 44
"""Grey of an empty plate: neither tissue nor the border's black."""


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """A frame as it may be shown, ``(rows, columns, 3)`` uint8 RGB of its own size; what was done to it."""

    pixels: Pixels
    verdict: Verdict


def pass_gate(pixels: Pixels, detector: TextDetector, *, shown: tuple[int, int]) -> Gated:
    """Return a frame with its text blanked, or an empty plate where text is found time and again.

    For the detector's eyes what is already blanked is filled: it takes flat patches for text (on 7 of 30
    real frames), and what was under them is gone whatever it says.

    Parameters
    ----------
    shown
        Rows and columns of the largest place on a page: a frame passes when no text is found at the source's
        scale, nor at this one.
    """
    everywhere = np.ones(pixels.shape[:2], np.bool_)
    gone = ~everywhere
    parts = looks = [
        (across, along)
        for across in _parts(pixels.shape[0], STRIP_ROWS)
        for along in _parts(pixels.shape[1], STRIP_COLUMNS)
    ]
    for _ in range(1 + ROUNDS):
        seen, _hole = fill(pixels, gone, everywhere)
        found = _text_as_shown(seen, detector, shown)
        for look in looks:
            part = np.ascontiguousarray(seen[look])
            found[look] |= text_mask(detector(part), rows=part.shape[0], columns=part.shape[1])
        if not found.any():
            return Gated(blank(pixels, gone), "blanked") if gone.any() else Gated(pixels, "clean")
        gone |= found
        looks = [part for part in parts if found[part].any()]  # the others would be found clean again
    return Gated(np.full_like(pixels, PLATE_LEVEL), "plate")


def _parts(length: int, most: int) -> list[slice]:
    """Return overlapping parts that cover a side: small text is lost where a large frame is shrunk."""
    count = 1 if length <= most else -(-length // (most - STRIP_OVERLAP))
    edges = [length * number // count for number in range(count + 1)]
    reach = STRIP_OVERLAP // 2
    return [slice(max(0, first - reach), last + reach) for first, last in pairwise(edges)]


def _text_as_shown(pixels: Pixels, detector: TextDetector, shown: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where text is, in the whole frame as it is put on a page: also text too large for a strip."""
    fitted = fit(pixels, *shown)
    found = text_mask(detector(fitted), rows=fitted.shape[0], columns=fitted.shape[1])
    rows, columns = pixels.shape[:2]
    return cv2.resize(found.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST) > 0
