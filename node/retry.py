"""A failed exam is taken up again at the step that failed."""

import datetime as dt

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import DeliveryRow, ExamRow, JobRow, ResultObjectRow
from node.errors import NodeError, NotFoundError
from node.exams import open_revision
from node.house import Node
from node.records import reading_of


def retry_exam(node: Node, exam_id: str) -> str:
    """Requeue what failed; returns the step taken up: close, read or deliver."""
    with node.database.writing() as session:
        exam = session.get(ExamRow, exam_id, with_for_update=True)
        if exam is None:
            raise NotFoundError(f"exam {exam_id}: not known; see `endonode exams`")
        if exam.state != "failed":
            raise NodeError(f"exam {exam_id}: only a failed exam is retried, this one is {exam.state}")
        if exam.superseded_by is not None:
            raise NodeError(
                f"exam {exam_id}: a later revision has taken its place; see exam {exam.superseded_by} instead"
            )
        step = exam.error_step or "read"
        reading = reading_of(session, exam.id)
        if reading is None and _is_answered(session, exam):
            _read_anew(session, node, exam)
            record(session, "exam_retried", exam.id, step="read")
            return "read"
        if step == "deliver" and reading is not None:
            _deliver_again(session, node, exam)
        elif step == "close":
            exam.state, exam.closes_at = "receiving", utc_now()
            _requeue(session, node, "close", exam.id)
        else:
            exam.state = "closed"
            _requeue(session, node, "read", exam.id)
        exam.error_step = exam.error_text = None
        record(session, "exam_retried", exam.id, step=step)
        return step


def _is_answered(session: Session, exam: ExamRow) -> bool:
    results = exists().where(ResultObjectRow.exam_id == exam.id)
    return bool(session.scalar(select(results)))


def _read_anew(session: Session, node: Node, exam: ExamRow) -> None:
    """Open the next revision: that this one's reading failed has been stated, and may have arrived."""
    open_revision(
        session, node, key=exam.exam_key, previous=exam, patient=exam.patient_row_id,
        study_instance_uid=exam.study_instance_uid,
        accession_number=exam.accession_number,
        peer_ae_title=exam.peer_ae_title,
        quiet_s=0,
    )  # fmt: skip


def _deliver_again(session: Session, node: Node, exam: ExamRow) -> None:
    exam.state = "read"
    failed = session.scalars(
        select(DeliveryRow).where(DeliveryRow.exam_id == exam.id, DeliveryRow.state == "failed")
    )
    for delivery in failed:
        delivery.state, delivery.attempts = "pending", 0
        delivery.deadline_at = utc_now() + dt.timedelta(seconds=node.settings.delivery_deadline_s)
        _requeue(session, node, "deliver", str(delivery.id))


def _requeue(session: Session, node: Node, kind: str, subject_id: str) -> None:
    """Revive the dead letter where there is one; a job that ended in order is followed by a new one."""
    buried = session.scalars(
        select(JobRow.id).where(
            JobRow.kind == kind, JobRow.subject_id == subject_id, JobRow.state == "buried"
        )
    ).first()
    if buried is None:
        node.jobs.enqueue(session, kind, subject_id)
    else:
        node.jobs.requeue(session, buried)
