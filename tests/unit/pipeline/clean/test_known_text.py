from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea, find_content_area
from pipeline.clean.known_text import KnownText, confirms, learn_text
from pipeline.frame import Pixels
from tests.overlays import Line, Painted, paint
from tests.unit.pipeline.conftest import Mucosa, Outline

DATE, CLOCK, NAME = (
    Line("12/03/2013", 300, 400),
    Line("14:22:07", 300, 425),
    Line("Mira Ostrovan", 4, 30, size=14),
)
STANDING = [DATE, CLOCK, NAME]
"""Two lines on tissue, one on black."""


class Exam:
    """Frames of other tissue each behind one border; their overlay is what a test says."""

    def __init__(self, mucosa: Mucosa, outline: Outline, *, rows: int = 576, columns: int = 720) -> None:
        self._mucosa, self._inside = mucosa, outline("octagon", rows, columns)
        found = find_content_area(self.tissue(0))
        assert found is not None
        self.area: ContentArea = found

    def tissue(self, seed: int) -> Pixels:
        """Return a frame without text."""
        rows, columns = self._inside.shape
        return self._mucosa(rows, columns, seed) * self._inside[..., np.newaxis].astype(np.uint8)

    def shown(self, seed: int, *lines: Line) -> Painted:
        """Return a frame with these lines."""
        return paint(self.tissue(seed), lines)

    def learnt(self, *overlays: list[Line]) -> KnownText:
        """Learn from one frame an overlay."""
        frames = [self.shown(seed, *lines) for seed, lines in enumerate(overlays)]
        return learn_text([(each.pixels, boxed(each)) for each in frames], self.area)

    def confirmed(self, known: KnownText, *lines: Line, seed: int = 50) -> bool:
        """Tell whether a frame with these lines is confirmed."""
        return confirms(known, self.shown(seed, *lines).pixels, self.area)


def boxed(painted: Painted, *, jitter: int = 0) -> NDArray[np.bool_]:
    """Return the mask of a detector that finds every string, 4 px round it."""
    mask = np.zeros(painted.letters.shape, np.bool_)
    for x0, y0, x1, y1 in painted.boxes:
        mask[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4 + jitter] = True
    return mask


@pytest.fixture(scope="module")
def exam(mucosa: Mucosa, outline: Outline) -> Exam:
    return Exam(mucosa, outline)


@pytest.fixture(scope="module")
def known(exam: Exam) -> KnownText:
    return exam.learnt(*[[DATE, replace(CLOCK, text=f"14:2{n}:5{n}"), NAME] for n in range(6)])


def test_text_that_stands_still_is_confirmed_while_its_clock_runs(exam: Exam, known: KnownText) -> None:
    for seed, text in enumerate(("09:17:31", "23:48:00", "11:11:11")):
        assert exam.confirmed(known, DATE, replace(CLOCK, text=text), NAME, seed=60 + seed)


def test_the_known_mask_covers_every_string(exam: Exam, known: KnownText) -> None:
    shown = exam.shown(70, *STANDING)
    assert known.mask[shown.letters].all()
    assert known.mask.sum() <= 1.10 * boxed(shown).sum()


@pytest.mark.parametrize("gone", range(3))
def test_a_known_place_that_is_empty_is_not_confirmed(exam: Exam, known: KnownText, gone: int) -> None:
    """Where text was switched off, other text may have been switched on."""
    assert not exam.confirmed(known, *[line for n, line in enumerate(STANDING) if n != gone])


@pytest.mark.parametrize("colour", [(240, 240, 240), (255, 240, 60), (90, 255, 90), (90, 230, 255)])
@pytest.mark.parametrize("size", [9, 14, 20, 28])
def test_new_text_on_tissue_is_not_confirmed(
    exam: Exam, known: KnownText, size: int, colour: tuple[int, int, int]
) -> None:
    new = Line("Lindquist 1962", 250, 200, size=size, colour=colour)
    assert not exam.confirmed(known, *STANDING, new)


def test_one_new_digit_on_black_is_not_confirmed(exam: Exam, known: KnownText) -> None:
    """Outside the image everything lit is overlay, be it a single letter."""
    assert not exam.confirmed(known, *STANDING, Line("7", 8, 500, size=9))


