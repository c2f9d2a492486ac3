"""Memory does not grow with the object: a 300 MB multi-frame study is received and read within bounds."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from tests.acceptance.conftest import Pair
from tests.acceptance.peers import dcmsend

pytestmark = [pytest.mark.acceptance, pytest.mark.alone]

ROWS, COLUMNS, FRAMES = 576, 720, 242
MB = 1_000_000


def _write_large(path: Path, study: str) -> None:
    """Write a multi-frame endoscopy of 301 MB, frame by frame."""
    painted = [
        paint_frame(seed, ulcers=seed % 2 == 0, instrument=False, text=None, rows=ROWS, columns=COLUMNS)
        for seed in range(4)
    ]
    ds = wrap(painted[0], patient_id="A", study_instance_uid=study)
    ds.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    ds.NumberOfFrames = 1
    ds.save_as(path, enforce_file_format=True)
    header = path.read_bytes()
    frame_bytes = ROWS * COLUMNS * 3
    ds.NumberOfFrames = FRAMES
    ds.PixelData = b"\0" * 2
    ds.save_as(path, enforce_file_format=True)
    assert len(header) > frame_bytes
    start = path.read_bytes()
    assert start[-6:] == (2).to_bytes(4, "little") + b"\0\0"
    with path.open("wb") as file:
        file.write(start[:-6] + (frame_bytes * FRAMES).to_bytes(4, "little"))
        for number in range(FRAMES):
            file.write(painted[number % len(painted)].tobytes())


class Watch(threading.Thread):
    """Samples the receiver's resident memory, and that of all processes, shared pages counted once (PSS)."""

    def __init__(self, receiver: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.receiver = receiver
        self.stopping = threading.Event()
        self.receiver_peak = self.total_peak = 0

    def run(self) -> None:
        """Sample every 50 ms."""
        while not self.stopping.wait(0.05):
            found = [
                process.memory_full_info()
                for process in (self.receiver, *self.receiver.children(recursive=True))
            ]
            self.receiver_peak = max(self.receiver_peak, found[0].rss)
            self.total_peak = max(self.total_peak, sum(each.pss for each in found))


def test_a_300_mb_object_is_received_and_read_in_bounds(
    start_pair: Callable[..., Pair], tmp_path: Path
) -> None:
    """One large object must not take the node down with it."""
    node, _ = start_pair(quiet_time_s=2)
    study = "1.2.826.0.7.1"
    path = tmp_path / "large.dcm"
    _write_large(path, study)
    assert path.stat().st_size > 300_000_000
    process = node.start()
    time.sleep(3)
    receiver = psutil.Process(process.pid)
    before = receiver.memory_info().rss
    watch = Watch(receiver)
    watch.start()
    assert dcmsend(node.port, [path]).returncode == 0
    exam = node.wait_delivered([study], 240)[study]
    watch.stopping.set()
    watch.join()
    growth, total = (watch.receiver_peak - before) / MB, watch.total_peak / MB
    print(f"receiver grew by {growth:.0f} MB, node at most {total:.0f} MB")  # noqa: T201 - the figure
    assert exam["counts"]["kept"] + exam["counts"]["rejected"] == FRAMES
    assert growth < 80
    assert total < 600
