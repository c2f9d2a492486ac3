"""Studies of real frames, and peers that end with the test that started them."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from node.demo.wrapping import wrap
from tests.acceptance.peers import NodeProcess, Orthanc, free_port, missing_tools

CHROMIUM = Path("/usr/bin/chromium")
NEEDED = ("Orthanc", "dcmsend", "dciodvfy")


@pytest.fixture(scope="session", autouse=True)
def _peers_installed() -> None:
    missing = missing_tools(*NEEDED)
    if missing:
        pytest.skip(
            f"real peers are needed: {', '.join(missing)} not installed (Debian: orthanc dcmtk dicom3tools)"
        )


class Studies:
    """Writes pseudo-patients as VL Endoscopic Image studies."""

    def __init__(self, data_dir: Path, folder: Path) -> None:
        self.data_dir, self.folder = data_dir, folder
        self.frames: dict[str, list[tuple[str, Path]]] = {}
        with (data_dir / "pseudo_patients.csv").open() as table:
            for row in csv.DictReader(table):
                frame = (row["label"], data_dir / row["path"])
                self.frames.setdefault(row["pseudo_patient_id"], []).append(frame)

    def of(self, label: str, count: int = 1) -> list[str]:
        """Return the first pseudo-patients of one label."""
        return [name for name, frames in self.frames.items() if frames[0][0] == label][:count]

    def write(
        self,
        study_uid: str,
        patients: list[str],
        *,
        patient_id: str,
        limit: int = 8,
        jpeg_quality: int | None = 90,
        first_number: int = 1,
    ) -> list[Path]:
        """Write up to `limit` frames of each pseudo-patient as one study of one patient."""
        folder = self.folder / study_uid
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        frames = [path for patient in patients for _, path in self.frames[patient][:limit]]
        for number, path in enumerate(frames, start=first_number):
            bgr = cv2.imread(str(path))
            assert bgr is not None, path
            ds = wrap(
                np.ascontiguousarray(bgr[:, :, ::-1], dtype=np.uint8),
                patient_id=patient_id,
                study_instance_uid=study_uid,
                instance_number=number,
                jpeg_quality=jpeg_quality,
            )
            target = folder / f"{number:04}.dcm"
            ds.save_as(target, enforce_file_format=True)
            paths.append(target)
        return paths


@pytest.fixture
def studies(data_dir: Path, tmp_path: Path) -> Studies:
    """Return a writer of studies of real frames."""
    return Studies(data_dir, tmp_path / "studies")


Pair = tuple[NodeProcess, Orthanc]


@pytest.fixture
def start_pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """Return a function that makes a node and its Orthanc, the latter started; both end with the test."""
    started: list[Pair] = []

    def start(**settings: object) -> Pair:
        port = free_port()
        orthanc = Orthanc(tmp_path / f"orthanc{len(started)}", node_port=port)
        node = NodeProcess(
            tmp_path / f"node{len(started)}",
            port=port,
            pacs_port=orthanc.dicom_port,
            **settings,  # type: ignore[arg-type]
        )
        orthanc.start()
        started.append((node, orthanc))
        return node, orthanc

    yield start
    for node, orthanc in started:
        node.kill()
        orthanc.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return Debian's Chromium without a window."""
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is needed (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Tell whether the full figures were asked for (``make acceptance``)."""
    return bool(pytestconfig.getoption("--full"))
