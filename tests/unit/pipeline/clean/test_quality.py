from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.clean.content_area import ContentArea, find_content_area
from pipeline.clean.quality import (
    CLIPPED,
    COLOURLESS,
    QualityLimits,
    Reason,
    _at_working_scale,
    refusal,
    sharpness,
)
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Mucosa, Outline

LIMITS = QualityLimits()


def whole(frame: Pixels) -> ContentArea:
    rows, columns = frame.shape[:2]
    return ContentArea(box=(0, 0, columns, rows), mask=np.ones((rows, columns), np.bool_))


def blurred(frame: Pixels, share: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), share * min(frame.shape[:2])), np.uint8)


def spoilt(frame: Pixels) -> dict[Reason, Pixels]:
    """Return the frame made unreadable in every way that has a name."""
    mean = frame.mean(axis=(0, 1))
    spoilt: dict[Reason, NDArray[Any]] = {
        "fully_reflected": 0.8 * 255 + 0.2 * frame,
        "saturated": frame * np.array((3.0, 1.6, 1.6)),
        "too_dark": 0.1 * frame,
        "solid_colour": mean + 0.1 * (frame - mean),
        "out_of_focus": blurred(frame, 0.01).astype(np.float64),
    }
    return {reason: np.clip(image, 0, 255).astype(np.uint8) for reason, image in spoilt.items()}


def test_a_sharp_frame_passes(mucosa: Mucosa) -> None:
    frame = mucosa(532, 633, 1)
    assert refusal(frame, whole(frame), LIMITS) is None


def test_each_kind_of_bad_frame_has_its_own_reason(mucosa: Mucosa) -> None:
    """An operator who reads that half an exam was refused must learn what was wrong with it."""
    frame = mucosa(532, 633, 2)
    bad = {**spoilt(frame), "solid_colour": np.full_like(frame, (190, 105, 85))}
    assert set(bad) == set(get_args(Reason))
    assert {name: refusal(image, whole(image), LIMITS) for name, image in bad.items()} == {
        name: name for name in bad
    }


@pytest.mark.parametrize("rows", [767, 768, 1024, 1080, 1200, 1535, 2160])
def test_a_large_frame_is_as_sharp_by_halves_as_by_area(mucosa: Mucosa, rows: int) -> None:
    """The limits were measured on frames that were not halved."""
    columns = rows * 633 // 532
    large = np.asarray(cv2.resize(mucosa(532, 633, 2), (columns, rows), interpolation=cv2.INTER_CUBIC))
    noisy = large + np.random.default_rng(0).normal(0, 6, large.shape)
    large = np.clip(noisy, 0, 255).astype(np.uint8)
    size = (305, 256)
    by_area = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
    inside = np.ones((256, 305), np.bool_)
    ratio = sharpness(_at_working_scale(large, size)[..., 1], inside) / sharpness(by_area[..., 1], inside)
    assert 0.8 < ratio < 1.7


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
    assert refusal(frame * inside[..., np.newaxis], bordered, LIMITS) == "out_of_focus"


def test_a_frame_with_nothing_left_to_measure_is_refused() -> None:
    frame = np.full((64, 64, 3), 90, np.uint8)
    empty = ContentArea(box=(0, 0, 64, 64), mask=np.zeros((64, 64), np.bool_))
    assert refusal(frame, empty, LIMITS) == "solid_colour"


@given(seed=st.integers(0, 2**32 - 1))
def test_a_frame_is_refused_from_just_below_its_shares_and_just_above_its_median(seed: int) -> None:
    """They are read off histograms: numpy, which sorts and counts, must agree to the last bit."""
    random = np.random.default_rng(seed)
    frame = random.integers(180, 256, (9, 12, 3), dtype=np.uint8)
    mask = random.random((9, 12)) < 0.5
    mask[0, 0] = True
    area = ContentArea(box=(0, 0, 12, 9), mask=mask)
    pale, bright = frame.min(axis=2)[mask], frame.max(axis=2)[mask]
    reflected, saturated = float((pale >= COLOURLESS).mean()), float((bright >= CLIPPED).mean())
    dark = float(np.median(bright))
    loose = QualityLimits(reflected, saturated, dark, 0.0, 0.0)
    assert refusal(frame, area, loose) is None
    if reflected:
        tight = replace(loose, fully_reflected_above=np.nextafter(reflected, 0))
        assert refusal(frame, area, tight) == "fully_reflected"
    if saturated:
        assert refusal(frame, area, replace(loose, saturated_above=np.nextafter(saturated, 0))) == "saturated"
    assert refusal(frame, area, replace(loose, too_dark_below=np.nextafter(dark, 256))) == "too_dark"


@pytest.mark.data
@pytest.mark.parametrize("folder", ["matched_256/uc", "matched_256/normal", "images/normal"])
def test_real_frames_pass_and_spoilt_ones_are_refused_for_what_was_done_to_them(
    data_dir: Path, folder: str
) -> None:
    """The limits are tuned on these: a change that starts to refuse sharp frames must be seen."""
    paths = sorted((data_dir / folder).rglob("*.jpg"))[::12]
    kept, named = 0, Counter[Reason]()
    for path in paths:
        frame = np.array(Image.open(path).convert("RGB"))
        area = find_content_area(frame)
        assert area is not None
        kept += refusal(frame, area, LIMITS) is None
        named.update(reason for reason, bad in spoilt(frame).items() if refusal(bad, area, LIMITS) == reason)
    assert kept >= 0.98 * len(paths)
    for reason in get_args(Reason):
        assert named[reason] >= 0.9 * len(paths), reason


@pytest.mark.data
def test_the_fixed_scale_ranks_frames_as_the_full_resolution_does(data_dir: Path) -> None:
    """Sharpness is measured at half the resolution to be cheap, and to mean the same on every processor."""
    pairs = []
    for path in sorted((data_dir / "images" / "normal").rglob("*.jpg"))[::3]:
        frame = np.array(Image.open(path).convert("RGB"))
        area = find_content_area(frame)
        assert area is not None
        x0, y0, x1, y1 = area.box
        green, inside = frame[y0:y1, x0:x1, 1], area.mask[y0:y1, x0:x1].astype(np.uint8)
        size = ((x1 - x0) // 2, (y1 - y0) // 2)
        half = cv2.resize(np.ascontiguousarray(green), size, interpolation=cv2.INTER_AREA)
        half_inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
        pairs.append((sharpness(half, half_inside > 0), sharpness(green, inside > 0)))
    half_ranks, full_ranks = np.argsort(np.argsort(np.array(pairs), axis=0), axis=0).T
    spearman = float(np.asarray(np.corrcoef(half_ranks, full_ranks))[0, 1])
    assert spearman >= 0.85
