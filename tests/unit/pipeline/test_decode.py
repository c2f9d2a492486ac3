import struct
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from pipeline.decode import count_frames, decode, decode_frames
from pipeline.errors import DecodeError
from pipeline.frame import Pixels
from tests.unit.pipeline.conftest import Write

LIMIT = 1_000_000
RANDOM = np.random.default_rng(7)
THREE = RANDOM.integers(0, 256, (3, 5, 7, 3), np.uint8)
"""Three RGB frames of an odd number of bytes each."""


def pixels_of(path: Path) -> list[Pixels]:
    return [frame.pixels for frame in decode(path, max_frame_pixels=LIMIT)]


def message_of(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(DecodeError) as caught:
        list(decode(path, max_frame_pixels=limit))
    return str(caught.value)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("planar", [0, 1])
def test_native_frames_come_out_as_they_went_in(instance_of: Write, syntax: str, planar: int) -> None:
    stored = THREE.transpose(0, 3, 1, 2) if planar else THREE
    path = instance_of(
        padded(stored.tobytes()),
        syntax=syntax,
        Rows=5,
        Columns=7,
        NumberOfFrames=3,
        PlanarConfiguration=planar,
    )
    frames = list(decode(path, max_frame_pixels=LIMIT))
    assert all((frame.pixels == THREE[index]).all() for index, frame in enumerate(frames))
    assert [(frame.source.sop_instance_uid, frame.source.frame_number) for frame in frames] == [
        ("1.2.3.4", 1), ("1.2.3.4", 2), ("1.2.3.4", 3),
    ]  # fmt: skip
    assert count_frames(path, max_frame_pixels=LIMIT) == 3


def test_big_endian_words_of_8_bit_samples_are_swapped_back(instance_of: Write) -> None:
    """As OW, the two samples of each word change places (PS3.5 annex D); frames may begin within one."""
    words = np.frombuffer(padded(THREE.tobytes()), "<u2").astype(">u2").tobytes()
    path = instance_of(words, syntax=ExplicitVRBigEndian, Rows=5, Columns=7, NumberOfFrames=3)
    assert (np.stack(pixels_of(path)) == THREE).all()


def test_16_bit_colour_is_scaled_by_the_bits_stored(instance_of: Write) -> None:
    stored = (THREE[0].astype("<u2") << 4) | 5
    path = instance_of(stored.tobytes(), Rows=5, Columns=7, BitsAllocated=16, BitsStored=12, HighBit=11)
    assert (pixels_of(path)[0] == THREE[0]).all()


def test_unused_bits_are_not_pixels(instance_of: Write) -> None:
    """Old objects keep overlays there; drawn, they would be text on the mucosa."""
    stored = (THREE[0].astype("<u2") << 4) | 0xF000 | (THREE[0].astype("<u2") << 4 & 0xFFF)
    path = instance_of(stored.tobytes(), Rows=5, Columns=7, BitsAllocated=16, BitsStored=12, HighBit=11)
    assert (pixels_of(path)[0] == THREE[0]).all()


def test_overlay_planes_are_never_drawn(instance_of: Write) -> None:
    """Overlay planes (60xx) carry names and dates."""
    plain = instance_of(padded(THREE[0].tobytes()), Rows=5, Columns=7)
    before = pixels_of(plain)[0]
    from pydicom import dcmread  # late: only here

    dataset = dcmread(plain)
    dataset.add_new(0x60000010, "US", 5)
    dataset.add_new(0x60000011, "US", 7)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60003000, "OW", b"\xff" * 6)
    dataset.save_as(plain)
    assert (pixels_of(plain)[0] == before).all()


def grey(instance_of: Write, values: NDArray[np.generic], **attributes: object) -> list[int]:
    path = instance_of(
        padded(values.tobytes()), Rows=1, Columns=len(values), SamplesPerPixel=1,
        **{"PhotometricInterpretation": "MONOCHROME2", **attributes},
    )  # fmt: skip
    frame = pixels_of(path)[0]
    assert (frame[..., 0] == frame[..., 1]).all()
    assert (frame[..., 0] == frame[..., 2]).all()
    return [int(level) for level in frame[0, :, 0]]


