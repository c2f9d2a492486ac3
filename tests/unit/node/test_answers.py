"""What an exam is answered by: its objects by kind, what they replace, and the answer to a failed reading."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from sqlalchemy import select

from db.tables import AuditEventRow, DeliveryRow, ExamRow, JobRow, PredictionRow, ResultObjectRow
from models.package import load_package
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.failing import state_failure
from node.frames import FrameReader
from node.house import Node
from node.reading import read_exam
from node.records import fail_exam
from node.results import iod
from node.retry import retry_exam
from node.settings import Settings
from pipeline.clean.recipe import DEFAULT
from tests.unit.node.conftest import ClaimOf, Sender
from tests.unit.node.test_reading import STUDY, close, exam_of, keep, rows

MULTI_FRAME_SC, VIDEO = UID("1.2.840.10008.5.1.4.1.1.7.4"), UID("1.2.840.10008.5.1.4.1.1.77.1.1.1")
H264, EXPLICIT = UID("1.2.840.10008.1.2.4.102"), UID("1.2.840.10008.1.2.1")
ROWS, COLUMNS, RATE = 288, 352, 4


@pytest.fixture(scope="module")
def reader() -> Iterator[FrameReader]:
    """Return a reader with the package that ships."""
    reader = FrameReader(load_package(None), DEFAULT, Settings(worker_threads=2))
    yield reader
    reader.close()


def painted(number: int) -> Any:
    return paint_frame(number, ulcers=False, instrument=False, text=None, rows=ROWS, columns=COLUMNS)


def several_frames() -> bytes:
    """Return a multi-frame Secondary Capture of an endoscope's frames."""
    ds = wrap(painted(1), patient_id="P1", study_instance_uid=STUDY, instance_number=1)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MULTI_FRAME_SC
    ds.NumberOfFrames = 3
    ds.PixelData = b"".join(painted(number).tobytes() for number in (1, 2, 3))
    return saved(ds)


def video() -> bytes:
    """Return a Video Endoscopic Image of three seconds."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as output:
        track = output.add_stream("libx264", rate=RATE)
        track.width, track.height, track.pix_fmt, track.bit_rate = COLUMNS, ROWS, "yuv420p", 4_000_000
        for number in range(3 * RATE):
            frame = av.VideoFrame.from_ndarray(painted(1 + number // RATE), format="rgb24")
            output.mux(track.encode(frame.reformat(format="yuv420p")))
        output.mux(track.encode())
    ds = wrap(painted(1), patient_id="P1", study_instance_uid=STUDY, instance_number=1)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = VIDEO
    ds.file_meta.TransferSyntaxUID = H264
    ds.PhotometricInterpretation, ds.NumberOfFrames = "YBR_PARTIAL_420", 3 * RATE
    ds.LossyImageCompression = "01"
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].is_undefined_length = True
    return saved(ds)


def saved(ds: Any) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def objects(node: Node, exam: ExamRow) -> dict[str, Dataset]:
    """Return kind -> dataset of an exam revision's results."""
    found: dict[str, Dataset] = {}
    for row in rows(node, ResultObjectRow):
        if row.exam_id == exam.id:
            with node.files.open(row.sha256) as file:
                found[row.kind] = dcmread(io.BytesIO(file.read()))
    return found


def items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from items(item)


def frames_named(ds: Dataset) -> dict[str, Any]:
    """Return SOP Instance UID -> frames that a document's images name."""
    found = [item.ReferencedSOPSequence[0] for item in items(ds) if item.ValueType == "IMAGE"]
    return {each.ReferencedSOPInstanceUID: each.get("ReferencedFrameNumber") for each in found}


def codes(ds: Dataset) -> set[str]:
    return {item.ConceptCodeSequence[0].CodeValue for item in items(ds) if item.ValueType == "CODE"}


