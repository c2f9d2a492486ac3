from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.clean.cleaner import Cleaner, Tools
from pipeline.clean.crop import crop_view
from pipeline.clean.recipe import Recipe
from pipeline.clean.text import Quad, TextDetector
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels, RejectedFrame
from tests.unit.pipeline.conftest import Mucosa

STEPS = ("content_area", "quality", "text", "fill", "crop")
TEXT_ONLY = Recipe(steps=STEPS)
LINE = np.array([(260, 200), (380, 200), (380, 222), (260, 222)], np.float32)


def no_text(pixels: Pixels) -> Sequence[Quad]:
    del pixels
    return []


def one_line(pixels: Pixels) -> Sequence[Quad]:
    del pixels
    return [LINE]


def cleaner_with(detector: TextDetector) -> Cleaner:
    return Cleaner(Tools(text=detector), TEXT_ONLY)


def framed(pixels: Pixels, number: int = 1) -> Frame:
    return Frame(pixels=pixels, source=FrameSource("1.2.3", number))


def test_a_frame_without_text_or_border_is_only_cropped(mucosa: Mucosa) -> None:
    pixels = mucosa(532, 633, 1)
    clean = cleaner_with(no_text).clean(framed(pixels.copy()))
    assert isinstance(clean, CleanFrame)
    assert clean.content_area == (0, 0, 633, 532)
    assert not clean.synthetic.any()
    assert (clean.view == crop_view(pixels, (0, 0, 633, 532))).all()


def test_the_ledger_tells_every_step_in_order(mucosa: Mucosa) -> None:
    clean = cleaner_with(one_line).clean(framed(mucosa(532, 633, 2)))
    assert isinstance(clean, CleanFrame)
    assert tuple(entry.step for entry in clean.ledger) == STEPS
    text, filled = clean.ledger[2], clean.ledger[3]
    assert filled.decision == "changed"
    assert 0 < filled.pixels_changed <= filled.mask_area == clean.synthetic.sum() <= text.mask_area
    assert all(entry.milliseconds >= 0 for entry in clean.ledger)


def test_what_is_filled_is_recorded_as_synthetic(mucosa: Mucosa) -> None:
    pixels = mucosa(532, 633, 3)
    pixels[202:220, 262:378] = 255
    clean = cleaner_with(one_line).clean(framed(pixels))
    assert isinstance(clean, CleanFrame)
    assert clean.synthetic[202:220, 262:378].all()
    assert clean.synthetic.mean() < 0.02
    assert clean.view.min(axis=2).max() < 255, "the text is gone from the view"


def test_a_refused_frame_says_why_and_keeps_the_ledger_up_to_there() -> None:
    dark = cleaner_with(no_text).clean(framed(np.zeros((480, 640, 3), np.uint8)))
    flat = cleaner_with(no_text).clean(framed(np.full((480, 640, 3), 150, np.uint8)))
    assert isinstance(dark, RejectedFrame)
    assert isinstance(flat, RejectedFrame)
    assert (dark.reason, [entry.step for entry in dark.ledger]) == ("no_content", ["content_area"])
    assert (flat.reason, flat.ledger[-1].reason) == ("solid_colour", "solid_colour")
    assert flat.ledger[-1].decision == "rejected"


def test_a_frame_comes_out_the_same_whatever_came_before_it(mucosa: Mucosa) -> None:
    """Workers deal frames out as they come; a cleaner that remembered would make readings differ."""
    frames = [framed(mucosa(400, 480, seed), seed) for seed in range(1, 6)]
    cleaner = cleaner_with(one_line)
    there = {frame.source: cleaner.clean(frame) for frame in frames}
    back = {frame.source: cleaner.clean(frame) for frame in reversed(frames)}
    for source, first in there.items():
        again = back[source]
        assert isinstance(first, CleanFrame)
        assert isinstance(again, CleanFrame)
        assert (first.view == again.view).all()


def test_arrays_that_leave_are_read_only(mucosa: Mucosa) -> None:
    clean = cleaner_with(one_line).clean(framed(mucosa(400, 480, 7)))
    assert isinstance(clean, CleanFrame)
    assert not clean.view.flags.writeable
    assert not clean.synthetic.flags.writeable


def test_a_tool_that_the_recipe_does_not_call_for_is_refused_and_so_is_its_absence() -> None:
    """A recipe's digest stands for what was done: a step silently left out would make it a lie."""
    with pytest.raises(ValueError, match="text"):
        Cleaner(Tools(), TEXT_ONLY)
    with pytest.raises(ValueError, match="text"):
        Cleaner(Tools(text=no_text), replace(TEXT_ONLY, steps=("content_area", "crop")))


def test_steps_that_the_recipe_leaves_out_are_not_done(mucosa: Mucosa) -> None:
    """A view without ``crop`` is the whole frame: clean picture and mask then align with the source."""
    pixels = mucosa(400, 480, 8)
    recipe = replace(TEXT_ONLY, steps=("text", "fill"))
    clean = Cleaner(Tools(text=one_line), recipe).clean(framed(pixels.copy()))
    assert isinstance(clean, CleanFrame)
    assert [entry.step for entry in clean.ledger] == ["text", "fill"]
    assert clean.view.shape == pixels.shape
    assert clean.view_box == clean.content_area == (0, 0, 480, 400)
    assert (clean.view == pixels)[~clean.synthetic].all()
    assert clean.synthetic.any()


def test_an_instrument_is_filled_within_the_content_and_recorded(mucosa: Mucosa) -> None:
    def instrument(pixels: Pixels) -> NDArray[np.bool_]:
        mask = np.zeros(pixels.shape[:2], np.bool_)
        mask[300:, 200:240] = True
        return mask

    pixels = mucosa(400, 480, 9)
    pixels[300:, 200:240] = (200, 200, 210)
    recipe = replace(TEXT_ONLY, steps=("content_area", "instruments", "fill"))
    clean = Cleaner(Tools(instruments=instrument), recipe).clean(framed(pixels.copy()))
    assert isinstance(clean, CleanFrame)
    assert clean.synthetic[instrument(pixels)].all()
    assert not clean.synthetic[:290].any()
    assert not clean.synthetic[:, :190].any()
    assert (clean.view == pixels)[~clean.synthetic].all()
    assert clean.ledger[1].mask_area == clean.synthetic.sum() == 104 * 48


@pytest.mark.data
@pytest.mark.parametrize("folder", ["images/native_size", "instruments/images"])
def test_real_frames_change_only_inside_the_mask(data_dir: Path, folder: str) -> None:
    for path in sorted((data_dir / folder).glob("*.jpg")):
        pixels = np.array(Image.open(path).convert("RGB"))
        before = pixels.copy()
        clean = cleaner_with(one_line).clean(framed(pixels))
        assert isinstance(clean, CleanFrame), path.name
        assert (pixels == before).all()
        x0, y0, x1, y1 = clean.view_box
        if not clean.synthetic[y0:y1, x0:x1].any():
            assert (clean.view == crop_view(before, clean.content_area)).all()
