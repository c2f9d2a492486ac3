import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, VLEndoscopicImageStorage

from node.demo.painting import paint_frame
from node.demo.wrapping import wrap

FRAME = paint_frame(2, ulcers=True, instrument=False, text="DEMO 00:12", rows=255, columns=301)


def written(jpeg_quality: int | None) -> bytes:
    ds = wrap(FRAME, patient_id="DEMO-1", study_instance_uid="2.25.77", jpeg_quality=jpeg_quality)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_an_uncompressed_frame_comes_back_unchanged() -> None:
    """Odd sizes too: the pad byte of an odd pixel data length is easily forgotten."""
    ds = pydicom.dcmread(io.BytesIO(written(None)))
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(pixel_array(ds), FRAME)


def test_a_jpeg_frame_is_close_and_says_that_it_is_lossy() -> None:
    ds = pydicom.dcmread(io.BytesIO(written(90)))
    assert ds.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (ds.PhotometricInterpretation, ds.LossyImageCompression) == ("YBR_FULL_422", "01")
    assert np.abs(pixel_array(ds).astype(int) - FRAME).mean() < 4


def test_frames_of_one_study_share_a_series_and_nothing_else() -> None:
    first, second = (
        wrap(FRAME, patient_id="DEMO-1", study_instance_uid="2.25.77", instance_number=n) for n in (1, 2)
    )
    assert first.SOPClassUID == VLEndoscopicImageStorage
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


@pytest.mark.acceptance
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not here")
@pytest.mark.parametrize("jpeg_quality", [None, 85])
def test_the_object_is_valid_by_its_iod(tmp_path: Path, jpeg_quality: int | None) -> None:
    path = tmp_path / "frame.dcm"
    path.write_bytes(written(jpeg_quality))
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
    assert "Error" not in said, said
    assert "VLEndoscopicImage" in said