def test_grey_levels_are_kept_or_inverted(instance_of: Write) -> None:
    levels = np.array([0, 10, 200, 255], np.uint8)
    assert grey(instance_of, levels) == [0, 10, 200, 255]
    assert grey(instance_of, levels, PhotometricInterpretation="MONOCHROME1") == [255, 245, 55, 0]


def test_a_window_is_applied_after_the_rescale(instance_of: Write) -> None:
    values = np.array([0, 500, 1000, 1500, 3000, 4000], "<u2")
    wide = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    window = {"WindowCenter": [0, 9], "WindowWidth": [1001, 9], "RescaleSlope": 1, "RescaleIntercept": -1000}
    assert grey(instance_of, values, **wide, **window) == [0, 0, 128, 255, 255, 255]


def test_signed_values_without_a_window_span_the_frame(instance_of: Write) -> None:
    values = np.array([-100, 0, 100], "<i2")
    wide = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    assert grey(instance_of, values, **wide) == [0, 128, 255]


def test_signed_values_of_12_bits_have_their_sign_at_the_12th(instance_of: Write) -> None:
    """The bits above hold what they like."""
    values = np.array([0x7F9C, 0x1000, 0x0064], "<u2")  # -100, 0 and 100 under unused bits
    wide = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    assert grey(instance_of, values, **wide) == [0, 128, 255]


