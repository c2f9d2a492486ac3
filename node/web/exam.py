"""An exam as a person reads it: what was read and from what, what was not and why, and what became of it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from db.tables import (
    AuditEventRow,
    CommitmentRow,
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
    WorkitemRow,
)
from node.house import Node
from node.picture_cache import LAYERS
from node.reviews import REASONS, reviews_of
from node.web.events import count_told
from node.web.pages import REJECTIONS, render, said
from node.web.plot import PlotFrame, draw
from node.web.rows import read_before
from node.web.security import ExamId, TheNode, is_live, keep_view

router = APIRouter()

MOST_EVENTS = 200
MOST_EXAMS = 50


@router.get("/exams/{exam_id}")
def show(request: Request, node: TheNode, exam_id: ExamId) -> Response:
    """Show one exam revision; that it was seen is kept."""
    with node.database.reading() as session:
        if session.get(ExamRow, exam_id) is None:
            raise HTTPException(404)
    keep_view(request, "exam_viewed", exam_id, is_again=is_live(request))
    with node.database.reading() as session:
        told = count_told(session, exam_id)  # first: what comes while the rest is read is told
        exam = session.get_one(ExamRow, exam_id)
        return render(request, "exam.html", told=told, **describe(session, node, exam))


def describe(session: Session, node: Node, exam: ExamRow) -> dict[str, Any]:
    """Return everything that the page of an exam says."""
    patient = session.get(PatientRow, exam.patient_row_id) if exam.patient_row_id else None
    prediction = session.scalars(select(PredictionRow).where(PredictionRow.exam_id == exam.id)).first()
    model = session.get(ModelPackageRow, prediction.model_digest) if prediction else None
    evidence = _evidence(session, prediction)
    frames = _frames(session, exam, {shown["frame_id"]: shown["position"] for shown in evidence})
    rejected = Counter(frame.reason or "" for frame in frames if frame.confidence is None)
    silent = Counter(frame.reason for frame in frames if frame.confidence is not None and frame.reason)
    arrived = exam.received_count
    if arrived is None:
        of = InstanceRow.exam_key == exam.exam_key, InstanceRow.disposition == "accepted"
        arrived = session.scalar(select(func.count()).where(*of)) or 0
    events = session.scalars(
        select(AuditEventRow)
        .where(AuditEventRow.subject_id.in_((exam.id, exam.study_instance_uid)))
        .order_by(AuditEventRow.id.desc())
        .limit(MOST_EVENTS + 1)
    ).all()
    return {
        "exam": exam,
        "before": None if prediction else read_before(session, [exam]).get(exam.exam_key),
        "patient_id": patient.patient_id if patient else "",
        "issuer": patient.issuer_of_patient_id if patient else "",
        "prediction": prediction,
        "model": model,
        "evidence": evidence,
        "layers": LAYERS,
        "plot": draw(frames, prediction.threshold if prediction else None),
        "rejected": [
            (REJECTIONS.get(reason, said(reason)), count) for reason, count in rejected.most_common()
        ],
        "silent": [(said(reason), count) for reason, count in silent.most_common()],
        "arrived": arrived,
        "deliveries": _deliveries(session, exam),
        "reviews": reviews_of(session, prediction.id)[::-1] if prediction else [],
        "reasons": REASONS,
        "revisions": session.scalars(
            select(ExamRow).where(ExamRow.exam_key == exam.exam_key).order_by(ExamRow.revision)
        ).all(),
        "others": _others(session, exam),
        "order": session.get(OrderRow, exam.id),
        "workitems": session.scalars(
            select(WorkitemRow).where(WorkitemRow.study_instance_uid == exam.study_instance_uid)
        ).all(),
        "events": events[:MOST_EVENTS],
        "has_older_events": len(events) > MOST_EVENTS,
        "has_peers": any(peer.receives_results for peer in node.settings.peers),
    }


def _evidence(session: Session, prediction: PredictionRow | None) -> list[dict[str, Any]]:
    if prediction is None:
        return []
    rows = session.execute(
        select(EvidenceRow, FrameRow, InstanceRow.purged_at)
        .join(FrameRow, EvidenceRow.frame_id == FrameRow.id)
        .join(InstanceRow, FrameRow.instance_id == InstanceRow.id)
        .where(EvidenceRow.prediction_id == prediction.id)
        .order_by(EvidenceRow.position)
    )
    return [
        {
            "position": shown.position, "voted": shown.voted, "gate": shown.gate, "frame_id": frame.id,
            "label": frame.label, "confidence": frame.confidence, "probability": frame.probability,
            "reason": frame.reason, "synthetic_share": frame.synthetic_share,
            "is_purged": purged_at is not None,
        }
        for shown, frame, purged_at in rows
    ]  # fmt: skip


def _frames(session: Session, exam: ExamRow, shown: dict[int, int]) -> list[PlotFrame]:
    rows = session.execute(
        select(FrameRow.id, FrameRow.label, FrameRow.confidence, FrameRow.reason)
        .where(FrameRow.exam_id == exam.id)
        .order_by(FrameRow.instance_id, FrameRow.frame_number)
    )
    return [PlotFrame(label, confidence, reason, shown.get(row)) for row, label, confidence, reason in rows]


def _deliveries(session: Session, exam: ExamRow) -> list[dict[str, Any]]:
    rows = session.scalars(select(DeliveryRow).where(DeliveryRow.exam_id == exam.id).order_by(DeliveryRow.id))
    return [
        {
            "peer_ae_title": row.peer_ae_title, "state": row.state, "error": row.last_error,
            "attempts": row.attempts, "delivered_at": row.delivered_at, "committed": row.committed,
            "objects": session.execute(
                select(DeliveredObjectRow.state, func.count())
                .where(DeliveredObjectRow.delivery_id == row.id)
                .group_by(DeliveredObjectRow.state)
            ).all(),
            "asked": session.execute(
                select(func.count(), func.max(CommitmentRow.asked_at), func.max(CommitmentRow.answered_at))
                .where(CommitmentRow.delivery_id == row.id)
            ).one(),
        }
        for row in rows
    ]  # fmt: skip


def _others(session: Session, exam: ExamRow) -> Sequence[Any]:
    """Return the patient's other exams, newest first; an absent Patient ID links nothing."""
    if exam.patient_row_id is None:
        return []
    return session.execute(
        select(ExamRow, PredictionRow)
        .outerjoin(PredictionRow, PredictionRow.exam_id == ExamRow.id)
        .where(
            ExamRow.patient_row_id == exam.patient_row_id,
            ExamRow.superseded_by.is_(None),
            ExamRow.exam_key != exam.exam_key,
        )
        .order_by(ExamRow.opened_at.desc())
        .limit(MOST_EXAMS)
    ).all()
