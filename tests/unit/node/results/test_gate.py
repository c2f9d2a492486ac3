"""No text leaves on a frame that a person is shown; a frame is given up before a text is."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.demo.painting import paint_frame
from node.results.gate import PLATE_LEVEL, STRIP_OVERLAP, STRIP_ROWS, pass_gate
from node.results.overlay import fit
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.fill import fill
from pipeline.clean.text import BLANK_LEVEL, Quad, text_mask
from pipeline.frame import Pixels

SHOWN = (540, 572)


def box(x0: float, y0: float, x1: float, y1: float) -> Quad:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32)


def tissue(rows: int = 576, columns: int = 720) -> Pixels:
    pixels = np.random.default_rng(0).integers(120, 200, (rows, columns, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    return pixels


def finds_nothing(pixels: Pixels) -> Sequence[Quad]:
    assert pixels.ndim == 3
    return []


class FindsElsewhere:
    """Find a line of text at every look, each time further down."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, pixels: Pixels) -> Sequence[Quad]:
        self.looks += 1
        top = 12.0 * self.looks
        return [box(0.2 * pixels.shape[1], top, 0.6 * pixels.shape[1], top + 10)]


def finds_white(pixels: Pixels) -> Sequence[Quad]:
    """Find what is brighter than tissue, at any scale."""
    y, x = np.nonzero(pixels.min(axis=2) > 230)
    return [box(x.min(), y.min(), x.max() + 1, y.max() + 1)] if x.size else []


def test_a_frame_without_text_passes_as_it_came() -> None:
    frame = tissue()
    passed = pass_gate(frame, finds_nothing, shown=SHOWN)
    assert passed.verdict == "clean"
    assert passed.pixels is frame


def test_found_text_is_blanked_flat_and_nothing_else_is_touched() -> None:
    frame = tissue().copy()
    frame[100:120, 200:400] = 255
    before = frame.copy()
    passed = pass_gate(frame, finds_white, shown=SHOWN)
    assert passed.verdict == "blanked"
    flat = (passed.pixels == BLANK_LEVEL).all(axis=2)
    assert flat[100:120, 200:400].all()
    assert np.array_equal(passed.pixels[~flat], before[~flat])
    assert np.array_equal(frame, before)
    assert flat.sum() <= 1.5 * 20 * 200


def test_a_frame_on_which_text_is_found_time_and_again_becomes_an_empty_plate() -> None:
    """Nothing of it is shown: whatever the detector keeps on seeing, no reader will."""
    passed = pass_gate(tissue(), FindsElsewhere(), shown=SHOWN)
    assert passed.verdict == "plate"
    assert passed.pixels.shape == (576, 720, 3)
    assert (passed.pixels == PLATE_LEVEL).all()


@pytest.mark.parametrize("rows_seen", [320, 458], ids=["strip", "page"])
def test_text_found_at_one_scale_only_is_blanked(rows_seen: int) -> None:
    """Small text is lost when a frame is shrunk for the page, large text where it is cut into strips."""

    def finds_at_one_scale(pixels: Pixels) -> Sequence[Quad]:
        return finds_white(pixels) if pixels.shape[0] == rows_seen else []

    frame = tissue().copy()
    frame[100:120, 200:400] = 255
    assert fit(frame, *SHOWN).shape[0] == 458
    assert pass_gate(frame, finds_at_one_scale, shown=SHOWN).verdict == "blanked"


class FindsAt:
    """Find given boxes, in source pixels, in the whole frame or in its parts, whatever it is shown.

    A frame of 64 grey rows, each of its own level, tells where a part of it was cut.
    """

    def __init__(self, *, whole: Sequence[Quad], parts: Sequence[Quad]) -> None:
        self.whole, self.parts = whole, parts

    def __call__(self, pixels: Pixels) -> Sequence[Quad]:
        is_whole = pixels.shape[:2] == (458, 572)
        x, y = (0, 0) if is_whole else (int(pixels[0, 0, 0]) * 4, int(pixels[0, 0, 1]) * 4)
        scale = 572 / 720 if is_whole else 1
        return [(quad - (x, y)).astype(np.float32) * np.float32(scale) for quad in self.boxes(is_whole)]

    def boxes(self, is_whole: bool) -> Sequence[Quad]:  # noqa: FBT001
        return self.whole if is_whole else self.parts


