"""The evidence gate: no frame is shown to a person before no text is found on it any more.

It runs on what was decoded, before a word of ours is drawn. What it finds it blanks; it is never read.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from node.results.overlay import fit
from node.results.report import Verdict
from pipeline.clean.fill import fill
from pipeline.clean.text import TextDetector, blank, text_mask
from pipeline.frame import Pixels

ROUNDS = 3
"""Times that found text is blanked; what still shows some becomes a plate."""

STRIP_ROWS, STRIP_OVERLAP = 640, 64
"""Most rows that text is looked for in at once, at source resolution, and how far strips overlap."""

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
    for _ in range(1 + ROUNDS):
        seen, _hole = fill(pixels, gone, everywhere)
        found = _text_at_source(seen, detector)
        if not found.any():
            found = _text_as_shown(seen, detector, shown)
        if not found.any():
            return Gated(blank(pixels, gone), "blanked") if gone.any() else Gated(pixels, "clean")
        gone |= found
    return Gated(np.full_like(pixels, PLATE_LEVEL), "plate")


def _text_at_source(pixels: Pixels, detector: TextDetector) -> NDArray[np.bool_]:
    """Return where text is, looked for in strips: small text is lost where a large frame is shrunk."""
    rows, columns = pixels.shape[:2]
    found = np.zeros((rows, columns), np.bool_)
    count = 1 if rows <= STRIP_ROWS else -(-rows // (STRIP_ROWS - STRIP_OVERLAP))
    for number in range(count):
        first, last = rows * number // count, rows * (number + 1) // count
        strip = slice(max(0, first - STRIP_OVERLAP // 2), last + STRIP_OVERLAP // 2)
        part = np.ascontiguousarray(pixels[strip])
        found[strip] |= text_mask(detector(part), rows=part.shape[0], columns=columns)
    return found


def _text_as_shown(pixels: Pixels, detector: TextDetector, shown: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where text is, in the whole frame as it is put on a page: also text too large for a strip."""
    fitted = fit(pixels, *shown)
    found = text_mask(detector(fitted), rows=fitted.shape[0], columns=fitted.shape[1])
    rows, columns = pixels.shape[:2]
    return cv2.resize(found.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST) > 0
