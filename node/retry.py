"""A failed exam is taken up again at the step that failed."""

import datetime as dt

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, JobRow, ResultObjectRow
from db.tables.exams import IN_PROGRESS
from node.errors import NodeError, NotFoundError
from node.exams import open_revision
from node.house import Node
from node.records import PRIORITIES, reading_of


def retry_exam(node: Node, exam_id: str) -> str:
    """Requeue what failed; returns the step taken up: close, read or deliver.

    A peer that never reported is asked again whether it holds a result, even one that is replaced.
    """
    with node.database.writing() as session:
        exam = session.get(ExamRow, exam_id, with_for_update=True)
        if exam is None:
            raise NotFoundError(f"exam {exam_id}: not known; see `endonode exams`")
        unconfirmed = exam.state != "failed" and _deliveries(session, exam, "unconfirmed")
        if exam.state != "failed" and not unconfirmed:
            raise NodeError(f"exam {exam_id}: only a failed exam is retried, this one is {exam.state}")
        if exam.superseded_by is not None and not unconfirmed:
            raise NodeError(
                f"exam {exam_id}: a later revision has taken its place; see exam {exam.superseded_by} instead"
            )
        step = "deliver" if unconfirmed else exam.error_step or "read"
        reading = reading_of(session, exam.id)
        if reading is None and not unconfirmed and _is_answered(session, exam):
            _read_anew(session, node, exam)
            record(session, "exam_retried", exam.id, step="read")
            return "read"
        if unconfirmed or (step == "deliver" and reading is not None):
            _deliver_again(session, node, exam)
        elif step == "close":
            exam.state, exam.closes_at = "receiving", utc_now()
            _requeue(session, node, "close", exam.id)
        else:
            exam.state = "closed"
            _requeue(session, node, "read", exam.id)
        exam.error_step = exam.error_text = None
        exam.priority = PRIORITIES[reading.reading] if reading else IN_PROGRESS
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
    """Take up what has failed where it failed; what a peer refused to commit to is sent to it again."""
    exam.state = "read"
    for delivery in _deliveries(session, exam, "failed", "unconfirmed"):
        subject = str(delivery.id)
        asks = delivery.state == "unconfirmed" or _buried(session, "commit", subject) is not None
        delivery.state, delivery.attempts = "committing" if asks else "pending", 0
        exam.state = "delivering" if asks else exam.state
        delivery.deadline_at = utc_now() + dt.timedelta(seconds=node.settings.delivery_deadline_s)
        is_refused = DeliveredObjectRow.delivery_id == delivery.id, DeliveredObjectRow.state == "refused"
        session.execute(update(DeliveredObjectRow).where(*is_refused).values(state="resend", resends=0))
        _requeue(session, node, "commit" if asks else "deliver", subject)


def _deliveries(session: Session, exam: ExamRow, *states: str) -> list[DeliveryRow]:
    of_exam = select(DeliveryRow).where(DeliveryRow.exam_id == exam.id, DeliveryRow.state.in_(states))
    return list(session.scalars(of_exam.with_for_update()))  # a report may come meanwhile


def _requeue(session: Session, node: Node, kind: str, subject_id: str) -> None:
    """Revive the dead letter where there is one; a job that ended in order is followed by a new one."""
    buried = _buried(session, kind, subject_id)
    if buried is None:
        node.jobs.enqueue(session, kind, subject_id)
    else:
        node.jobs.requeue(session, buried)


def _buried(session: Session, kind: str, subject_id: str) -> str | None:
    is_buried = JobRow.kind == kind, JobRow.subject_id == subject_id, JobRow.state == "buried"
    return session.scalars(select(JobRow.id).where(*is_buried)).first()
