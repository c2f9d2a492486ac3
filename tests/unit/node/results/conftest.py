"""Reports and source headers to build results from."""

import datetime as dt
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from node.results.envelope import Exam
from node.results.report import EvidencePanel, Report, SourceReference
from pipeline.frame import FrameSource

VL_ENDOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.1"
MULTI_FRAME_SC = "1.2.840.10008.5.1.4.1.1.7.4"
LOSSLESS = SourceReference("1.2.3.4.5", VL_ENDOSCOPIC, "1.2.3.4", None, ())
LOSSY = SourceReference("1.2.3.4.6", VL_ENDOSCOPIC, "1.2.3.4", ("12.5", "ISO_10918_1"), ())
MULTI_FRAME = SourceReference("1.2.3.5.1", MULTI_FRAME_SC, "1.2.3.5", None, (3, 7))


def make_panel(seed: int = 0, **changes: Any) -> EvidencePanel:
    """Return a panel with a random frame and a random map."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "pixels": rng.integers(0, 256, (96, 120, 3), dtype=np.uint8),
        "source": FrameSource("1.2.3.4.5", 1),
        "cam": rng.normal(size=(7, 7)).astype(np.float32),
        "view_box": (20, 10, 100, 86),
        "confidence": 0.981,
        "probability": 0.981,
        "label": "ibd",
        "voted": True,
        "gate": "clean",
    }
    return EvidencePanel(**(values | changes))


def make_report(**changes: Any) -> Report:
    """Return a report of a complete exam read as IBD, with two evidence frames."""
    values: dict[str, Any] = {
        "revision": 1,
        "supersedes": None,
        "reading": "ibd",
        "unpredicted_reason": None,
        "probability": 0.97,
        "frames_received": 20,
        "frames_kept": 15,
        "frames_foreign": 0,
        "frames_used": 2,
        "threshold": 0.93,
        "top_k": 6,
        "model_name": "reference",
        "model_version": "1.0",
        "model_digest": "ab" * 32,
        "settings_digest": "cd" * 32,
        "quantisation": "ptq, weights 8 bit, activations 8 bit",
        "weights_digest": "ef" * 32,
        "completeness_verdict": "complete",
        "missing_count": None,
        "body_part_stated": True,
        "objects_unreadable": 0,
        "evidence": (make_panel(1), make_panel(2)),
        "created_at": dt.datetime(2026, 3, 4, 22, 30, 5, tzinfo=dt.UTC),
    }
    return Report(**(values | changes))


REPORTS: dict[str, Callable[[], Report]] = {
    "ibd": make_report,
    "healthy": lambda: make_report(reading="healthy", probability=0.04, revision=2, supersedes=1),
    "unpredicted": lambda: make_report(
        reading="unpredicted", unpredicted_reason="below_threshold", probability=None, frames_used=0,
        evidence=(make_panel(3, voted=False, cam=None),), completeness_verdict="incomplete", missing_count=3,
        body_part_stated=False, objects_unreadable=2,
    ),
    "filled": lambda: make_report(
        reading="unpredicted", unpredicted_reason="rests_on_filled", probability=None, frames_used=0,
        evidence=(
            make_panel(4, voted=False, gate="blanked", reason="rests_on_filled", synthetic_share=0.41),
            make_panel(5, voted=False, gate="plate", confidence=0.71, synthetic_share=0.0),
        ),
    ),
    "foreign": lambda: make_report(
        reading="unpredicted", unpredicted_reason="out_of_distribution", probability=None, frames_used=0,
        frames_foreign=15, evidence=(make_panel(6, voted=False, reason="out_of_distribution"),),
    ),
    "failed": lambda: make_report(
        reading="failed", probability=None, frames_kept=0, frames_used=0, evidence=(), body_part_stated=False
    ),
    "not_lower_gi": lambda: make_report(
        reading="unpredicted", unpredicted_reason="not_lower_gi", probability=None, frames_used=0, evidence=()
    ),
}  # fmt: skip


INSTALLATION_ID = "5d1f5e5e-0000-4000-8000-000000000001"


def make_exam(template: Dataset | None = None, *, exam_key: str = "key", timezone: str = "") -> Exam:
    """Return whose result it is, by a header of its own or the usual one."""
    return Exam(template or make_template(), INSTALLATION_ID, exam_key, timezone)


def encode(ds: Dataset, transfer_syntax_uid: str = "1.2.840.10008.1.2.1") -> bytes:
    """Return a dataset as a Part 10 file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def make_source(**changes: Any) -> Dataset:
    """Return an endoscopic image's dataset, without pixels."""
    qualifiers = Dataset()
    qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType = "1.2.40", "ISO"
    values: dict[str, Any] = {
        "SOPClassUID": VL_ENDOSCOPIC,
        "SOPInstanceUID": "1.2.3.4.5",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "StudyDate": "20260301",
        "StudyTime": "101112",
        "StudyID": "S7",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PatientName": "Made^Up",
        "PatientID": "P-1",
        "IssuerOfPatientID": "HOSPITAL",
        "IssuerOfPatientIDQualifiersSequence": [qualifiers],
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "Modality": "ES",
    }
    ds = Dataset()
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def make_template(transfer_syntax_uid: str = "1.2.840.10008.1.2.1", **changes: Any) -> Dataset:
    """Return the header as the node reads it: raw."""
    return dcmread(io.BytesIO(encode(make_source(**changes), transfer_syntax_uid)), stop_before_pixels=True)


NAMES = {
    "ISO_IR 100": "Müller^Jürgen".encode("latin-1"),
    "ISO_IR 192": "Wang^XiaoDong=王^小东".encode(),
    "GB18030": "Wang^XiaoDong=王^小东".encode("gb18030"),
    "GBK": "Wang^XiaoDong=王^小东".encode("gbk"),
    "ISO 2022 IR 13\\ISO 2022 IR 87": b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
    b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    "\\ISO 2022 IR 149": b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"
    b"=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    "\\ISO 2022 IR 87": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    b"=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    None: "Müller^Jürgen".encode("latin-1"),
}
"""PatientName as PS3.5 Annexes H, I and J write it, and as a processor without a character set does."""


def raw_template(name: bytes, character_set: str | None, transfer_syntax_uid: str) -> Dataset:
    """Return a header whose PatientName has exactly these bytes."""
    padded = name + b" " * (len(name) % 2)
    placeholder = "X" * len(padded)
    data = encode(
        make_source(SpecificCharacterSet=character_set, PatientName=placeholder), transfer_syntax_uid
    ).replace(placeholder.encode(), padded)
    return dcmread(io.BytesIO(data), stop_before_pixels=True)


@pytest.fixture(params=sorted(REPORTS))
def report(request: pytest.FixtureRequest) -> Report:
    """Return one report of each reading."""
    return REPORTS[request.param]()