@pytest.mark.parametrize("tall", [641, 1080, 1792, 2160])
def test_a_large_frame_is_looked_at_in_strips_that_leave_nothing_out(tall: int) -> None:
    seen: list[Pixels] = []

    def finds_nothing_but_looks(pixels: Pixels) -> Sequence[Quad]:
        seen.append(pixels)
        return []

    frame = np.zeros((tall, 64, 3), np.uint8)
    frame[..., 0], frame[..., 1] = (np.arange(tall) // 256)[:, None], (np.arange(tall) % 256)[:, None]
    pass_gate(frame, finds_nothing_but_looks, shown=SHOWN)
    strips = [part for part in seen if part.shape[1] == 64]
    rows = [set((part[:, 0, 0].astype(int) * 256 + part[:, 0, 1]).tolist()) for part in strips]
    assert set.union(*rows) == set(range(tall))
    assert max(map(len, rows)) <= STRIP_ROWS
    assert all(len(a & b) == STRIP_OVERLAP for a, b in pairwise(rows))


@given(st.lists(st.tuples(*[st.floats(-50, 300)] * 4), max_size=4), st.integers(0, 5))
def test_whatever_a_detector_says_a_pixel_is_the_sources_or_flat(
    boxes: list[tuple[float, float, float, float]], times: int
) -> None:
    """A gate that invents, shifts or scales would show a lesion that is not there."""
    asked = 0

    def says(pixels: Pixels) -> Sequence[Quad]:
        nonlocal asked
        assert pixels.ndim == 3
        asked += 1
        return [box(*each) for each in boxes] if asked <= times else []

    frame = tissue(96, 120)
    passed = pass_gate(frame, says, shown=SHOWN)
    same = (passed.pixels == frame).all(axis=2)
    flat = (passed.pixels == (PLATE_LEVEL if passed.verdict == "plate" else BLANK_LEVEL)).all(axis=2)
    assert passed.pixels.shape == frame.shape
    assert (same | flat).all()
    assert passed.verdict == "clean" or flat.any()


def lettered(frame: Pixels, size: int, colour: tuple[int, int, int]) -> tuple[Pixels, NDArray[np.bool_]]:
    """Write a name and a date over tissue; return the frame and where letters are."""
    image, letters = Image.fromarray(frame), Image.new("L", (frame.shape[1], frame.shape[0]))
    font = ImageFont.load_default(size)
    for number, line in enumerate(("SMITH JOHN", "12/03/2013", "ID: 4711-08")):
        where = (frame.shape[1] * (4 + number) // 10, frame.shape[0] * (3 + 2 * number) // 10)
        ImageDraw.Draw(image).text(where, line, fill=colour, font=font)
        ImageDraw.Draw(letters).text(where, line, fill=255, font=font)
    return np.array(image), np.array(letters) > 0


@pytest.fixture(scope="module")
def detector() -> RapidText:
    return RapidText(threads=2)


@pytest.mark.parametrize(
    ("rows", "columns", "size", "colour"),
    [(576, 720, 10, (250, 230, 60)), (1080, 800, 12, (240, 240, 240))],
)
def test_names_and_dates_over_tissue_do_not_pass(
    detector: RapidText, rows: int, columns: int, size: int, colour: tuple[int, int, int]
) -> None:
    """Text of 12 rows on a large frame is found in strips alone: whole, it is shrunk too far."""
    plain = cv2.resize(paint_frame(3, ulcers=True, instrument=False, text=None), (columns, rows))
    frame, letters = lettered(plain.astype(np.uint8), size, colour)
    passed = pass_gate(frame, detector, shown=SHOWN)
    assert passed.verdict != "clean"
    flat = (passed.pixels == (PLATE_LEVEL if passed.verdict == "plate" else BLANK_LEVEL)).all(axis=2)
    assert flat[letters].mean() >= 0.98
    if passed.verdict == "blanked":
        assert np.array_equal(passed.pixels[~flat], frame[~flat])
        assert flat.mean() <= 0.1


def test_what_a_page_shows_of_a_passed_frame_has_no_text(detector: RapidText) -> None:
    """The pixels that leave are scaled ones: they are looked at once more, as they stand on a page."""
    frame, _ = lettered(
        paint_frame(5, ulcers=False, instrument=False, text="SMITH JOHN"), 18, (240, 240, 240)
    )
    passed = pass_gate(frame, detector, shown=SHOWN)
    page = fit(passed.pixels, *SHOWN)
    flat = fit(
        ((passed.pixels == BLANK_LEVEL).all(axis=2, keepdims=True) * np.full(3, 255)).astype(np.uint8), *SHOWN
    )
    patches = cv2.dilate(flat[..., 0], np.ones((5, 5), np.uint8)) > 0
    seen, _ = fill(page, patches, np.ones_like(patches))
    assert not text_mask(detector(seen), rows=page.shape[0], columns=page.shape[1]).any()
