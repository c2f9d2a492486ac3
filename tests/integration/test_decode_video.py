"""Videos, encoded here in each code and container that the Standard allows."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, VideoEndoscopicImageStorage

from pipeline.decode import count_frames, decode, decode_frames
from pipeline.errors import DecodeError
from pipeline.frame import Pixels

LIMIT = 4_000_000
FRAMES, RATE = 50, 25
PATCHES = ((200, 60, 40), (40, 180, 60), (50, 60, 200), (128, 128, 128), (230, 200, 180))
KINDS = [
    ("mpeg2video", "mpegts", "1.2.840.10008.1.2.4.100", 576, 720),
    ("mpeg2video", "vob", "1.2.840.10008.1.2.4.101", 576, 720),
    ("libx264", "mp4", "1.2.840.10008.1.2.4.102", 720, 1280),
    ("libx264", "mpegts", "1.2.840.10008.1.2.4.102.1", 576, 720),
    ("libx265", "mp4", "1.2.840.10008.1.2.4.107", 576, 720),
]


def painted(number: int, rows: int, columns: int) -> Pixels:
    """Paint colour patches, and the frame's number in black and white bits along the top."""
    frame = np.zeros((rows, columns, 3), np.uint8)
    width = columns // len(PATCHES)
    for place, colour in enumerate(PATCHES):
        frame[:, place * width : (place + 1) * width] = colour
    for bit in range(8):
        frame[:40, bit * 40 : (bit + 1) * 40] = 255 * (number >> bit & 1)
    return frame


def number_in(frame: Pixels) -> int:
    bits = frame[10:30, :320].reshape(20, 8, 40, 3).mean(axis=(0, 2, 3)) > 128
    return int(sum(1 << place for place, bit in enumerate(bits) if bit))


def encoded(codec: str, container: str, rows: int, columns: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = columns, rows, "yuv420p", 8_000_000
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        matrix = "ITU709" if rows >= 720 else "ITU601"
        for number in range(1, FRAMES + 1):
            frame = av.VideoFrame.from_ndarray(painted(number, rows, columns), format="rgb24")
            for packet in stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix)):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return buffer.getvalue()


def wrapped(data: bytes, syntax: str, rows: int, columns: int, folder: Path) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = VideoEndoscopicImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, FRAMES
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_PARTIAL_420"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = encapsulate(
        [data], fragments_per_frame=3 if syntax.endswith(".1") else 1, has_bot=False
    )
    dataset["PixelData"].VR = "OB"
    path = folder / "video.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("codec", "container", "syntax", "rows", "columns"), KINDS)
def test_sampled_frames_carry_their_true_numbers_and_colours(
    codec: str, container: str, syntax: str, rows: int, columns: int, tmp_path: Path
) -> None:
    """A frame number on the result leads a person to that moment of the video; here it is in the picture."""
    path = wrapped(encoded(codec, container, rows, columns), syntax, rows, columns, tmp_path)
    frames = list(decode(path, max_frame_pixels=LIMIT, video_frames_per_second=2.5))
    assert [frame.source.frame_number for frame in frames] == [1, 11, 21, 31, 41]
    assert [number_in(frame.pixels) for frame in frames] == [1, 11, 21, 31, 41]
    assert count_frames(path, max_frame_pixels=LIMIT, video_frames_per_second=2.5) == 5
    width = columns // len(PATCHES)
    for place, colour in enumerate(PATCHES):
        patch = frames[0].pixels[300:400, place * width + 30 : (place + 1) * width - 30]
        assert np.abs(patch.mean(axis=(0, 1)) - colour).max() <= 4, (codec, place)
    chosen = list(decode_frames(path, [32, 7], max_frame_pixels=LIMIT))
    assert [(frame.source.frame_number, number_in(frame.pixels)) for frame in chosen] == [(7, 7), (32, 32)]


def test_a_video_without_a_stream_is_an_error(tmp_path: Path) -> None:
    path = wrapped(b"no video at all" * 40, "1.2.840.10008.1.2.4.102", 576, 720, tmp_path)
    with pytest.raises(DecodeError, match=r"instance 1\.2\.3\.4: a video that PyAV decodes was expected"):
        list(decode(path, max_frame_pixels=LIMIT))


def test_a_playlist_in_a_videos_place_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg follows playlists to other files and hosts; a sender must not steer it there."""
    (tmp_path / "other.ts").write_bytes(encoded("mpeg2video", "mpegts", 576, 720))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile 'other.ts'\n"
    path = wrapped(playlist, "1.2.840.10008.1.2.4.102", 576, 720, tmp_path)
    with pytest.raises(DecodeError):
        list(decode(path, max_frame_pixels=LIMIT))


def test_a_video_larger_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = wrapped(encoded("mpeg2video", "mpegts", 576, 720), "1.2.840.10008.1.2.4.100", 100, 100, tmp_path)
    with pytest.raises(DecodeError, match="frames of at most 20000 pixels was expected, 576 x 720 was found"):
        list(decode(path, max_frame_pixels=20_000))


def test_a_truncated_video_is_an_error(tmp_path: Path) -> None:
    path = wrapped(encoded("mpeg2video", "mpegts", 576, 720), "1.2.840.10008.1.2.4.100", 576, 720, tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DecodeError, match="a truncated file"):
        list(decode(path, max_frame_pixels=LIMIT))
