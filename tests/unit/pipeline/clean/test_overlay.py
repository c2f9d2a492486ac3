"""What one look of a detector leaves, for glare hides it, is masked where text is likely to stand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.clean.overlay import evened, find_text, without_slits
from pipeline.clean.text import Quad, TextDetector
from pipeline.frame import Box, Pixels
from tests.overlays import Line, paint

SMOOTH = np.full((576, 720, 3), (190, 110, 90), np.uint8)
"""Tissue on which nothing is seen."""

COLUMN = ((20, 100, 120, 124), (20, 122, 130, 146), (21, 144, 110, 168))
"""Boxes of three lines with one left edge."""


def boxing(*boxes: Box) -> TextDetector:
    """Return a detector that finds the same boxes in every frame."""

    def detect(pixels: Pixels) -> Sequence[Quad]:
        del pixels
        return [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32) for x0, y0, x1, y1 in boxes]

    return detect


def counter_under(column: Sequence[Box], frame: Pixels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the mask of a frame with a faint counter, and the counter's letters."""
    painted = paint(frame, [Line("1/2", 24, 230, "DejaVuSansMono", 14, (205, 130, 112))])
    return find_text(boxing(*column), painted.pixels), painted.letters


def test_a_line_found_in_part_is_masked_from_its_columns_edge() -> None:
    """Glare hides the first digits of a time, which are its hour."""
    half = (75, 200, 110, 224)
    assert find_text(boxing(*COLUMN, half), SMOOTH)[203:221, 20:110].all()
    assert not find_text(boxing(half), SMOOTH)[203:221, 20:70].any()


def test_a_faint_counter_under_a_column_is_masked() -> None:
    """Two digits and a stroke are too little for any look; beneath a column of text they are text."""
    mask, letters = counter_under(COLUMN, SMOOTH)
    assert mask[letters].mean() > 0.9
    alone, _ = counter_under(COLUMN[:1], SMOOTH)
    assert not alone[letters].any()


def test_what_is_found_at_one_of_two_looks_counts_where_it_lies_along_the_rows() -> None:
    """The second look boxes folds, which lie aslant: these alone must not be painted over."""
    slanted = np.array([(300, 300), (360, 340), (350, 355), (290, 315)], np.float32)
    level = np.array([(400, 400), (460, 400), (460, 420), (400, 420)], np.float32)

    def detect(pixels: Pixels) -> Sequence[Quad]:
        return [slanted, level] if (pixels[..., 0] == pixels[..., 2]).all() else []

    mask = find_text(detect, SMOOTH)
    assert mask[400:420, 400:460].all()
    assert not mask[300:350, 290:360].any()


def test_letters_on_glare_stand_out_once_it_is_evened() -> None:
    glare = np.full((576, 720, 3), (252, 240, 205), np.uint8)
    painted = paint(glare, [Line("12/03/2013", 300, 300, size=20)])
    assert np.ptp(painted.pixels[..., 2]) < 40
    assert np.ptp(evened(painted.pixels, short=576)) > 80


def test_slits_between_lines_are_closed_and_wide_gaps_are_not() -> None:
    """The tips of letters show in a slit."""
    mask = np.zeros((576, 720), np.bool_)
    mask[100:120, 50:200] = mask[132:152, 50:200] = mask[200:220, 50:200] = True
    closed = without_slits(mask)
    assert closed[100:152, 50:200].all()
    assert not closed[155:195].any()
