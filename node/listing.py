"""Exams as a person or a program asks for them: one object an exam revision."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.tables import (
    DeliveryRow,
    EvidenceRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    ModelPackageRow,
    PatientRow,
    PredictionRow,
    ResultObjectRow,
)
from node.house import Node

EXAMS_AT_ONCE = 500
"""Exams whose details are fetched by one query each; keeps SQLite's bound variables within its limit."""


def list_exams(node: Node) -> list[dict[str, Any]]:
    """Return every exam revision, oldest first, with counts, completeness, reading, evidence and delivery."""
    with node.database.reading() as session:
        exams = session.execute(
            select(ExamRow, PatientRow)
            .outerjoin(PatientRow, ExamRow.patient_row_id == PatientRow.id)
            .order_by(ExamRow.opened_at, ExamRow.revision)
        ).all()
        listed = []
        for start in range(0, len(exams), EXAMS_AT_ONCE):
            part = [(exam, patient) for exam, patient in exams[start : start + EXAMS_AT_ONCE]]
            listed += _describe(session, part)
        return listed


def _describe(session: Session, exams: Sequence[tuple[ExamRow, PatientRow | None]]) -> list[dict[str, Any]]:
    ids = [exam.id for exam, _ in exams]
    frames = _frame_counts(session, ids)
    predictions = _predictions(session, ids)
    evidence = _evidence(session, ids)
    unreadable = _unreadable(session, ids)
    results = _group(
        session.execute(
            select(ResultObjectRow.exam_id, ResultObjectRow.sop_instance_uid, ResultObjectRow.form)
            .where(ResultObjectRow.exam_id.in_(ids))
            .order_by(ResultObjectRow.form, ResultObjectRow.item)
        ).all()
    )
    deliveries = _group(
        session.execute(
            select(DeliveryRow.exam_id, DeliveryRow)
            .where(DeliveryRow.exam_id.in_(ids))
            .order_by(DeliveryRow.id)
        ).all()
    )
    received = _received(session, [exam for exam, _ in exams])
    return [
        {
            "exam_id": exam.id,
            "patient_id": patient.patient_id if patient else "",
            "issuer_of_patient_id": patient.issuer_of_patient_id if patient else "",
            "accession_number": exam.accession_number,
            "study_uid": exam.study_instance_uid,
            "state": exam.state,
            "revision": exam.revision,
            "superseded_by": exam.superseded_by,
            "has_conflict": exam.has_conflict,
            "peer": exam.peer_ae_title,
            "opened_at": exam.opened_at.isoformat(),
            "counts": {
                "received": received[exam.id][0] if exam.received_count is None else exam.received_count,
                "expected": exam.expected_count,
                "kept": frames[exam.id][0],
                "rejected": frames[exam.id][1],
                "quarantined": received[exam.id][1],
            },
            "completeness": {
                "verdict": exam.completeness_verdict,
                "reason": exam.completeness_reason,
                "expected": exam.expected_count,
                "missing": exam.missing_count,
            },
            **(NOT_READ if exam.state == "failed" else predictions.get(exam.id, NOT_READ)),
            "body_part_stated": exam.body_part_stated,
            "evidence": evidence[exam.id],
            "unreadable": unreadable[exam.id],
            "result_uids": [uid for uid, _form in _sent_form(results[exam.id], deliveries[exam.id])],
            "deliveries": [
                {
                    "peer": delivery.peer_ae_title,
                    "state": delivery.state,
                    "attempts": delivery.attempts,
                    "error": delivery.last_error,
                }
                for (delivery,) in deliveries[exam.id]
            ],
            "committed": None,
            "error": {"step": exam.error_step, "text": exam.error_text} if exam.error_step else None,
            "seconds": exam.step_seconds,
        }
        for exam, patient in exams
    ]


NOT_READ: dict[str, Any] = {
    "reading": None,
    "unpredicted_reason": None,
    "probability": None,
    "t": None,
    "k": None,
    "model": None,
}
"""What an exam says of its reading until it is read, and where it has failed: a result nobody has is none."""


def _group(rows: Iterable[Any]) -> defaultdict[str, list[tuple[Any, ...]]]:
    grouped: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for first, *rest in rows:
        grouped[first].append(tuple(rest))
    return grouped


