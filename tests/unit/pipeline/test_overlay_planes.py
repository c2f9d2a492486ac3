"""Overlay planes (60xx, PS3.3 C.9.2) hold names and drawings: they reach neither the frame nor the result."""

import io
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from node.results.secondary_capture import build_secondary_capture, to_single_frames
from pipeline.decode import decode
from pipeline.frame import Pixels
from tests.unit.node.results.conftest import LOSSLESS, encode, make_exam, make_report, make_source
from tests.unit.pipeline.conftest import Write

GROUPS = (0x6000, 0x6002, 0x601E)
"""The first, the second and the last that the Standard allows."""

STORED = np.random.default_rng(3).integers(40, 200, (16, 16, 3), np.uint8)


def add_planes(dataset: Dataset) -> None:
    """Add a plane of ones in each group, drawn over the whole image."""
    for group in GROUPS:
        for element, vr, value in (
            (0x0010, "US", 16), (0x0011, "US", 16), (0x0022, "LO", "Secret^Patient"), (0x0040, "CS", "G"),
            (0x0050, "SS", [1, 1]), (0x0100, "US", 1), (0x0102, "US", 0), (0x1500, "LO", "Secret"),
            (0x3000, "OW", b"\xff" * 32),
        ):  # fmt: skip
            dataset.add_new((group, element), vr, value)


def only_frame(path: Path) -> Pixels:
    (frame,) = decode(path, max_frame_pixels=10_000)
    return frame.pixels


def overlay_elements(dataset: Dataset) -> list[str]:
    return [str(element.tag) for element in dataset.iterall() if 0x6000 <= element.tag.group <= 0x60FF]


def test_a_plane_is_not_drawn_into_the_frame(instance_of: Write) -> None:
    path = instance_of(STORED.tobytes(), Rows=16, Columns=16)
    dataset = dcmread(path)
    add_planes(dataset)
    dataset.save_as(path)
    assert len(overlay_elements(dcmread(path))) == 9 * len(GROUPS)
    assert (only_frame(path) == STORED).all()


def test_a_plane_in_the_bits_above_a_pixel_is_not_drawn(instance_of: Write) -> None:
    """Before 2004 a plane could hide in unused bits of the pixels themselves (PS3.5 8.1.2)."""
    values = np.random.default_rng(4).integers(0, 4096, (16, 16), np.uint16)
    monochrome = {
        "Rows": 16, "Columns": 16, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
    }  # fmt: skip
    plain = only_frame(instance_of(values.tobytes(), **monochrome))
    drawn = only_frame(instance_of((values | 0x8000).tobytes(), **monochrome))
    assert (drawn == plain).all()


def test_a_plane_is_not_copied_to_the_result() -> None:
    source = make_source()
    add_planes(source)
    template = dcmread(io.BytesIO(encode(source)), stop_before_pixels=True)
    assert overlay_elements(template)
    whole = build_secondary_capture(make_report(), make_exam(template), sources=[LOSSLESS])
    for encoded in [whole, *to_single_frames(whole.data)]:
        assert overlay_elements(dcmread(io.BytesIO(encoded.data))) == []
        assert b"Secret" not in encoded.data
