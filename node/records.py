"""Values become rows: the one place where a reading is written down."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.audit import record
from db.tables import (
    DeliveryRow,
    EvidenceRow,
    ExamRow,
    FrameRow,
    ModelPackageRow,
    PredictionRow,
    ResultObjectRow,
)
from db.tables.exams import FAILED, HEALTHY, IBD, UNPREDICTED
from db.tallies import tally
from models.package import Package
from models.patient import PatientPrediction
from node.catalogue import has_left
from node.files import StoredFile
from node.frames import FrameReading
from node.house import Node
from node.results.report import EncodedObject, EvidencePanel
from pipeline.clean.near_duplicates import duplicate_groups

PRIORITIES = {"ibd": IBD, "unpredicted": UNPREDICTED, "healthy": HEALTHY}
"""Which exams a person should look at first, by their reading."""


def register_package(session: Session, package: Package, now: dt.datetime) -> None:
    """Note a model package the first time it reads."""
    if session.get(ModelPackageRow, package.digest) is None:
        said = {name: getattr(package, name) for name in ("digest", "name", "version")}
        session.add(ModelPackageRow(**said, manifest=dict(package.manifest), registered_at=now))
        session.flush()


def write_frames(
    session: Session, exam: ExamRow, frames: Sequence[FrameReading]
) -> dict[tuple[int, int], int]:
    """Write one row a frame; return the row id of each (instance id, frame number)."""
    session.execute(delete(FrameRow).where(FrameRow.exam_id == exam.id))
    rows = frame_rows(exam.id, frames)
    session.add_all(rows)
    session.flush()
    return {(row.instance_id, row.frame_number): row.id for row in rows}


def frame_rows(exam_id: str, frames: Sequence[FrameReading]) -> list[FrameRow]:
    """Return one new row a frame, of no session yet."""
    seen = [frame.fingerprint for frame in frames if frame.fingerprint is not None]
    groups = iter(duplicate_groups(seen))
    return [
        FrameRow(
            exam_id=exam_id,
            instance_id=frame.instance_id,
            frame_number=frame.frame_number,
            kept=frame.prediction is not None,
            reason=frame.reason,
            error_text=frame.error_text,
            ledger=[entry_as_json(entry) for entry in frame.ledger],
            label=frame.prediction.label if frame.prediction else None,
            probability=frame.prediction.probability if frame.prediction else None,
            confidence=frame.prediction.confidence if frame.prediction else None,
            synthetic_share=frame.synthetic_share,
            duplicate_group=None if frame.fingerprint is None else next(groups),
        )
        for frame in frames
    ]


def entry_as_json(entry: object) -> dict[str, object]:
    """Return a ledger entry as the database keeps it; milliseconds to the microsecond."""
    return {
        name: round(value, 3) if isinstance(value := getattr(entry, name), float) else value
        for name in ("step", "decision", "reason", "mask_area", "pixels_changed", "milliseconds")
    }


def write_prediction(
    session: Session,
    exam: ExamRow,
    package: Package,
    patient: PatientPrediction,
    *,
    recipe_digest: str,
    frames: Sequence[FrameReading],
    shown: Sequence[tuple[int, EvidencePanel]],
    now: dt.datetime,
) -> None:
    """Write the reading and its evidence; `shown` holds each frame's row id and panel, in order.

    With it go the exam's priority and the tally that the reading counts in.
    """
    register_package(session, package, now)
    exam.priority = PRIORITIES[patient.reading]
    kept = sum(frame.prediction is not None for frame in frames)
    probability = patient.probability
    prediction = PredictionRow(
        exam_id=exam.id,
        patient_row_id=exam.patient_row_id,
        peer_ae_title=exam.peer_ae_title,
        device_model=exam.device_model,
        model_digest=package.digest,
        recipe_digest=recipe_digest,
        reading=patient.reading,
        unpredicted_reason=patient.reason,
        probability=probability,
        confidence=None if probability is None else max(probability, 1 - probability),
        threshold=package.threshold,
        top_k=package.top_k,
        vote_mode=package.vote_mode,
        frames_kept=kept,
        frames_rejected=len(frames) - kept,
        frames_used=len(patient.used),
        created_at=now,
    )
    session.add(prediction)
    session.flush()
    tally(session, prediction)
    session.add_all(
        EvidenceRow(
            prediction_id=prediction.id,
            frame_id=frame_id,
            position=position,
            voted=panel.voted,
            gate=panel.gate,
        )
        for position, (frame_id, panel) in enumerate(shown, start=1)
    )


def write_results(
    session: Session, node: Node, exam: ExamRow, stored: Mapping[str, StoredFile],
    objects: Sequence[EncodedObject], now: dt.datetime,
) -> None:  # fmt: skip
    """Write the encoded objects and, to each peer that takes results, a delivery with its job.

    A revision that was superseded while it was read keeps its results; they are never sent.
    """
    session.add_all(
        result_row(exam.id, encoded, stored[encoded.sop_instance_uid], now) for encoded in objects
    )
    for peer in node.settings.peers:
        if peer.receives_results:
            start_delivery(session, node, exam, peer.ae_title, now)


def result_row(exam_id: str, encoded: EncodedObject, stored: StoredFile, now: dt.datetime) -> ResultObjectRow:
    """Return the row of an encoded object whose bytes are durable."""
    names = ("kind", "form", "item", "sop_instance_uid", "sop_class_uid", "series_instance_uid")
    said = {name: getattr(encoded, name) for name in names}
    return ResultObjectRow(exam_id=exam_id, **said, **asdict(stored), created_at=now)


def superseded_results(session: Session, exam_id: str) -> list[ResultObjectRow]:
    """Return the results of all revisions that an exam stands in for, but for those that never left."""
    earlier, found = [exam_id], list[str]()
    while earlier:
        earlier = list(session.scalars(select(ExamRow.id).where(ExamRow.superseded_by.in_(earlier))))
        found += earlier
    rows = select(ResultObjectRow).where(ResultObjectRow.exam_id.in_(found), ResultObjectRow.kind != "rn")
    return list(session.scalars(rows.where(has_left()).order_by(ResultObjectRow.id)))


def start_delivery(session: Session, node: Node, exam: ExamRow, ae_title: str, now: dt.datetime) -> None:
    """Put an exam's results on their way to one peer, unless a later revision has taken their place."""
    delivery = DeliveryRow(
        exam_id=exam.id,
        peer_ae_title=ae_title,
        state="pending" if exam.superseded_by is None else "withdrawn",
        deadline_at=now + dt.timedelta(seconds=node.settings.delivery_deadline_s),
    )
    session.add(delivery)
    session.flush()
    if delivery.state == "pending":
        node.jobs.enqueue(session, "deliver", str(delivery.id))


def fail_exam(session: Session, exam_id: str, step: str, error_text: str) -> None:
    """Mark an exam failed at a step; `retry` takes it up there."""
    exam = session.get_one(ExamRow, exam_id)
    exam.state, exam.error_step, exam.error_text = "failed", step, error_text
    exam.priority = FAILED
    record(session, "exam_failed", exam_id, step=step)


def reading_of(session: Session, exam_id: str) -> PredictionRow | None:
    """Return the exam's prediction, if it has been read."""
    return session.scalars(select(PredictionRow).where(PredictionRow.exam_id == exam_id)).first()