def _sent_form(results: list[tuple[Any, ...]], deliveries: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the objects of the forms that were chosen for some peer; all where none was chosen yet."""
    forms = {delivery.form for (delivery,) in deliveries} - {None}
    return [result for result in results if not forms or result[1] in forms]


def _frame_counts(session: Session, ids: list[str]) -> defaultdict[str, tuple[int, int]]:
    counts: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    rows = session.execute(
        select(FrameRow.exam_id, FrameRow.kept, func.count())
        .where(FrameRow.exam_id.in_(ids))
        .group_by(FrameRow.exam_id, FrameRow.kept)
    )
    for exam_id, kept, count in rows:
        before = counts[exam_id]
        counts[exam_id] = (before[0] + count, before[1]) if kept else (before[0], before[1] + count)
    return counts


def _predictions(session: Session, ids: list[str]) -> dict[str, dict[str, Any]]:
    rows = session.execute(
        select(PredictionRow, ModelPackageRow)
        .join(ModelPackageRow, PredictionRow.model_digest == ModelPackageRow.digest)
        .where(PredictionRow.exam_id.in_(ids))
    )
    return {
        prediction.exam_id: {
            "reading": prediction.reading,
            "unpredicted_reason": prediction.unpredicted_reason,
            "probability": prediction.probability,
            "t": prediction.threshold,
            "k": prediction.top_k,
            "model": {"name": model.name, "version": model.version, "digest": model.digest},
        }
        for prediction, model in rows
    }


def _evidence(session: Session, ids: list[str]) -> defaultdict[str, list[dict[str, Any]]]:
    rows = session.execute(
        select(PredictionRow.exam_id, InstanceRow.sop_instance_uid, FrameRow, EvidenceRow)
        .join(EvidenceRow, EvidenceRow.prediction_id == PredictionRow.id)
        .join(FrameRow, EvidenceRow.frame_id == FrameRow.id)
        .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
        .where(PredictionRow.exam_id.in_(ids))
        .order_by(EvidenceRow.position)
    )
    evidence: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for exam_id, sop_instance_uid, frame, shown in rows:
        evidence[exam_id].append(
            {
                "sop_instance_uid": sop_instance_uid,
                "frame_number": frame.frame_number,
                "label": frame.label,
                "probability": frame.probability,
                "confidence": frame.confidence,
                "voted": shown.voted,
                "reason": frame.reason,
                "synthetic_share": frame.synthetic_share,
                "gate": shown.gate,
            }
        )
    return evidence


def _unreadable(session: Session, ids: list[str]) -> defaultdict[str, list[dict[str, Any]]]:
    """Return the frames that could not be decoded, and why; frame 0 stands for a whole object."""
    rows = session.execute(
        select(FrameRow.exam_id, InstanceRow.sop_instance_uid, FrameRow.frame_number, FrameRow.error_text)
        .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
        .where(FrameRow.exam_id.in_(ids), FrameRow.reason == "undecodable")
        .order_by(FrameRow.id)
    )
    unreadable: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for exam_id, sop_instance_uid, frame_number, text in rows:
        unreadable[exam_id].append(
            {"sop_instance_uid": sop_instance_uid, "frame_number": frame_number, "text": text}
        )
    return unreadable


def _received(session: Session, exams: list[ExamRow]) -> dict[str, tuple[int, int]]:
    """Return for each exam: accepted instances up to its revision, and quarantined ones of its study."""
    accepted: defaultdict[str, list[int]] = defaultdict(list)
    rows = session.execute(
        select(InstanceRow.exam_key, InstanceRow.first_revision).where(
            InstanceRow.exam_key.in_({exam.exam_key for exam in exams}), InstanceRow.disposition == "accepted"
        )
    )
    for key, first_revision in rows:
        if key is not None and first_revision is not None:
            accepted[key].append(first_revision)
    studies = {exam.study_instance_uid for exam in exams}
    counted = session.execute(
        select(InstanceRow.study_instance_uid, func.count())
        .where(InstanceRow.study_instance_uid.in_(studies), InstanceRow.disposition == "quarantined")
        .group_by(InstanceRow.study_instance_uid)
    )
    quarantined = {study: count for study, count in counted}  # noqa: C416 - a row is no tuple to the type checker
    return {
        exam.id: (
            sum(first <= exam.revision for first in accepted[exam.exam_key]),
            quarantined.get(exam.study_instance_uid, 0),
        )
        for exam in exams
    }
