"""Layouts: what stands still through an exam is found on a few frames and trusted on the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.clean.cleaner import Cleaner, Tools
from pipeline.clean.layout import LEAST_SAMPLED, MOST_SAMPLED, SAMPLED, sampled
from pipeline.clean.recipe import Recipe
from pipeline.clean.text import Quad
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from tests.unit.pipeline.conftest import Mucosa, Outline

RECIPE = Recipe(steps=("content_area", "text", "fill"))
STRINGS = ((20, 60, "12/03/2013"), (300, 500, "Zoom x1.5"))


class SeesWhite:
    """A detector that boxes what is white, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: Pixels) -> Sequence[Quad]:
        """Return the rectangles round white words."""
        self.asked += 1
        words = cv2.dilate((pixels.min(axis=2) > 225).astype(np.uint8), np.ones((9, 25), np.uint8))
        count, _, stats, _ = cv2.connectedComponentsWithStats(words)
        boxes = [stats[number, :4] for number in range(1, count)]
        return [
            np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.float32) for x, y, w, h in boxes
        ]


@pytest.fixture
def exam(mucosa: Mucosa, outline: Outline) -> list[Pixels]:
    """Return 24 frames behind one octagon with the same two strings, one of them over the tissue."""
    inside = outline("octagon", 576, 720)
    frames = []
    for seed in range(24):
        frame = np.clip(np.where(inside[..., None], mucosa(576, 720, seed), 3), 0, 215).astype(np.uint8)
        for x, y, text in STRINGS:
            cv2.putText(frame, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (250, 250, 250), 1, cv2.LINE_AA)
        frames.append(frame)
    return frames


def masks(cleaner: Cleaner, frames: Sequence[Pixels]) -> list[NDArray[np.bool_]]:
    layouts = cleaner.learn([frames[place].copy() for place in sampled(len(frames))])
    cleaned = [
        cleaner.clean(Frame(f.copy(), FrameSource("1.2.3", n)), layouts) for n, f in enumerate(frames, 1)
    ]
    assert all(isinstance(each, CleanFrame) for each in cleaned)
    return [each.synthetic for each in cleaned if isinstance(each, CleanFrame)]


def test_the_sample_is_even_and_within_the_exam() -> None:
    for count in (0, 1, 5, 16, 17, 47, 48, 1000):
        places = sampled(count)
        assert len(places) == len(set(places)) == min(count, MOST_SAMPLED)
        assert all(0 <= place < count for place in places)
        first = places[:SAMPLED]
        assert first == sorted(first)
        assert all(later - earlier <= count / SAMPLED + 1 for earlier, later in pairwise(first))


def test_what_stands_still_is_looked_for_on_the_sample_only(exam: list[Pixels]) -> None:
    detector = SeesWhite()
    found = masks(Cleaner(Tools(text=detector), RECIPE), exam)
    assert detector.asked == 2 * SAMPLED  # each is looked at twice
    assert all(mask[45:62, 22:130].mean() > 0.9 and mask[485:502, 302:400].mean() > 0.9 for mask in found)


