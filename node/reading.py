"""One exam revision is read: frames, patient, evidence, results, all in one transaction at the end."""

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import ExamRow, InstanceRow, OrderRow, PatientRow
from models.package import Package
from models.patient import PatientPrediction, read_patient, vote_once
from node.errors import InvalidResultError
from node.exams import instances_of
from node.frames import FrameReader, FrameReading, StoredImage
from node.house import Node
from node.lower_gi import STATED_IN, judge
from node.pictures import keep_panels
from node.records import fail_exam, superseded_results, write_frames, write_prediction, write_results
from node.reporting import Material, Outcome, make_panels, make_results
from node.workitems import follow
from pipeline.clean.near_duplicates import duplicate_groups
from pipeline.errors import DecodeError
from pipeline.instance import read_header


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each step, as the database keeps them."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside as one step."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def read_exam(node: Node, reader: FrameReader, claim: Claim) -> None:
    """Read the exam revision named by the claim and store everything that follows from it."""
    material = _begin(node, claim)
    if material is None:
        return
    watch = Stopwatch()
    with watch.step("read"):
        outcome = read_instances(node, reader, material.instances)
    _give_back_memory()
    with watch.step("report"):
        now = utc_now()
        panels = make_panels(node, reader, material, outcome)
        keep_panels(node, material.exam.id, panels)
        try:
            objects = make_results(node, reader, material, outcome, panels=panels, now=now)
        except InvalidResultError as error:  # it would be no better the next time
            with node.database.writing() as session:
                fail_exam(session, claim.subject_id, "report", str(error))
                follow(session, node, session.get_one(ExamRow, claim.subject_id))
                node.jobs.bury(session, claim, str(error))
            return
        stored = {encoded.sop_instance_uid: node.files.keep_bytes(encoded.data) for encoded in objects}
    with node.database.writing() as session:
        node.database.lock_study(session, material.exam.study_instance_uid)
        exam = session.get_one(ExamRow, material.exam.id)
        rows = write_frames(session, exam, outcome.frames)
        write_prediction(
            session,
            exam,
            reader.package,
            outcome.patient,
            recipe_digest=reader.recipe_digest,
            frames=outcome.frames,
            shown=[
                (rows[frame.instance_id, frame.frame_number], panel)
                for (frame, _), panel in zip(outcome.shown, panels, strict=True)
            ],
            now=now,
        )
        exam.state = "read"
        exam.body_part_stated = outcome.is_lower_gi is not None
        exam.step_seconds = {**exam.step_seconds, **watch.seconds}
        record(session, "exam_read", exam.id, reading=outcome.patient.reading, reason=outcome.patient.reason)
        write_results(session, node, exam, stored, objects, now)
        follow(session, node, exam)
        node.jobs.finish(session, claim)


def _give_back_memory() -> None:
    """Let the C library return what reading has freed before the result is drawn: 590 MB at most, not 611."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's alone
        trim(0)


def _begin(node: Node, claim: Claim) -> Material | None:
    """Mark the exam as being read; a second claim on one already read only ends its job."""
    with node.database.writing() as session:
        exam = session.get_one(ExamRow, claim.subject_id)
        if exam.state not in ("closed", "reading"):
            node.jobs.finish(session, claim)
            return None
        # They were moved to the exam that replaces it.
        if exam.superseded_by is not None and not instances_of(session, exam):
            node.jobs.finish(session, claim)
            return None
        if exam.state == "closed":
            exam.state = "reading"
            record(session, "exam_reading", exam.id)
            follow(session, node, exam)
        return gather(session, exam)


def gather(session: Session, exam: ExamRow) -> Material:
    """Return what an exam is read from, or answered by, for use after the transaction: rows apart from it."""
    patient = session.get(PatientRow, exam.patient_row_id) if exam.patient_row_id else None
    instances = instances_of(session, exam)
    material = Material(
        exam=exam,
        instances=instances,
        named_in=instances or _set_aside(session, exam),
        patient_id=patient.patient_id if patient else "",
        supersedes=session.scalar(select(func.max(ExamRow.revision)).where(ExamRow.superseded_by == exam.id)),
        superseded=superseded_results(session, exam.id),
        order=session.get(OrderRow, exam.id),
    )
    session.flush()
    session.expunge_all()
    return material


def _set_aside(session: Session, exam: ExamRow) -> list[InstanceRow]:
    """Return what an exam without images was once read from: it names whose result is replaced."""
    rows = select(InstanceRow).where(
        InstanceRow.study_instance_uid == exam.study_instance_uid,
        InstanceRow.purged_at.is_(None),
        InstanceRow.disposition != "own",
    )
    return list(session.scalars(rows.order_by(InstanceRow.exam_key != exam.exam_key, InstanceRow.id)))


def read_instances(node: Node, reader: FrameReader, instances: Sequence[InstanceRow]) -> Outcome:
    """Read the frames and the patient; the model is not run on what is not all there, or not lower GI."""
    if not instances:
        return Outcome(_unpredicted("no_images"), frames=[], shown=[], is_lower_gi=None)
    if any(row.purged_at is not None for row in instances):
        return Outcome(_unpredicted("images_purged"), frames=[], shown=[], is_lower_gi=None)
    paths = [node.files.path(row.sha256) for row in instances]
    is_lower_gi = judge(map(_stated, paths), node.settings.lower_gi)
    if is_lower_gi is False:
        return Outcome(_unpredicted("not_lower_gi"), frames=[], shown=[], is_lower_gi=False)
    images = [
        StoredImage(row.id, row.sop_instance_uid, row.transfer_syntax_uid, path)
        for row, path in zip(instances, paths, strict=True)
    ]
    frames = reader.read(images)
    patient = decide(frames, reader.package)
    return Outcome(patient, frames, choose_shown(frames, patient, reader.package.top_k), is_lower_gi)


def decide(frames: Sequence[FrameReading], package: Package) -> PatientPrediction:
    """Read the patient from the frames; near-duplicates are one scene, which votes once."""
    read = [frame for frame in frames if frame.prediction is not None and frame.fingerprint is not None]
    groups = duplicate_groups([frame.fingerprint for frame in read if frame.fingerprint is not None])
    return read_patient(
        vote_once([frame.prediction for frame in read if frame.prediction is not None], groups),
        threshold=package.threshold,
        top_k=package.top_k,
        vote_mode=package.vote_mode,
    )


def _stated(path: Path) -> Dataset:
    """Return where an image may say what was examined; one that cannot be read says nothing."""
    try:
        return read_header(path, STATED_IN)
    except DecodeError:
        return Dataset()


def _unpredicted(reason: str) -> PatientPrediction:
    return PatientPrediction(reading="unpredicted", reason=reason, probability=None, used=())


def choose_shown(
    frames: Sequence[FrameReading], patient: PatientPrediction, top_k: int
) -> list[tuple[FrameReading, bool]]:
    """Return what is shown: the frames that voted; where none did, the most confident, marked as such."""
    by_source = {frame.prediction.source: frame for frame in frames if frame.prediction is not None}
    if patient.used:
        return [(by_source[used.source], True) for used in patient.used]
    ranked = sorted(
        (frame.prediction for frame in by_source.values() if frame.prediction is not None),
        key=lambda prediction: (-prediction.confidence, prediction.source),
    )
    return [(by_source[prediction.source], False) for prediction in ranked[:top_k]]
