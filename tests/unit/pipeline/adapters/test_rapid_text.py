import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.adapters import rapid_text
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.text import text_mask
from pipeline.errors import DetectorError
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Mucosa

WORDS = [("12/03/2013", 40, 60, 12), ("14:22:07", 60, 160, 16), ("SCV: 30", 400, 300, 20),
         ("Comment", 380, 420, 28), ("Age: 54", 90, 480, 14)]  # fmt: skip


@pytest.fixture(scope="module")
def detector() -> RapidText:
    return RapidText()


def lettered(frame: Pixels, words: list[tuple[str, int, int, int]]) -> tuple[Pixels, Pixels]:
    """Paint words; return the frame and 255 where a letter is."""
    image, letters = Image.fromarray(frame), Image.new("L", (frame.shape[1], frame.shape[0]))
    for word, x, y, size in words:
        font = ImageFont.load_default(size)
        ImageDraw.Draw(image).text((x, y), word, fill=(240, 240, 240), font=font)
        ImageDraw.Draw(letters).text((x, y), word, fill=255, font=font)
    return np.array(image), np.array(letters)


def test_overlay_text_is_found_at_every_size(detector: RapidText, mucosa: Mucosa) -> None:
    """Text that is missed stays in the model's view, and tells it the day and the hospital."""
    frame, letters = lettered(mucosa(576, 720, 1), WORDS)
    mask = text_mask(detector(frame), rows=576, columns=720)
    assert mask[letters > 0].mean() >= 0.995
    near = cv2.dilate(letters, np.ones((33, 33), np.uint8)) > 0
    assert (mask & ~near).mean() <= 0.005


def test_the_boxes_are_those_of_rapidocr(
    detector: RapidText, mucosa: Mucosa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We run its network without it; a slip in channel order, scale or growth shows only beside it."""
    from rapidocr import RapidOCR  # late: it takes a second

    frame, _ = lettered(mucosa(576, 720, 1), WORDS)
    reference = RapidOCR(params={"Global.log_level": "error"})
    theirs = reference(np.ascontiguousarray(frame[..., ::-1]), use_det=True, use_cls=False, use_rec=False)
    its_own = {
        "SHORT_SIDE": 736,
        "STROKE_GAIN": 0.0,
        "TISSUE_SHARE": 1.0,
        "BINARISED_AT": 0.3,
        "LEAST_MEAN": 0.5,
    }
    for name, value in its_own.items():
        monkeypatch.setattr(rapid_text, name, value)
    masks = [text_mask(quads, rows=576, columns=720) for quads in (detector(frame), list(theirs.boxes))]
    assert (masks[0] & masks[1]).sum() >= 0.94 * (masks[0] | masks[1]).sum()


@pytest.mark.parametrize("level", [20, 240], ids=["dark", "light"])
def test_letters_are_found_whichever_is_brighter(detector: RapidText, mucosa: Mucosa, level: int) -> None:
    """The strokes shown to the network are the bright ones; dark letters must show through the rest."""
    image = Image.fromarray(mucosa(576, 720, 2))
    font = ImageFont.load_default(24)
    ImageDraw.Draw(image).text((200, 200), "Physician: Kaleva", fill=(level, level, level), font=font)
    mask = text_mask(detector(np.array(image)), rows=576, columns=720)
    assert mask[204:222, 205:380].mean() >= 0.95


def test_tissue_without_text_is_not_masked(detector: RapidText, mucosa: Mucosa) -> None:
    for seed in range(4):
        quads = detector(mucosa(576, 720, seed))
        assert text_mask(quads, rows=576, columns=720).mean() <= 0.005


@pytest.mark.parametrize("shape", [(1, 1), (7, 900), (900, 7), (256, 256)])
def test_frames_of_any_shape_are_taken(detector: RapidText, shape: tuple[int, int]) -> None:
    assert detector(np.full((*shape, 3), 120, np.uint8)) == []


def test_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network other than the measured one would be wrong silently."""
    monkeypatch.setattr(rapid_text, "NETWORK_SHA256", "0" * 64)
    with pytest.raises(DetectorError, match=r"PP-OCRv6_det_small\.onnx with SHA-256 0000"):
        RapidText()
