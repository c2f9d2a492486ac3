"""No text leaves on a frame that a person is shown; a frame is given up before a text is."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.demo.painting import paint_frame
from node.results.gate import MIDDLE, PLATE_LEVEL, STRIP_OVERLAP, STRIP_ROWS, pass_gate
from node.results.overlay import fit
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.fill import fill
from pipeline.clean.text import BLANK_LEVEL, Quad, text_mask
from pipeline.frame import Pixels
from tests.overlays import paint, random_lines, without_text

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


@pytest.mark.parametrize("rows_seen", [320, 458], ids=["strip", "page"])
def test_a_frame_on_which_text_is_found_time_and_again_becomes_an_empty_plate(rows_seen: int) -> None:
    """Nothing of it is shown: whatever the detector keeps on seeing, no reader will."""
    looks = 0

    def finds_further_down(pixels: Pixels) -> Sequence[Quad]:
        nonlocal looks
        if pixels.shape[0] != rows_seen:
            return []
        looks += 1
        return [box(0.2 * pixels.shape[1], 12 * looks, 0.6 * pixels.shape[1], 12 * looks + 10)]

    passed = pass_gate(tissue(), finds_further_down, shown=SHOWN)
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


LINE = box(100, 100, 180, 116)
LETTER = box(184, 100, 196, 116)
REFLECTION = box(300, 200, 318, 216)
HAIR = box(300, 200, 340, 205)
DARK_RIM = cv2.boxPoints(((300, 250), (90, 20), 40)).astype(np.float32)


@pytest.mark.parametrize(
    ("whole", "parts", "text"),
    [
        ([], [REFLECTION], []),
        ([DARK_RIM], [], []),
        ([], [HAIR], []),
        ([REFLECTION], [REFLECTION], [REFLECTION]),
        ([LINE], [REFLECTION], [LINE]),
        ([], [LINE, LETTER], [LINE, LETTER]),
        ([LINE], [LETTER], [LINE, LETTER]),
    ],
    ids=[
        "a spot",
        "a slanted thing",
        "a hair",
        "seen at both scales",
        "a line",
        "a line's rest",
        "at another scale",
    ],
)
def test_what_is_no_line_counts_where_both_scales_see_it_or_beside_a_line(
    whole: Sequence[Quad], parts: Sequence[Quad], text: Sequence[Quad]
) -> None:
    """Reflections and dark rims look like a letter at one scale: healthy mucosa must not be blotted out."""
    frame = tissue(360, 480)
    boxes = {429: [quad * np.float32(572 / 480) for quad in whole], 360: parts}
    asked: list[int] = []

    def finds_once(pixels: Pixels) -> Sequence[Quad]:
        asked.append(pixels.shape[0])
        return boxes.get(pixels.shape[0], []) if asked.count(pixels.shape[0]) == 1 else []

    passed = pass_gate(frame, finds_once, shown=SHOWN)
    flat = (passed.pixels == BLANK_LEVEL).all(axis=2)
    expected = text_mask(text, rows=360, columns=480)
    assert flat[expected].all()
    near = cv2.dilate(expected.view(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert not (flat & ~near).any()
    assert passed.verdict == ("blanked" if text else "clean")


def test_a_letter_alone_is_blanked_where_it_is_found_again_in_a_part_cut_round_it() -> None:
    """One look cannot tell an initial from a reflection; a reflection is seldom boxed when cut otherwise.

    What is larger than letters is not looked at again.
    """
    frame, fold = tissue(360, 480), box(150, 200, 180, 230)

    def finds_spots(pixels: Pixels) -> Sequence[Quad]:
        again = [box(144, 100, 156, 116), fold - np.array((40, 0), np.float32)]
        return {360: [LETTER, REFLECTION, fold], MIDDLE: again}.get(pixels.shape[0], [])

    passed = pass_gate(frame, finds_spots, shown=SHOWN)
    flat = (passed.pixels == BLANK_LEVEL).all(axis=2)
    assert flat[text_mask([LETTER], rows=360, columns=480)].all()
    assert not flat[text_mask([REFLECTION, fold], rows=360, columns=480)].any()


def test_a_patch_that_is_itself_taken_for_text_costs_nobody_the_frame() -> None:
    """What was under it is gone, whatever the detector makes of the fill."""
    frame = tissue(360, 480)
    passed = pass_gate(frame, lambda pixels: [LINE * np.float32(pixels.shape[0] / 360)], shown=SHOWN)
    assert passed.verdict == "blanked"
    assert (passed.pixels == BLANK_LEVEL).all(axis=2).mean() < 0.02


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


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_mucosa_without_text_is_shown_as_it_came(detector: RapidText, seed: int) -> None:
    """Of painted frames none passed untouched while any box in any part was taken for text."""
    frame = paint_frame(seed, ulcers=seed % 3 > 0, instrument=False, text=None)
    assert pass_gate(frame, detector, shown=SHOWN).verdict == "clean"


@pytest.mark.data
def test_real_mucosa_is_hardly_ever_blotted_out_and_its_overlays_always_are(
    detector: RapidText, data_dir: Path, request: pytest.FixtureRequest
) -> None:
    """What a clinician must see stays, what names a patient does not."""
    paths = sorted((data_dir / "images" / "normal").rglob("*.jpg"))
    rng = np.random.default_rng(31)
    letters: list[float] = []
    blotted: list[float] = []
    for path in paths[3 :: 12 if request.config.getoption("--full") else 90]:
        plain = without_text(np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8))
        painted = paint(plain, random_lines(rng, *plain.shape[:2], count=6))
        shown = pass_gate(plain, detector, shown=SHOWN)
        blotted.append(float((shown.pixels != plain).any(axis=2).mean()))
        passed = pass_gate(painted.pixels, detector, shown=SHOWN)
        flat = (passed.pixels == (PLATE_LEVEL if passed.verdict == "plate" else BLANK_LEVEL)).all(axis=2)
        for x0, y0, x1, y1 in painted.boxes:
            letters.append(float(flat[y0:y1, x0:x1][painted.letters[y0:y1, x0:x1]].mean()))
    assert np.mean(blotted) <= 0.002
    assert np.mean(np.array(letters) > 0.9) >= 0.95


def test_what_a_page_shows_of_a_passed_frame_has_no_text(detector: RapidText) -> None:
    """The pixels that leave are scaled ones: they are looked at once more, as they stand on a page."""
    plain = paint_frame(5, ulcers=False, instrument=False, text=None)
    named = paint_frame(5, ulcers=False, instrument=False, text="SMITH JOHN")
    frame, letters = lettered(named, 18, (240, 240, 240))
    letters |= (named != plain).any(axis=2)
    passed = pass_gate(frame, detector, shown=SHOWN)
    page, patches, written = (
        fit(np.repeat(each[..., None], 3, axis=2) if each.ndim == 2 else each, *SHOWN)
        for each in (
            passed.pixels,
            (passed.pixels == BLANK_LEVEL).all(axis=2) * np.uint8(255),
            letters * np.uint8(255),
        )
    )
    hidden = cv2.dilate(patches[..., 0], np.ones((5, 5), np.uint8)) > 0
    seen, _ = fill(page, hidden, np.ones_like(hidden))
    found = text_mask(detector(seen), rows=page.shape[0], columns=page.shape[1])
    assert not (found & (written[..., 0] > 0)).any()
