"""An exam from its stored objects to its result, by the real decoder, cleaner and network; frames painted."""

import io
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    DeliveryRow,
    EvidenceRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    JobRow,
    PredictionRow,
    ResultObjectRow,
)
from models.package import REFERENCE, load_package
from models.patient import FOREIGN, FramePrediction
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.frames import FrameReader, FrameReading, StoredImage
from node.house import Node
from node.listing import list_exams
from node.quarantine import move_study
from node.reading import choose_shown, decide, read_exam
from node.results.page import draw_pages
from node.results.report import Report
from node.settings import Settings
from pipeline.clean.near_duplicates import fingerprint
from pipeline.clean.recipe import DEFAULT
from pipeline.clean.text import Quad
from pipeline.frame import FrameSource, Pixels
from tests.foreign_colours import tell_foreign
from tests.unit.node.conftest import ClaimOf, Sender

STUDY = "1.2.3"
FILLED = "rests_on_filled"


@pytest.fixture(scope="module")
def reader() -> Iterator[FrameReader]:
    """Return a reader with the package that ships."""
    reader = FrameReader(load_package(None), DEFAULT, Settings(worker_threads=2))
    yield reader
    reader.close()


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Return the reports whose pages are drawn, in order."""
    drawn: list[Report] = []

    def draw(report: Report) -> list[Pixels]:
        drawn.append(report)
        return draw_pages(report)

    monkeypatch.setattr("node.results.secondary_capture.draw_pages", draw)
    return drawn


def image(number: int, *, is_damaged: bool = False, **changes: Any) -> tuple[str, bytes]:
    """Return UID and bytes of a small painted frame's object; a header value of None is left out."""
    frame = paint_frame(number, ulcers=False, instrument=False, text=None, rows=288, columns=360)
    ds = wrap(frame, patient_id="P1", study_instance_uid=STUDY, instance_number=number, jpeg_quality=90)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
        if value is None:
            delattr(ds, keyword)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    if is_damaged:
        at = data.index(b"\xff\xd8\xff") + 3
        data = data[:at] + bytes(len(data) - at)
    return str(ds.SOPInstanceUID), data


def keep(send: Sender, number: int, *, is_damaged: bool = False, **changes: Any) -> InstanceRow:
    """Admit a painted frame's object."""
    uid, data = image(number, is_damaged=is_damaged, **changes)
    return send(uid, content=data, transfer_syntax_uid="1.2.840.10008.1.2.4.50")


def close(node: Node, claim_of: ClaimOf) -> Claim:
    """Close the newest revision; return the claim of its reading."""
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow).where(ExamRow.superseded_by.is_(None))).one()
        exam.state, exam.completeness_verdict = "closed", "unknown"
        node.jobs.enqueue(session, "read", exam.id)
    return claim_of("read")


def rows(node: Node, table: type[Any]) -> list[Any]:
    """Return a table's rows."""
    with node.database.reading() as session:
        return list(session.scalars(select(table)))


def exam_of(node: Node, claim: Claim) -> ExamRow:
    """Return a claim's exam."""
    with node.database.reading() as session:
        return session.get_one(ExamRow, claim.subject_id)


def result(node: Node, kind: str = "sc") -> Dataset:
    """Return the newest Secondary Capture, or result of another kind."""
    newest = [row for row in rows(node, ResultObjectRow) if row.kind == kind][-1]
    with node.files.open(newest.sha256) as file:
        return dcmread(io.BytesIO(file.read()))


def test_one_damaged_image_costs_only_itself(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, reports: list[Report]
) -> None:
    """The other frames are read, and whoever looks at the result is told that one was not."""
    damaged = keep(send, 1, is_damaged=True)
    keep(send, 2)
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    frames = {row.instance_id: row for row in rows(node, FrameRow)}
    assert len(frames) == 2
    assert frames[damaged.id].reason == "undecodable"
    assert [row.reason for key, row in frames.items() if key != damaged.id] != ["undecodable"]
    exam = exam_of(node, claim)
    assert (exam.state, exam.error_text, exam.body_part_stated) == ("read", None, True)
    (report,) = reports
    assert (report.objects_unreadable, report.frames_received) == (1, 2)
    (job,) = [job for job in rows(node, JobRow) if job.kind == "deliver"]
    assert job.state == "queued"


