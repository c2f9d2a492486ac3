"""Exams as a person or a program asks for them: one object an exam revision."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, func, select
from sqlalchemy.orm import Session

from db.tables import (
    DeliveredObjectRow,
    DeliveryRow,
    EvidenceRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    ModelPackageRow,
    OrderRow,
    PatientRow,
    PredictionRow,
    ResultObjectRow,
)
from models.patient import FOREIGN
from node.house import Node

EXAMS_AT_ONCE = 500
"""Exams whose details are fetched by one query each; keeps SQLite's bound variables within its limit."""

FRAME_SAYS = ("frame_number", "label", "probability", "confidence", "reason", "synthetic_share")

ORDER_SAYS = ("peer_ae_title", "matched_by", "reason", "attributes")


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
    kept = (FrameRow.exam_id, FrameRow.kept)
    frames = _by_first(session, select(*kept, func.count()).where(FrameRow.exam_id.in_(ids)).group_by(*kept))
    foreign = _by_first(
        session,
        select(FrameRow.exam_id, func.count())
        .where(FrameRow.exam_id.in_(ids), FrameRow.reason == FOREIGN)
        .group_by(FrameRow.exam_id),
    )
    predictions = _by_first(
        session,
        select(PredictionRow.exam_id, PredictionRow, ModelPackageRow)
        .join(ModelPackageRow, PredictionRow.model_digest == ModelPackageRow.digest)
        .where(PredictionRow.exam_id.in_(ids)),
    )
    evidence = _by_first(
        session,
        select(PredictionRow.exam_id, InstanceRow.sop_instance_uid, FrameRow, EvidenceRow)
        .join(EvidenceRow, EvidenceRow.prediction_id == PredictionRow.id)
        .join(FrameRow, EvidenceRow.frame_id == FrameRow.id)
        .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
        .where(PredictionRow.exam_id.in_(ids))
        .order_by(EvidenceRow.position),
    )
    unreadable = _by_first(  # frame 0 stands for a whole object
        session,
        select(FrameRow.exam_id, InstanceRow.sop_instance_uid, FrameRow.frame_number, FrameRow.error_text)
        .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
        .where(FrameRow.exam_id.in_(ids), FrameRow.reason == "undecodable")
        .order_by(FrameRow.id),
    )
    orders = _by_first(session, select(OrderRow.exam_id, OrderRow).where(OrderRow.exam_id.in_(ids)))
    result = ResultObjectRow
    results = _by_first(
        session,
        select(result.exam_id, result.sop_instance_uid, result.kind, result.form)
        .where(result.exam_id.in_(ids))
        .order_by(result.kind.desc(), result.form, result.item),
    )
    objects = _by_first(
        session,
        select(DeliveryRow.exam_id, DeliveryRow.id, DeliveredObjectRow.state, result.kind, result.form)
        .join(DeliveredObjectRow, DeliveredObjectRow.delivery_id == DeliveryRow.id)
        .join(result, DeliveredObjectRow.result_object_id == result.id)
        .where(DeliveryRow.exam_id.in_(ids)),
    )
    deliveries = _by_first(
        session,
        select(DeliveryRow.exam_id, DeliveryRow).where(DeliveryRow.exam_id.in_(ids)).order_by(DeliveryRow.id),
    )
    accepted = _by_first(
        session,
        select(InstanceRow.exam_key, InstanceRow.first_revision).where(
            InstanceRow.exam_key.in_({exam.exam_key for exam, _ in exams}),
            InstanceRow.disposition == "accepted",
        ),
    )
    study = InstanceRow.study_instance_uid
    quarantined = _by_first(
        session,
        select(study, func.count())
        .where(
            study.in_({exam.study_instance_uid for exam, _ in exams}),
            InstanceRow.disposition == "quarantined",
        )
        .group_by(study),
    )

    def describe(exam: ExamRow, patient: PatientRow | None) -> dict[str, Any]:
        counted = dict(frames[exam.id])
        received = sum(first <= exam.revision for (first,) in accepted[exam.exam_key])
        sent = [delivery for (delivery,) in deliveries[exam.id]]
        stored = {tuple(form) for _, _, *form in objects[exam.id]}
        begun = {kind for kind, _ in stored}
        how = Counter((delivery_id, state) for delivery_id, state, *_ in objects[exam.id])
        return {
            "exam_id": exam.id,
            "patient_id": patient.patient_id if patient else "",
            "issuer_of_patient_id": patient.issuer_of_patient_id if patient else "",
            "accession_number": exam.accession_number,
            "study_date": exam.study_date,
            "device_model": exam.device_model,
            "priority": exam.priority,
            "study_uid": exam.study_instance_uid,
            "state": exam.state,
            "revision": exam.revision,
            "superseded_by": exam.superseded_by,
            "has_conflict": exam.has_conflict,
            "peer": exam.peer_ae_title,
            "opened_at": exam.opened_at.isoformat(),
            "counts": {
                "received": received if exam.received_count is None else exam.received_count,
                "expected": exam.expected_count,
                "kept": counted.get(True, 0),
                "rejected": counted.get(False, 0),
                "out_of_distribution": sum(count for (count,) in foreign[exam.id]),
                "quarantined": sum(count for (count,) in quarantined[exam.study_instance_uid]),
            },
            "completeness": {
                "verdict": exam.completeness_verdict,
                "reason": exam.completeness_reason,
                "expected": exam.expected_count,
                "missing": exam.missing_count,
            },
            **_reading([] if exam.state == "failed" else predictions[exam.id]),
            "body_part_stated": exam.body_part_stated,
            "order": next((_values(order, ORDER_SAYS) for (order,) in orders[exam.id]), None),
            "evidence": [
                {"sop_instance_uid": uid, **_values(frame, FRAME_SAYS), **_values(shown, ("voted", "gate"))}
                for uid, frame, shown in evidence[exam.id]
            ],
            "unreadable": [
                {"sop_instance_uid": uid, "frame_number": number, "text": text}
                for uid, number, text in unreadable[exam.id]
            ],
            # of each kind the forms that some peer has; all where none has any yet, but for a rejection note
            "result_uids": [
                uid
                for uid, kind, form in results[exam.id]
                if kind not in {*begun, "rn"} or (kind, form) in stored
            ],
            "deliveries": [
                {
                    "peer": delivery.peer_ae_title,
                    "state": delivery.state,
                    "attempts": delivery.attempts,
                    "error": delivery.last_error,
                    "committed": delivery.committed,
                    "objects": {state: count for (of, state), count in how.items() if of == delivery.id},
                }
                for delivery in sent
            ],
            "committed": _committed(sent),
            "error": {"step": exam.error_step, "text": exam.error_text} if exam.error_step else None,
            "seconds": exam.step_seconds,
        }

    return [describe(exam, patient) for exam, patient in exams]


def _committed(sent: Sequence[DeliveryRow]) -> bool | None:
    """Return whether all peers answer for the result: false while one does not, null if one is not asked."""
    said = {delivery.committed for delivery in sent if delivery.state != "withdrawn"}
    return False if False in said else True if said == {True} else None


def _reading(found: Sequence[tuple[PredictionRow, ModelPackageRow]]) -> dict[str, Any]:
    """Return what an exam says of its reading: until it is read, and where it has failed, nothing."""
    prediction, model = found[0] if found else (None, None)
    return {
        "reading": prediction and prediction.reading,
        "unpredicted_reason": prediction and prediction.unpredicted_reason,
        "probability": prediction and prediction.probability,
        "verdict": prediction and prediction.verdict,
        "t": prediction and prediction.threshold,
        "k": prediction and prediction.top_k,
        "model": model and _values(model, ("name", "version", "digest")),
    }


def _values(row: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _by_first(session: Session, query: Executable) -> defaultdict[Any, list[Any]]:
    """Return the rows of a query by their first column, which is left out of them."""
    grouped: defaultdict[Any, list[Any]] = defaultdict(list)
    for first, *rest in session.execute(query):
        grouped[first].append(tuple(rest))
    return grouped
