from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.clean.content_area import ContentArea, find_content_area
from pipeline.clean.quality import QualityLimits, refusal, sharpness
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Mucosa, Outline

LIMITS = QualityLimits()


def whole(frame: Pixels) -> ContentArea:
    rows, columns = frame.shape[:2]
    return ContentArea(box=(0, 0, columns, rows), mask=np.ones((rows, columns), np.bool_))


def blurred(frame: Pixels, share: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), share * min(frame.shape[:2])), np.uint8)


def test_a_sharp_frame_passes(mucosa: Mucosa) -> None:
    frame = mucosa(532, 633, 1)
    assert refusal(frame, whole(frame), LIMITS) is None


def test_each_kind_of_bad_frame_has_its_own_reason(mucosa: Mucosa) -> None:
    """An operator who reads that half an exam was refused must learn what was wrong with it."""
    frame = mucosa(532, 633, 2)
    bad = {
        "blurred": blurred(frame, 0.02),
        "too_dark": (frame * 0.1).astype(np.uint8),
        "saturated": np.where(np.arange(633)[:, np.newaxis] < 300, np.uint8(255), frame),
        "solid_colour": np.full_like(frame, (190, 105, 85)),
    }
    assert {name: refusal(image, whole(image), LIMITS) for name, image in bad.items()} == {
        name: name for name in bad
    }


def test_a_reflection_does_not_make_a_blurred_frame_sharp(mucosa: Mucosa) -> None:
    """The edge of a white reflection has more Laplacian than all mucosa together."""
    green = blurred(mucosa(256, 256, 3), 0.02)[..., 1]
    inside = np.ones(green.shape, np.bool_)
    before = sharpness(green, inside)
    for corner in range(20, 220, 30):
        green[corner : corner + 6, corner : corner + 6] = 255
    assert sharpness(green, inside) == pytest.approx(before, rel=0.25)


def test_the_border_does_not_make_a_blurred_frame_sharp(mucosa: Mucosa, outline: Outline) -> None:
    frame = blurred(mucosa(532, 633, 4), 0.02)
    inside = outline("circle", 532, 633)
    bordered = find_content_area(frame * inside[..., np.newaxis])
    assert bordered is not None
    assert refusal(frame * inside[..., np.newaxis], bordered, LIMITS) == "blurred"


def test_a_frame_with_nothing_left_to_measure_is_refused() -> None:
    frame = np.full((64, 64, 3), 90, np.uint8)
    empty = ContentArea(box=(0, 0, 64, 64), mask=np.zeros((64, 64), np.bool_))
    assert refusal(frame, empty, LIMITS) == "solid_colour"


@pytest.mark.data
@pytest.mark.parametrize("folder", ["matched_256/uc", "matched_256/normal", "images/normal"])
def test_real_frames_pass_and_their_blurred_copies_do_not(data_dir: Path, folder: str) -> None:
    """The thresholds are tuned on these: a change that starts to refuse sharp frames must be seen."""
    paths = sorted((data_dir / folder).rglob("*.jpg"))[::20]
    refused = {"sharp": 0, "blurred": 0}
    for path in paths:
        frame = np.array(Image.open(path).convert("RGB"))
        area = find_content_area(frame)
        assert area is not None
        refused["sharp"] += refusal(frame, area, LIMITS) is not None
        soft = blurred(frame, 0.01)
        refused["blurred"] += refusal(soft, area, LIMITS) == "blurred"
    assert refused["sharp"] <= 0.02 * len(paths)
    assert refused["blurred"] >= 0.98 * len(paths)