def test_subsampled_chroma_is_given_to_both_pixels_of_a_pair(instance_of: Write) -> None:
    """YBR_FULL_422 uncompressed is Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    grey_pair, red_pair = bytes([50, 200, 128, 128]), bytes([76, 76, 85, 255])
    path = instance_of(grey_pair + red_pair, PhotometricInterpretation="YBR_FULL_422")
    frame = pixels_of(path)[0].astype(int)
    assert frame[0].tolist() == [[50, 50, 50], [200, 200, 200]]
    assert np.abs(frame[1] - (254, 0, 0)).max() <= 2


def test_chroma_that_is_said_to_be_subsampled_and_is_not_is_read_whole(instance_of: Write) -> None:
    path = instance_of(bytes([90, 128, 128] * 4), PhotometricInterpretation="YBR_FULL_422")
    assert (pixels_of(path)[0] == 90).all()


def test_pixels_that_are_not_square_are_made_so(instance_of: Write) -> None:
    """A circle must stay one: the border is searched as circle, and the network learnt square pixels."""
    data = np.full((30, 40, 3), 80, np.uint8).tobytes()
    tall = instance_of(data, Rows=30, Columns=40, PixelAspectRatio=["4", "3"])
    assert pixels_of(tall)[0].shape == (40, 40, 3)
    wide = instance_of(data, Rows=30, Columns=40, PixelAspectRatio=["3", "4"])
    assert pixels_of(wide)[0].shape == (30, 53, 3)
    absurd = instance_of(data, Rows=30, Columns=40, PixelAspectRatio=["1", "30000"])
    assert pixels_of(absurd)[0].shape == (30, 40, 3)


def jpegs() -> list[bytes]:
    painted = [
        np.full((24, 32, 3), colour, np.uint8) for colour in ((200, 40, 40), (40, 200, 40), (40, 40, 200))
    ]
    return [simplejpeg.encode_jpeg(image, 95) for image in painted]


@pytest.mark.parametrize("per_frame", [1, 2])
@pytest.mark.parametrize("has_table", [True, False])
def test_encapsulated_frames_are_told_apart(instance_of: Write, per_frame: int, has_table: bool) -> None:  # noqa: FBT001 - a parameter
    """By the offset table, or without one by how each stream begins; fragments are no frames."""
    data = encapsulate(jpegs(), fragments_per_frame=per_frame, has_bot=has_table)
    path = instance_of(data, syntax=JPEGBaseline8Bit, Rows=24, Columns=32, NumberOfFrames=3,
                       PhotometricInterpretation="YBR_FULL_422")  # fmt: skip
    assert [int(frame[5, 5].argmax()) for frame in pixels_of(path)] == [0, 1, 2]


def test_only_the_frames_asked_for_are_decoded(instance_of: Write) -> None:
    """Evidence is drawn from a few frames of an object that may have thousands."""
    streams = jpegs()
    streams[1] = streams[1][:60]
    path = instance_of(encapsulate(streams), syntax=JPEGBaseline8Bit, Rows=24, Columns=32, NumberOfFrames=3)
    frames = list(decode_frames(path, {3, 1}, max_frame_pixels=LIMIT))
    assert [frame.source.frame_number for frame in frames] == [1, 3]
    assert list(decode_frames(path, [], max_frame_pixels=LIMIT)) == []


@pytest.mark.parametrize("numbers", [[0], [1, 4]])
def test_a_frame_that_does_not_exist_is_an_error(instance_of: Write, numbers: list[int]) -> None:
    path = instance_of(padded(THREE.tobytes()), Rows=5, Columns=7, NumberOfFrames=3)
    with pytest.raises(DecodeError, match=r"instance 1\.2\.3\.4: frames 1 to 3 was expected"):
        list(decode_frames(path, numbers, max_frame_pixels=LIMIT))


def test_frames_come_one_at_a_time(instance_of: Write) -> None:
    """The second frame is broken, and the first comes out all the same: nothing was read ahead."""
    streams = jpegs()
    streams[1] = b"\xff\xd8\xff\xe0" + b"\0" * 40
    path = instance_of(encapsulate(streams), syntax=JPEGBaseline8Bit, Rows=24, Columns=32, NumberOfFrames=3)
    frames = decode(path, max_frame_pixels=LIMIT)
    assert next(frames).source.frame_number == 1
    with pytest.raises(DecodeError):
        next(frames)


def test_a_claim_of_too_many_pixels_is_refused_before_anything_is_read(instance_of: Write) -> None:
    path = instance_of(b"\0" * 16, Rows=65535, Columns=65535)
    assert message_of(path) == (
        "instance 1.2.3.4: a frame of at most 1000000 pixels was expected, 65535 x 65535 was found"
    )


def test_a_code_stream_larger_than_its_header_says_is_refused(instance_of: Write) -> None:
    """The decoder would allocate what the stream claims, not what the header does."""
    stream = bytearray(jpegs()[0])
    at = stream.index(b"\xff\xc0") + 5
    stream[at : at + 4] = struct.pack(">HH", 65535, 65535)
    path = instance_of(encapsulate([bytes(stream)]), syntax=JPEGBaseline8Bit, Rows=24, Columns=32)
    assert "a code stream of at most 1000000 pixels was expected, 65535 x 65535 was found" in message_of(path)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"pixel_data": None}, "an image with Pixel Data was expected, none was found"),
        ({"NumberOfFrames": 9}, "108 bytes of pixel data was expected, 12 was found"),
        ({"PhotometricInterpretation": "HSV"}, "RGB, YBR_FULL, MONOCHROME or PALETTE COLOR was expected"),
        ({"SamplesPerPixel": 1}, "RGB of 1 samples was found"),
        ({"BitsAllocated": 1}, "8, 16 or 32 bits allocated was expected, 1 was found"),
        ({"BitsStored": 9}, "bits stored and high bit within 8 was expected, 9 and 7 was found"),
        ({"Rows": 0}, "at least one row, column, sample and frame was expected"),
        ({"NumberOfFrames": "-3"}, "at least one row, column, sample and frame was expected"),
        ({"syntax": "1.2.840.10008.1.2.4.94"}, "a transfer syntax that can be decoded was expected, JPIP"),
    ],
)
def test_what_cannot_be_decoded_says_why_in_one_line(
    instance_of: Write, attributes: dict[str, object], expected: str
) -> None:
    data = encapsulate([bytes(12)]) if "syntax" in attributes else bytes(12)
    message = message_of(instance_of(**{"pixel_data": data, **attributes}))
    assert message.startswith("instance 1.2.3.4: ")
    assert expected in message
    assert "\n" not in message
    assert "secret" not in message.lower()


def test_rle_that_makes_its_decoder_panic_is_an_error(instance_of: Write) -> None:
    """A panic of the Rust decoder is no Exception: it would pass every handler and end the worker."""
    frame = struct.pack("<16I", 2, 64, 68, *[0] * 13) + bytes.fromhex("8ab676c8cc58f784a871")
    path = instance_of(
        encapsulate([frame]), syntax=RLELossless, Rows=1, Columns=1, SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=16, HighBit=15,
    )  # fmt: skip
    assert "pixel data that decodes was expected, ValueError was found" in message_of(path)


def test_a_disk_that_fails_is_not_the_instances_fault() -> None:
    """A file of the kernel that opens and cannot be read stands for it: tried again, not given up."""
    with pytest.raises(OSError, match="Input/output error"):
        list(decode(Path("/proc/self/mem"), max_frame_pixels=LIMIT))


def test_an_unknown_transfer_syntax_is_named(instance_of: Write) -> None:
    path = instance_of(encapsulate([bytes(12)]), syntax="1.2.840.10008.1.2.4.94")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.94", b"1.2.840.10008.1.2.4.99"))
    assert "a known transfer syntax was expected, 1.2.840.10008.1.2.4.99 was found" in message_of(path)


def test_12_bit_jpeg_is_refused_clearly(instance_of: Write) -> None:
    """Its only free decoder is under the GPL; the exam goes on with the other frames."""
    stream = bytearray(jpegs()[0])
    stream[stream.index(b"\xff\xc0") + 4] = 12
    path = instance_of(encapsulate([bytes(stream)]), syntax=JPEGBaseline8Bit, Rows=24, Columns=32)
    assert "JPEG of 8 bits and 1 or 3 components was expected, 12 bits, 3 components" in message_of(path)


def test_a_file_that_is_no_dicom_is_an_error_and_a_missing_file_is_not_its_fault(tmp_path: Path) -> None:
    """A missing file is the disk's trouble, tried again; broken bytes stay broken."""
    (tmp_path / "note.dcm").write_bytes(b"hello")
    assert message_of(tmp_path / "note.dcm").startswith(
        "instance unknown: a readable image header was expected"
    )
    with pytest.raises(FileNotFoundError):
        list(decode(tmp_path / "missing.dcm", max_frame_pixels=LIMIT))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_a_truncated_file_is_an_error_wherever_it_ends(instance_of: Write, syntax: str) -> None:
    data = encapsulate(jpegs()) if syntax == JPEGBaseline8Bit else bytes(24 * 32 * 3 * 3)
    path = instance_of(data, syntax=syntax, Rows=24, Columns=32, NumberOfFrames=3)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 61):
        path.write_bytes(whole[:length])
        message_of(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    syntax=st.sampled_from([ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, JPEG2000]),
    damage=st.lists(st.tuples(st.floats(0.0, 0.999), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_damaged_bytes_decode_or_raise_a_decode_error(
    instance_of: Write, syntax: str, damage: list[tuple[float, int]]
) -> None:
    """A peer sends what it likes; one instance must not end the worker that reads the exam."""
    data = THREE[0].tobytes() + b"\0"
    if syntax != ExplicitVRLittleEndian:
        rle = struct.pack("<16I", 3, 64, 102, 140, *[0] * 12) + b"".join(
            bytes([34, *THREE[0][..., plane].ravel()]) + b"\0\0" for plane in range(3)
        )
        data = encapsulate([rle if syntax == RLELossless else jpegs()[0]])
    path = instance_of(data, syntax=syntax, Rows=5, Columns=7)
    damaged = bytearray(path.read_bytes())
    for share, value in damage:
        damaged[132 + int(share * (len(damaged) - 132))] = value
    path.write_bytes(damaged)
    try:
        for frame in decode(path, max_frame_pixels=LIMIT):
            assert frame.pixels.shape[2] == 3
    except DecodeError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
