"""Every public test image, held against decoders that share no code with ours."""

import csv
import shutil
import subprocess
from pathlib import Path

import cv2
import gdcm
import numpy as np
import pytest
from pydicom import dcmread

from pipeline.decode import count_frames, decode, decode_frames
from pipeline.errors import DecodeError
from pipeline.frame import Pixels

pytestmark = pytest.mark.data

LIMIT = 64_000_000
TOLERANCE = 2
"""Levels by which two correct decoders may differ (inverse DCT and chroma rounding)."""

UNDECODABLE = {
    "orthanc-tests__sample-pdf.dcm": "an image with Pixel Data was expected, none was found",
    "orthanc-tests__2026-05-26-oob-monochrome-65535.dcm":
        "a frame of at most 64000000 pixels was expected, 65535 x 65535 was found",
    "wg04__NM1_JPLY.dcm": "JPEG of 8 bits and 1 or 3 components was expected, 12 bits, 1 components",
}  # fmt: skip

LYING_RGB = "fo-dicom__GH195.dcm"
"""RGB by its header, YCbCr by its JFIF marker and its subsampled chroma, and teeth by what is to be seen."""

IMPLICIT_UNDER_EXPLICIT = "pydicom__SC_rgb_jpeg.dcm"
"""Implicit VR under an explicit transfer syntax, which DCMTK cannot read."""

SAME_PICTURE = "pydicom__SC_rgb_jpeg_dcmd.dcm"
NOT_SQUARE = {"pydicom-data__color-pl.dcm", "pydicom-data__color-px.dcm"}


SMALLER_FRAMES = "fo-dicom__multiframe.dcm"
"""Its last frames are smaller than its header says, which DCMTK pads with what it drew before."""

BEYOND_DCMTK = ("JPEG 2000", "High-Throughput", "JPEG-LS")


def index(data_dir: Path) -> dict[Path, dict[str, str]]:
    """Return what the folder's list says of each file."""
    with (data_dir / "dicom" / "INDEX.csv").open(encoding="utf-8") as file:
        return {data_dir / "dicom" / row["file"]: row for row in csv.DictReader(file)}


def by_dcmtk(path: Path, number: int, folder: Path) -> Pixels:
    """Decode one frame by dcmj2pnm; GH195 with its library's guess of the colour space."""
    guess = ["--conv-guess"] if path.name == LYING_RGB else []
    target = folder / "frame.ppm"
    command = [
        "dcmj2pnm",
        "--quiet",
        "--write-raw-pnm",
        *guess,
        "--frame",
        str(number),
        str(path),
        str(target),
    ]
    subprocess.run(command, check=True)
    image = cv2.imread(str(target), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image[..., ::-1], np.uint8)


def by_gdcm(path: Path) -> Pixels:
    """Decode a whole single-frame object by GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    columns, rows = image.GetDimensions()[:2]
    samples = image.GetPixelFormat().GetSamplesPerPixel()
    values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint8)
    return values.reshape(rows, columns, samples)


def apart(first: Pixels, second: Pixels) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_every_image_is_decoded_and_the_rest_say_why(data_dir: Path) -> None:
    """One file that is quietly skipped, or that stops the others, is an exam read wrongly."""
    for path in index(data_dir):
        if path.name in UNDECODABLE:
            with pytest.raises(DecodeError) as caught:
                list(decode(path, max_frame_pixels=LIMIT))
            assert UNDECODABLE[path.name] in str(caught.value)
            assert str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) in str(caught.value)
        else:
            frames = list(decode(path, max_frame_pixels=LIMIT))
            assert len(frames) == count_frames(path, max_frame_pixels=LIMIT), path.name
            assert [frame.source.frame_number for frame in frames] == list(range(1, len(frames) + 1))


@pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="needs DCMTK's dcmj2pnm (Debian: dcmtk)")
def test_colours_are_those_of_dcmtk(data_dir: Path, tmp_path: Path) -> None:
    """First and last frame of all that DCMTK decodes: native, RLE and JPEG, whatever their headers claim."""
    checked = 0
    for path, said in index(data_dir).items():
        is_odd = path.name in {*UNDECODABLE, *NOT_SQUARE, IMPLICIT_UNDER_EXPLICIT}
        if is_odd or said["transfer_syntax"].startswith(BEYOND_DCMTK):
            continue
        last = 1 if path.name == SMALLER_FRAMES else count_frames(path, max_frame_pixels=LIMIT)
        for number in {1, last}:
            (frame,) = decode_frames(path, [number], max_frame_pixels=LIMIT)
            assert apart(frame.pixels, by_dcmtk(path, number, tmp_path)) <= TOLERANCE, path.name
            checked += 1
    assert checked >= 45


def test_colours_are_those_of_gdcm(data_dir: Path) -> None:
    """JPEG 2000, HTJ2K and JPEG-LS, in RGB, YBR_RCT and YBR_ICT."""
    checked = 0
    for path, said in index(data_dir).items():
        if said["transfer_syntax"].startswith(BEYOND_DCMTK) and said["bits"] == "8":
            (frame,) = decode(path, max_frame_pixels=LIMIT)
            assert apart(frame.pixels, by_gdcm(path)) <= TOLERANCE, path.name
            checked += 1
    assert checked >= 11


def test_a_file_that_is_implicit_under_an_explicit_syntax_shows_the_same_picture(data_dir: Path) -> None:
    """Its JPEG has a broken Adobe marker and components 0, 1, 2; its header alone says RGB, and is right."""
    (odd,) = decode(data_dir / "dicom" / IMPLICIT_UNDER_EXPLICIT, max_frame_pixels=LIMIT)
    (plain,) = decode(data_dir / "dicom" / SAME_PICTURE, max_frame_pixels=LIMIT)
    assert apart(odd.pixels, plain.pixels) <= TOLERANCE


def test_pixels_of_4_to_3_are_stretched(data_dir: Path, tmp_path: Path) -> None:
    for name in sorted(NOT_SQUARE):
        path = data_dir / "dicom" / name
        (frame,) = decode(path, max_frame_pixels=LIMIT)
        assert frame.pixels.shape == (160, 256, 3)
        if shutil.which("dcmj2pnm"):
            back = cv2.resize(frame.pixels, (256, 120), interpolation=cv2.INTER_AREA)
            assert np.abs(back.astype(int) - by_dcmtk(path, 1, tmp_path)).mean() < 4


def test_no_error_tells_who_the_patient_is(data_dir: Path, tmp_path: Path) -> None:
    """Messages end in logs and in the database's error column."""
    source = data_dir / "dicom" / "orthanc-tests__Lena-latin1.dcm"
    header = dcmread(source, stop_before_pixels=True)
    secrets = [str(header.get(keyword, "")) for keyword in ("PatientName", "PatientID", "PatientBirthDate")]
    whole, cut = source.read_bytes(), tmp_path / "cut.dcm"
    for length in range(200, len(whole) - 10, 400):
        cut.write_bytes(whole[:length])
        with pytest.raises(DecodeError) as caught:
            list(decode(cut, max_frame_pixels=LIMIT))
        assert not [secret for secret in secrets if secret and secret in str(caught.value)]