@pytest.mark.parametrize(
    ("content", "sop_class", "syntax", "possible"),
    [(several_frames, MULTI_FRAME_SC, EXPLICIT, {1, 2, 3}), (video, VIDEO, H264, {1, 5, 9})],
    ids=["multi-frame", "video"],
)
def test_all_kinds_name_the_same_frames_of_their_source(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf,
    content: Any, sop_class: str, syntax: str, possible: set[int],
) -> None:  # fmt: skip
    """Pages, report and selection are of one reading; of a video, the frames are counted as in the video."""
    data = content()
    uid = str(dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
    send(uid, content=data, sop_class_uid=sop_class, transfer_syntax_uid=syntax)
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    made = objects(node, exam_of(node, claim))
    assert made.keys() == {"sc", "sr", "ko"}
    named = {
        item.ReferencedSOPInstanceUID: item.ReferencedFrameNumber for item in made["sc"].SourceImageSequence
    }
    assert frames_named(made["sr"]) == frames_named(made["ko"]) == named
    assert set(np.atleast_1d(named[uid])) <= possible
    assert len({ds.SeriesInstanceUID for ds in made.values()}) == 3
    assert {(str(ds.PatientName), ds.PatientID, ds.StudyInstanceUID) for ds in made.values()} == {
        ("DEMO^PAINTED", "P1", STUDY)
    }


def test_a_later_revision_names_and_rejects_what_it_replaces(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """The report says it by its predecessor; to a peer that asks for it, a note rejects the whole set."""
    keep(send, 1)
    first = close(node, claim_of)
    read_exam(node, reader, first)
    with node.database.writing() as session:
        session.scalars(select(DeliveryRow)).one().state = "delivered"
    keep(send, 2)
    second = close(node, claim_of)
    read_exam(node, reader, second)
    replaced, made = (objects(node, exam_of(node, claim)) for claim in (first, second))
    assert replaced.keys() == {"sc", "sr", "ko"}
    assert made.keys() == {"sc", "sr", "ko", "rn"}
    (study,) = made["sr"].PredecessorDocumentsSequence
    (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == replaced["sr"].SOPInstanceUID
    rejected = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in items(made["rn"])
        if item.ValueType in ("IMAGE", "COMPOSITE")
    }
    assert rejected == {ds.SOPInstanceUID for ds in replaced.values()}


def test_what_never_left_is_neither_named_nor_rejected(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """The PACS would look for objects that it was never sent."""
    keep(send, 1)
    read_exam(node, reader, close(node, claim_of))
    keep(send, 2)
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    made = objects(node, exam_of(node, claim))
    assert made.keys() == {"sc", "sr", "ko"}
    assert "PredecessorDocumentsSequence" not in made["sr"]


def test_an_abstention_without_frames_has_no_key_objects(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """A selection may not be empty; the report says why there is none."""
    keep(send, 1, BodyPartExamined="STOMACH")
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    made = objects(node, exam_of(node, claim))
    assert made.keys() == {"sc", "sr"}
    assert {"373068000", "NOT-LOWER-GI", "423827005"} <= codes(made["sr"])


def test_an_object_that_its_iod_forbids_never_leaves(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error at its step, no row, no delivery; mended, the exam is read again."""
    keep(send, 1)
    claim = close(node, claim_of)
    demanded = iod.required_attributes()
    more = {"1.2.840.10008.5.1.4.1.1.88.34": {(): {"InstitutionName": "1"}}}
    with monkeypatch.context() as patch:
        patch.setattr(iod, "required_attributes", lambda: demanded | more)
        read_exam(node, reader, claim)
    exam = exam_of(node, claim)
    assert (exam.state, exam.error_step) == ("failed", "report")
    assert exam.error_text is not None
    assert exam.error_text.startswith("Comprehensive 3D SR Storage: InstitutionName (Type 1) is missing")
    assert [rows(node, table) for table in (ResultObjectRow, DeliveryRow, PredictionRow)] == [[], [], []]
    (job,) = [job for job in rows(node, JobRow) if job.kind == "read"]
    assert (job.state, job.last_error) == ("buried", exam.error_text)
    assert retry_exam(node, exam.id) == "report"
    read_exam(node, reader, claim_of("read"))
    assert exam_of(node, claim).state == "read"


def fail(node: Node, claim_of: ClaimOf) -> ExamRow:
    """Let the newest exam's reading fail for good, as the worker does."""
    exam = exam_of(node, close(node, claim_of))
    with node.database.writing() as session:
        fail_exam(session, exam.id, "read", "DecodeError: no")
        node.jobs.enqueue(session, "state_failure", exam.id)
    return exam


def test_a_failed_reading_is_answered_and_stays_failed(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """Whoever waits for a result learns that there is none, and does not take it for an abstention."""
    keep(send, 1)
    fail(node, claim_of)
    state_failure(node, reader, claim_of("state_failure"))
    (exam,) = rows(node, ExamRow)
    assert (exam.state, exam.error_step) == ("failed", "read")
    made = objects(node, exam)
    assert made.keys() == {"sc", "sr"}
    assert {"111224", "READING"} <= codes(made["sr"])
    assert not {"24526004", "373068000"} & codes(made["sr"])
    assert made["sc"].get("NumberOfFrames") == 1
    assert [row.state for row in rows(node, DeliveryRow)] == ["pending"]
    assert rows(node, PredictionRow) == []
    assert "failure_stated" in {row.event for row in rows(node, AuditEventRow)}


def test_a_failed_reading_taken_up_again_is_the_next_revision(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """What was said of the failure may have arrived: the reading that follows replaces it by name."""
    keep(send, 1)
    failed = fail(node, claim_of)
    state_failure(node, reader, claim_of("state_failure"))
    with node.database.writing() as session:
        session.scalars(select(DeliveryRow)).one().state = "delivered"
    assert retry_exam(node, failed.id) == "read"
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    exam = exam_of(node, claim)
    assert (exam.revision, exam.state) == (2, "read")
    made, stated = objects(node, exam), objects(node, failed)
    (study,) = made["sr"].PredecessorDocumentsSequence
    (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == stated["sr"].SOPInstanceUID
    assert "111224" not in codes(made["sr"])


def test_a_failure_that_is_no_more_is_not_stated(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """Taken up again before anybody was told, it is as if it had never been."""
    keep(send, 1)
    exam = fail(node, claim_of)
    assert retry_exam(node, exam.id) == "read"
    state_failure(node, reader, claim_of("state_failure"))
    assert rows(node, ResultObjectRow) == []
    assert {job.state for job in rows(node, JobRow) if job.kind == "state_failure"} == {"done"}