def test_frames_read_the_same_in_any_order(reader: FrameReader, tmp_path: Path) -> None:
    """What is learned of an exam comes from fixed frames of it, not from those that happen to come first."""
    images = []
    for number in range(1, 20):
        text = "12/03/2013" if number < 12 else "14:22:07"
        frame = paint_frame(number, ulcers=False, instrument=False, text=text, rows=288, columns=360)
        ds = wrap(frame, patient_id="P1", study_instance_uid=STUDY, instance_number=number)
        path = tmp_path / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        images.append(StoredImage(number, str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID), path))
    there, back = reader.read(images), reader.read(images[::-1])[::-1]
    for first, second in zip(there, back, strict=True):
        assert first.prediction == second.prediction
        assert [entry.mask_area for entry in first.ledger] == [entry.mask_area for entry in second.ledger]


def read_frame(
    number: int, probability: float, *, reason: str | None = None, scene: int | None = None
) -> FrameReading:
    """Return a frame of a scene, by default one of its own, as it was read, with no activations."""
    label = "ibd" if probability >= 0.5 else "healthy"
    source = FrameSource("1.2", number)
    prediction = FramePrediction(source, label, probability, max(probability, 1 - probability), reason)
    generator = np.random.default_rng(number if scene is None else scene)
    view = np.repeat(np.repeat(generator.integers(0, 255, (8, 8, 3), np.uint8), 8, axis=0), 8, axis=1)
    return FrameReading(1, number, reason=reason, prediction=prediction, fingerprint=fingerprint(view))


@pytest.mark.parametrize(
    ("frames", "reading", "reason"),
    [
        ([(0.99, FILLED), (0.05, None)], "healthy", None),
        ([(0.99, FILLED), (0.60, None)], "unpredicted", FILLED),
        ([(0.99, FILLED)], "unpredicted", FILLED),
        ([(0.60, FILLED)], "unpredicted", "below_threshold"),
        ([(0.60, None)], "unpredicted", "below_threshold"),
        ([(0.99, FOREIGN), (0.05, None)], "healthy", None),
        ([(0.60, FOREIGN)], "unpredicted", FOREIGN),
        ([(0.99, FOREIGN), (0.60, None)], "unpredicted", FOREIGN),
        ([(0.60, FOREIGN), (0.60, None)], "unpredicted", "below_threshold"),
        ([(0.99, FILLED), (0.98, FOREIGN)], "unpredicted", FOREIGN),
        ([], "unpredicted", "no_frames"),
    ],
)
def test_a_frame_that_is_painted_in_or_foreign_does_not_vote(
    reader: FrameReader, frames: list[tuple[float, str | None]], reading: str, reason: str | None
) -> None:
    """Such a frame may not decide; that it would have is said, and it is still shown."""
    read = [
        read_frame(number, probability, reason=why)
        for number, (probability, why) in enumerate(frames, start=1)
    ]
    patient = decide(read, reader.package)
    assert (patient.reading, patient.reason) == (reading, reason)
    shown = choose_shown(read, patient, 6)
    if reading == "unpredicted":
        assert [(frame.frame_number, voted) for frame, voted in shown] == [
            (number, False) for number in range(1, len(read) + 1)
        ]
    else:
        assert [(frame.frame_number, voted) for frame, voted in shown] == [(2, True)]


def test_an_exam_of_foreign_frames_is_unpredicted_and_says_so_wherever_it_is_told(
    node: Node, send: Sender, claim_of: ClaimOf, reports: list[Report], tmp_path: Path
) -> None:
    """With every colour as rare as none learnt from, no frame may vote, however confident."""
    shutil.copytree(REFERENCE, tmp_path / "package")
    folder = tell_foreign(tmp_path / "package", np.ones(4096, np.float16), threshold=0.5)
    reader = FrameReader(load_package(folder), DEFAULT, Settings(worker_threads=1))
    keep(send, 1)
    read_exam(node, reader, close(node, claim_of))
    reader.close()
    (frame,), (prediction,) = rows(node, FrameRow), rows(node, PredictionRow)
    assert (frame.kept, frame.reason, frame.probability is None) == (True, FOREIGN, False)
    assert (prediction.reading, prediction.unpredicted_reason) == ("unpredicted", FOREIGN)
    assert (reports[0].unpredicted_reason, reports[0].frames_foreign) == (FOREIGN, 1)
    (exam,) = list_exams(node)
    assert exam["counts"]["out_of_distribution"] == 1
    assert (exam["unpredicted_reason"], exam["evidence"][0]["reason"]) == (FOREIGN, FOREIGN)


