"""A multi-frame object of 300 MB is decoded in a few."""

import struct
import subprocess
import sys
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, VLEndoscopicImageStorage

ROWS, COLUMNS, FRAMES = 1080, 1280, 76

PROGRAM = """
import sys
from pathlib import Path
import psutil
from pipeline.decode import decode
me = psutil.Process()
before = most = me.memory_info().rss
for frame in decode(Path(sys.argv[1]), max_frame_pixels=64_000_000):
    assert int(frame.pixels[5, 5, 1]) == frame.source.frame_number
    most = max(most, me.memory_info().rss)
print(frame.source.frame_number, most - before)
"""


def test_a_300_mb_object_is_decoded_a_frame_at_a_time(tmp_path: Path) -> None:
    """The whole worker may have 600 MB; an object read whole would take half of that alone."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = VLEndoscopicImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = ROWS, COLUMNS, FRAMES
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    path = tmp_path / "large.dcm"
    dataset.save_as(path, enforce_file_format=True)
    size = ROWS * COLUMNS * 3
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OB\x00\x00" + struct.pack("<I", size * FRAMES))
        for number in range(1, FRAMES + 1):
            file.write(bytes([number]) * size)
    assert path.stat().st_size > 300_000_000
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    last, growth = map(int, done.stdout.split())
    assert last == FRAMES
    assert growth < 40_000_000
