"""The end of quiet time: an exam is closed as a revision, with a verdict on its completeness."""

import datetime as dt

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import ArrivalRow, ExamRow
from node.completeness import Completeness, ask
from node.exams import instances_of
from node.house import Node
from node.orders import ask_for_order, write_order

ARRIVAL_BEATS_S = 10
"""An arrival that has not been beaten for this long (five beats of the receiver) is of a dead receiver."""

ARRIVAL_CHECK_S = 1
"""How soon an exam held open by an arriving object is looked at again."""


def close_exam(node: Node, claim: Claim) -> None:
    """Close the exam named by the claim, or look again when its quiet time has run out."""
    with node.database.reading() as session:
        exam = session.get_one(ExamRow, claim.subject_id)
        due_at = _due_at(session, exam) if exam.state == "receiving" else None
        session.expunge(exam)
    if due_at is not None and due_at > utc_now():
        with node.database.writing() as session:
            node.jobs.postpone(session, claim, due_at)
        return
    completeness = ask(node, exam) if due_at is not None else None
    is_last_look = completeness is not None and _is_last_look(node, exam, completeness)
    order = ask_for_order(node, exam) if is_last_look else None
    with node.database.writing() as session:
        node.database.lock_study(session, exam.study_instance_uid)
        current = session.get_one(ExamRow, exam.id, populate_existing=True)
        if completeness is None or current.state != "receiving":
            node.jobs.finish(session, claim)
            return
        if current.superseded_by is not None:  # its images were moved to another exam while it was open
            current.state, current.closed_at, current.received_count = "closed", utc_now(), 0
            record(session, "exam_closed", current.id, reason="superseded")
            node.jobs.finish(session, claim)
            return
        until = _reopened_until(node, session, current, completeness)
        if until is not None:
            node.jobs.postpone(session, claim, until)
            return
        _close(session, node, current, completeness)
        if order is not None:
            write_order(session, order)
        node.jobs.finish(session, claim)


def _is_last_look(node: Node, exam: ExamRow, completeness: Completeness) -> bool:
    """Tell whether the exam is to be closed by now, unless news comes."""
    waits_until = (exam.first_asked_at or utc_now()) + dt.timedelta(seconds=node.settings.max_wait_s)
    return completeness.verdict != "incomplete" or utc_now() >= waits_until


def _due_at(session: Session, exam: ExamRow) -> dt.datetime:
    """Return when the exam may be closed: after its quiet time, and never while an object is arriving."""
    alive_since = utc_now() - dt.timedelta(seconds=ARRIVAL_BEATS_S)
    of_study = ArrivalRow.study_instance_uid == exam.study_instance_uid
    if session.scalar(select(exists().where(of_study, ArrivalRow.beat_at > alive_since))):
        return max(exam.closes_at, utc_now() + dt.timedelta(seconds=ARRIVAL_CHECK_S))
    return exam.closes_at


def _reopened_until(
    node: Node, session: Session, exam: ExamRow, completeness: Completeness
) -> dt.datetime | None:
    """Return until when the exam stays open after all: news came while we asked, or images are missing."""
    now = utc_now()
    due_at = _due_at(session, exam)
    if due_at > now:
        return due_at
    if completeness.verdict != "incomplete":
        return None
    if exam.first_asked_at is None:
        exam.first_asked_at = now
    give_up_at = exam.first_asked_at + dt.timedelta(seconds=node.settings.max_wait_s)
    if now >= give_up_at:
        return None
    exam.closes_at = min(now + dt.timedelta(seconds=node.settings.quiet_time_s), give_up_at)
    exam.expected_count, exam.missing_count = completeness.expected, completeness.missing
    return exam.closes_at


def _close(session: Session, node: Node, exam: ExamRow, completeness: Completeness) -> None:
    exam.state = "closed"
    exam.closed_at = utc_now()
    exam.received_count = len(instances_of(session, exam))
    exam.completeness_verdict = completeness.verdict
    exam.completeness_reason = completeness.reason
    exam.expected_count = completeness.expected
    exam.missing_count = completeness.missing
    exam.step_seconds = {
        **exam.step_seconds,
        "receive": round((exam.last_new_at - exam.opened_at).total_seconds(), 3),
        "quiet": round((exam.closed_at - exam.last_new_at).total_seconds(), 3),
    }
    record(session, "exam_closed", exam.id, verdict=completeness.verdict, reason=completeness.reason)
    node.jobs.enqueue(session, "read", exam.id)