def test_a_frame_with_other_text_is_searched_itself(exam: list[Pixels]) -> None:
    """A name that appears once must not slip through because the rest of its exam has none there."""
    cv2.putText(exam[7], "MIRA OSTROVAN", (320, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (250, 250, 250), 2)
    smooth = cv2.GaussianBlur(exam[11], (0, 0), 6)  # and one text was switched off
    exam[11][470:520, 280:440] = np.median(smooth[470:520, 280:440], axis=(0, 1))
    found = masks(Cleaner(Tools(text=SeesWhite()), RECIPE), exam)
    assert found[7][235:250, 325:480].mean() > 0.9
    assert not found[11][485:505, 298:420].any()
    assert found[12][485:502, 302:400].mean() > 0.9


def test_what_becomes_of_a_frame_does_not_depend_on_the_order(exam: list[Pixels]) -> None:
    cleaner = Cleaner(Tools(text=SeesWhite()), RECIPE)
    layouts = cleaner.learn([exam[place].copy() for place in sampled(len(exam))])
    frames = [Frame(pixels.copy(), FrameSource("1.2.3", number)) for number, pixels in enumerate(exam, 1)]
    there = [cleaner.clean(frame, layouts) for frame in frames]
    back = [cleaner.clean(frame, layouts) for frame in reversed(frames)][::-1]
    for first, second in zip(there, back, strict=True):
        assert isinstance(first, CleanFrame)
        assert isinstance(second, CleanFrame)
        assert (first.view == second.view).all()


def test_two_borders_in_one_exam_are_two_layouts(exam: list[Pixels], mucosa: Mucosa) -> None:
    full = [np.clip(mucosa(576, 720, 100 + seed), 0, 215).astype(np.uint8) for seed in range(12)]
    cleaner = Cleaner(Tools(text=SeesWhite()), RECIPE)
    layouts = cleaner.learn(exam[:6] + full[:6])
    assert len(layouts) == 2
    cleaned = [cleaner.clean(Frame(f.copy(), FrameSource("1.2.3", 1)), layouts) for f in (exam[8], full[8])]
    boxes = [each.content_area for each in cleaned]
    assert boxes[1] == (0, 0, 720, 576)
    assert boxes[0] != boxes[1]


def test_a_layout_of_few_frames_is_sampled_on_until_it_is_known(exam: list[Pixels], mucosa: Mucosa) -> None:
    """Its frames would each be searched fully for want of samples: one in ten of a long exam."""
    full = [np.clip(mucosa(576, 720, 100 + seed), 0, 215).astype(np.uint8) for seed in range(4)]
    frames = [exam[number % 24] for number in range(96)]
    frames[40:50] = [full[number % 4] for number in range(10)]
    detector = SeesWhite()
    taken = []
    cleaner = Cleaner(Tools(text=detector), RECIPE)

    def samples() -> Iterator[Pixels]:
        for place in sampled(len(frames)):
            taken.append(place)
            yield frames[place]

    layouts = cleaner.learn(samples())
    assert [layout.text is not None for layout in layouts] == [True, True]
    few = sum(40 <= place < 50 for place in taken)
    assert few == LEAST_SAMPLED
    assert detector.asked == 2 * (SAMPLED - sum(40 <= place < 50 for place in taken[:SAMPLED]) + few)


def test_a_frame_without_text_stays_free_of_its_layouts_places(exam: list[Pixels]) -> None:
    """Its overlay was switched off; on glare its place would not look empty."""
    clear = cv2.GaussianBlur(exam[5], (0, 0), 6)
    exam[5][40:65, 15:140], exam[5][480:510, 290:410] = clear[300, 200], clear[300, 350]
    exam[5][30:80, 20:130:9] = exam[5][470:520, 300:410:9] = 215
    found = masks(Cleaner(Tools(text=SeesWhite()), RECIPE), exam)
    assert not found[5].any()
    assert found[6].any()


def test_two_samples_are_too_few_to_spare_a_frame_the_search(exam: list[Pixels]) -> None:
    """What glare hides in both would be hidden in none of the frames they confirm."""
    detector = SeesWhite()
    cleaner = Cleaner(Tools(text=detector), RECIPE)
    for count, searches in ((2, 2), (3, 0)):
        layouts = cleaner.learn([pixels.copy() for pixels in exam[:count]])
        detector.asked = 0
        cleaner.clean(Frame(exam[20].copy(), FrameSource("1.2.3", 1)), layouts)
        assert detector.asked == searches


def test_text_of_some_samples_is_masked_where_a_frame_shows_it_too_faintly(exam: list[Pixels]) -> None:
    """The place of a clock is known, though this frame's glare washes its digits out."""
    for place, frame in enumerate(exam):
        if place % 3 == 0:
            cv2.putText(frame, "09:41:20", (20, 300), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (250, 250, 250), 1)
    exam[7][270:320, 10:140] = 200
    cv2.putText(exam[7], "09:41:20", (20, 300), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (215, 215, 215), 1)
    found = masks(Cleaner(Tools(text=SeesWhite()), RECIPE), exam)
    assert found[7][286:300, 22:100].mean() > 0.9


def test_frames_of_sizes_of_their_own_share_what_stands_still(exam: list[Pixels]) -> None:
    """A folder whose frames were cropped by hand: no two have one size, and all have one overlay."""
    frames = [np.ascontiguousarray(pixels[:, : 720 - 2 * place]) for place, pixels in enumerate(exam[:16])]
    frames[7][30:80, 10:140] = 200
    cv2.putText(frames[7], "12/03/2013", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (215, 215, 215), 1)
    found = masks(Cleaner(Tools(text=SeesWhite()), RECIPE), frames)
    assert found[7][47:60, 22:130].mean() > 0.9


def test_a_sample_is_not_searched_a_second_time(exam: list[Pixels]) -> None:
    """A small exam is all sample; what was found on it is masked as a search of its own would have it."""
    frames = [exam[0], np.ascontiguousarray(exam[1][:, :719]), exam[2]]
    cv2.putText(frames[2], "MIRA OSTROVAN", (320, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (250, 250, 250), 2)
    detector = SeesWhite()
    cleaner = Cleaner(Tools(text=detector), RECIPE)
    layouts = cleaner.learn([pixels.copy() for pixels in frames])
    detector.asked = 0
    anew = [replace(layout, searched={}) for layout in layouts]
    for pixels in frames:
        frame = Frame(pixels.copy(), FrameSource("1.2.3", 1))
        known = cleaner.clean(frame, layouts)
        assert detector.asked == 0
        searched = cleaner.clean(frame, anew)
        assert detector.asked == 2
        detector.asked = 0
        assert isinstance(known, CleanFrame)
        assert isinstance(searched, CleanFrame)
        assert np.array_equal(known.synthetic, searched.synthetic)
        assert known.synthetic.any()