@pytest.mark.parametrize("more", [" M", " M.O.", " LINDQUIST"])
def test_a_string_that_has_grown_is_not_confirmed(exam: Exam, known: KnownText, more: str) -> None:
    """One letter alone looks like no text; beside a known string it does."""
    assert not exam.confirmed(known, replace(DATE, text=DATE.text + more), CLOCK, NAME)


def test_one_green_letter_on_tissue_is_not_confirmed(exam: Exam, known: KnownText) -> None:
    """Mucosa is never green: where a letter is, its shape need not be asked."""
    assert not exam.confirmed(known, *STANDING, Line("M", 250, 200, size=20, colour=(90, 255, 90)))


def test_a_frame_of_another_size_or_border_is_not_confirmed(exam: Exam, known: KnownText) -> None:
    pixels = exam.shown(50, *STANDING).pixels
    assert not confirms(known, pixels[:-2], exam.area)
    x0, y0, x1, y1 = exam.area.box
    assert not confirms(known, pixels, replace(exam.area, box=(x0, y0, x1, y1 - 9)))


def test_text_of_a_few_samples_is_not_known(exam: Exam) -> None:
    """What comes and goes is looked for anew on each frame that shows it."""
    known = exam.learnt([DATE, NAME], [DATE], [DATE], [DATE, NAME], [DATE])
    assert known.mask.any()
    assert not known.mask[:60, :150].any()
    assert exam.confirmed(known, DATE)
    assert not exam.confirmed(known, DATE, NAME)


def test_text_that_half_the_samples_have_is_not_taken_for_what_always_looks_like_text(exam: Exam) -> None:
    """A clock that is switched on half way, and missed by the detector once: others' clocks must be found."""
    frames = [exam.shown(seed, *([DATE, CLOCK] if seed < 3 else [DATE])) for seed in range(4)]
    masks = [boxed(each) for each in frames]
    masks[0][422:450] = False
    known = learn_text([(each.pixels, mask) for each, mask in zip(frames, masks, strict=True)], exam.area)
    assert exam.confirmed(known, DATE)
    assert not exam.confirmed(known, DATE, CLOCK)


def test_a_layout_without_text_masks_nothing(exam: Exam) -> None:
    known = exam.learnt([], [], [])
    assert not known.mask.any()
    assert exam.confirmed(known)
    assert not exam.confirmed(known, DATE)


def test_boxes_that_jitter_are_known_at_their_width(exam: Exam) -> None:
    frames = [exam.shown(seed, *STANDING) for seed in range(8)]
    samples = [(each.pixels, boxed(each, jitter=3 * (seed % 4))) for seed, each in enumerate(frames)]
    known = learn_text(samples, exam.area)
    masks = [mask for _, mask in samples]
    assert sum((mask & known.mask).sum() for mask in masks) >= 0.98 * sum(mask.sum() for mask in masks)
    assert len(masks) * known.mask.sum() <= 1.10 * sum(mask.sum() for mask in masks)


def test_a_lit_thing_that_is_no_text_may_stand_outside(exam: Exam) -> None:
    """A processor's icon is on every frame; it must not send every frame to the detector."""
    frames = [exam.shown(seed, *STANDING) for seed in range(4)]

    def with_icon(pixels: Pixels) -> Pixels:
        return np.asarray(cv2.circle(pixels.copy(), (700, 560), 9, (250, 250, 250), 2), np.uint8)

    known = learn_text([(with_icon(each.pixels), boxed(each)) for each in frames], exam.area)
    assert confirms(known, with_icon(exam.shown(9, *STANDING).pixels), exam.area)


def test_a_large_frame_is_confirmed_at_a_smaller_scale(mucosa: Mucosa, outline: Outline) -> None:
    """Strokes are as thin as they are at 576 rows only once the frame is."""

    def soft(rows: int, columns: int, seed: int) -> Pixels:
        small = mucosa(rows // 2, columns // 2, seed)
        return np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC), np.uint8)

    exam = Exam(soft, outline, rows=1080, columns=1350)
    line = Line("12/03/2013", 500, 700, size=32)
    known = exam.learnt([line], [line], [line])
    assert (known.mask.shape, known.searched.shape) == ((1080, 1350), (576, 720))
    assert exam.confirmed(known, line)
    assert not exam.confirmed(known)
    assert not exam.confirmed(known, line, Line("Lindquist", 500, 400, size=52))
