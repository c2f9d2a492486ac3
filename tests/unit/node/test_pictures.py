"""What the page shows of a frame: what the gate blanked stays blank, on every layer."""

import numpy as np
import pytest

from node.frames import LookedAt
from node.pictures import layers
from node.results.gate import PLATE_LEVEL, Gated
from node.results.report import Verdict
from pipeline.frame import CleanFrame, FrameSource, Pixels, RejectedFrame

SIZE, CLASSES = 96, ("healthy", "ibd")
SECRET = np.array((255, 0, 255), np.uint8)
"""What burnt-in text is painted in: nothing else has this colour."""


def frame() -> Pixels:
    pixels = np.full((SIZE, SIZE, 3), (180, 90, 70), np.uint8)
    pixels[40:52, 30:70] = SECRET
    return pixels


def seen(verdict: Verdict = "blanked", *, filled: bool = False, rejected: bool = False) -> LookedAt:
    """Return a frame whose text the gate blanked; the cleaning filled other text, or rejected the frame."""
    pixels = frame()
    shown = pixels.copy()
    shown[38:54, 28:72] = PLATE_LEVEL
    synthetic = np.zeros((SIZE, SIZE), bool)
    synthetic[10:20, 10:20] = filled
    source = FrameSource("1.2.3", 1)
    box = (16, 16, 80, 80)
    clean = CleanFrame(source, np.ascontiguousarray(pixels[16:80:2, 16:80:2]), box, box, synthetic)
    cam = np.zeros((2, 8, 8), np.float32)
    return LookedAt(
        pixels, Gated(shown, verdict), RejectedFrame(source, "blurred") if rejected else clean, cam
    )


def shows_secret(pixels: Pixels) -> bool:
    """Tell whether text can be made out, also where a layer lies over it or it was reduced."""
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    return bool(((red - green > 120) & (blue - green > 120)).any())


@pytest.mark.parametrize("filled", [False, True], ids=["nothing filled", "other text filled"])
def test_what_the_gate_blanked_is_blank_on_every_layer(*, filled: bool) -> None:
    """The cleaning missed it, so that the view which the model saw holds it: a person is not shown it."""
    assert shows_secret(frame())
    found = layers(seen(filled=filled), label="ibd", classes=CLASSES)
    assert set(found) == {"frame", "activation", "filled", "view"}
    for name, pixels in found.items():
        assert not shows_secret(pixels), name
    if not filled:  # else its outline lies across
        assert (found["view"][12:18, 7:27] == PLATE_LEVEL).all()


def test_a_frame_that_became_a_plate_has_no_other_layer() -> None:
    """Where text is found time and again, the view and the map over it would show it."""
    assert set(layers(seen("plate"), label="ibd", classes=CLASSES)) == {"frame"}


def test_a_frame_that_is_rejected_now_is_shown_as_it_is() -> None:
    """Another recipe may reject what one read: there is no view to show then."""
    assert set(layers(seen(rejected=True), label="ibd", classes=CLASSES)) == {"frame"}


def test_a_reading_without_a_label_has_no_activation() -> None:
    assert "activation" not in layers(seen(), label=None, classes=CLASSES)