def test_near_duplicates_vote_once(reader: FrameReader) -> None:
    """An endoscope that rests on one fold would outvote the rest of the colon."""
    resting = [read_frame(number, 0.97, scene=1) for number in range(1, 5)]
    others = [read_frame(number, 0.04) for number in (5, 6)]
    patient = decide([*resting, *others], reader.package)
    assert patient.reading == "healthy"
    assert len(patient.used) == 3
    moving = [read_frame(number, 0.97) for number in range(1, 5)]
    assert decide([*moving, *others], reader.package).reading == "ibd"


def test_the_share_on_filled_pixels_is_stored_and_keeps_a_frame_from_voting(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit below nothing every frame is above it."""
    monkeypatch.setattr("node.frames.MOST_SYNTHETIC", -0.1)
    keep(send, 1)
    read_exam(node, reader, close(node, claim_of))
    (frame,) = rows(node, FrameRow)
    assert (frame.kept, frame.reason, frame.synthetic_share) == (True, "rests_on_filled", 0.0)
    (prediction,) = rows(node, PredictionRow)
    assert (prediction.reading, prediction.frames_used) == ("unpredicted", 0)
    assert [row.voted for row in rows(node, EvidenceRow)] == [False]


@pytest.mark.parametrize(
    ("finds", "said"),
    [(0, ("clean", "NO")), (1, ("plate", "YES"))],
    ids=["nothing", "another line each time"],
)
def test_a_gate_that_does_not_open_costs_the_picture_and_not_the_evidence(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, reports: list[Report],
    monkeypatch: pytest.MonkeyPatch, finds: int, said: tuple[str, str],
) -> None:  # fmt: skip
    """The result still leaves, with the same frames in the same order, and each one's verdict is kept."""
    looks = itertools.count()

    def detector(pixels: Pixels) -> list[Quad]:
        top = 37 * next(looks) % (pixels.shape[0] - 12)
        return [np.array([(60, top), (160, top), (160, top + 12), (60, top + 12)], np.float32)] * finds

    monkeypatch.setattr(reader, "_detector", detector)
    monkeypatch.setattr(reader, "package", replace(reader.package, threshold=0.5))  # all three vote
    for number in (1, 2, 3):
        keep(send, number)
    read_exam(node, reader, close(node, claim_of))
    shown = rows(node, EvidenceRow)
    assert [row.gate for row in shown] == [said[0]] * len(shown)
    frames = {row.id: row.confidence for row in rows(node, FrameRow) if row.kept}
    assert [frames[row.frame_id] for row in shown] == sorted(frames.values(), reverse=True)
    (report,) = reports
    assert len(report.evidence) == len(shown) == 3
    ds = result(node)
    assert (ds.BurnedInAnnotation, ds.NumberOfFrames) == (said[1], 4)
    (job,) = [job for job in rows(node, JobRow) if job.kind == "deliver"]
    assert job.state == "queued"


def test_an_image_that_rotted_on_disk_costs_only_itself(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, reports: list[Report]
) -> None:
    """It was whole when it was received; now not even its header says whose it is. The next one's does."""
    path = node.files.path(keep(send, 1).sha256)
    keep(send, 2)
    path.chmod(0o600)
    path.write_bytes(b"no DICOM any more")
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    assert [report.objects_unreadable for report in reports] == [1]
    assert (exam_of(node, claim).state, result(node).PatientID) == ("read", "P1")


def test_an_exam_that_states_no_body_part_is_read_and_says_so(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, reports: list[Report]
) -> None:
    """Most processors state none: silence is no reason not to read, but one to say it."""
    keep(send, 1, BodyPartExamined=None)
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    assert len(rows(node, FrameRow)) == 1
    assert exam_of(node, claim).body_part_stated is False
    assert [report.body_part_stated for report in reports] == [False]


def test_what_is_not_lower_gi_is_answered_unread(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """The model was never shown a stomach: it is not run, and the result says why."""
    keep(send, 1, BodyPartExamined="STOMACH")
    claim = close(node, claim_of)
    read_exam(node, reader, claim)
    (prediction,) = rows(node, PredictionRow)
    assert (prediction.reading, prediction.unpredicted_reason) == ("unpredicted", "not_lower_gi")
    assert rows(node, FrameRow) == []
    assert "BodyPartExamined" not in result(node)


@pytest.mark.parametrize("purged", [1, 2])
def test_an_exam_whose_images_are_gone_says_so(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf, purged: int
) -> None:
    """Read from what is left, a late image alone would pass for the exam; and all may be gone."""
    gone = [keep(send, number) for number in (1, 2)][:purged]
    with node.database.writing() as session:
        for row in gone:
            session.get_one(InstanceRow, row.id).purged_at = utc_now()
            node.files.purge(row.sha256)
    read_exam(node, reader, close(node, claim_of))
    (prediction,) = rows(node, PredictionRow)
    assert (prediction.reading, prediction.unpredicted_reason) == ("unpredicted", "images_purged")
    ds = result(node)
    assert (ds.PatientID, ds.StudyInstanceUID) == ("P1", STUDY)
    assert len(ds.SourceImageSequence) == 2


def test_an_exam_that_holds_no_image_any_more_says_so(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """Its only image was set aside: the result that the PACS holds is replaced by one that says so."""
    row = keep(send, 1)
    with node.database.writing() as session:
        session.get_one(InstanceRow, row.id).disposition = "quarantined"
    read_exam(node, reader, close(node, claim_of))
    (prediction,) = rows(node, PredictionRow)
    assert (prediction.reading, prediction.unpredicted_reason) == ("unpredicted", "no_images")
    assert result(node).StudyInstanceUID == STUDY


def test_a_moved_studys_result_names_the_right_patient_alone(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """Its sources still name the wrong one: copied, the result would go into that one's record."""
    keep(send, 1, PatientBirthDate="19700101")
    move_study(node, STUDY, "RIGHT")
    read_exam(node, reader, close(node, claim_of))
    ds = result(node)
    assert (ds.PatientID, ds.PatientName, ds.PatientBirthDate) == ("RIGHT", "", "")
    for row in rows(node, ResultObjectRow):
        with node.files.open(row.sha256) as file:
            assert b"DEMO^PAINTED" not in file.read()


def test_a_revision_that_is_read_too_late_is_not_sent(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """A late image came before its turn: its result would arrive beside, or after, the one that counts."""
    keep(send, 1)
    claim = close(node, claim_of)
    keep(send, 2)
    read_exam(node, reader, claim)
    exam = exam_of(node, claim)
    assert (exam.revision, exam.state, exam.superseded_by is None) == (1, "read", False)
    assert [row.state for row in rows(node, DeliveryRow)] == ["withdrawn"]
    assert [job for job in rows(node, JobRow) if job.kind == "deliver"] == []
    assert {row.exam_id for row in rows(node, ResultObjectRow)} == {exam.id}


def test_a_second_claim_on_a_read_exam_only_ends_its_job(
    node: Node, reader: FrameReader, send: Sender, claim_of: ClaimOf
) -> None:
    """Two results of one revision would each be right, and together wrong."""
    keep(send, 1)
    read_exam(node, reader, close(node, claim_of))
    before = [len(rows(node, table)) for table in (PredictionRow, ResultObjectRow, DeliveryRow)]
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        node.jobs.enqueue(session, "read", exam.id)
    again = claim_of("read")
    read_exam(node, reader, again)
    assert [len(rows(node, table)) for table in (PredictionRow, ResultObjectRow, DeliveryRow)] == before
    with node.database.reading() as session:
        assert session.get_one(JobRow, again.job_id).state == "done"
