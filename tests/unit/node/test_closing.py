"""The end of quiet time: when an exam is closed, when it waits, and what it then says of itself."""

import datetime as dt

import pytest
from sqlalchemy import select

from db.engine import utc_now
from db.tables import ArrivalRow, ExamRow, JobRow
from node.closing import close_exam
from node.house import Node
from tests.unit.node.conftest import ClaimOf, Sender


def _exam(node: Node) -> ExamRow:
    with node.database.reading() as session:
        exam = session.scalars(select(ExamRow)).one()
        session.expunge_all()
    return exam


def _run_out(node: Node) -> None:
    """Let the quiet time have passed."""
    with node.database.writing() as session:
        session.scalars(select(ExamRow)).one().closes_at = utc_now() - dt.timedelta(seconds=1)


def _job(node: Node, kind: str) -> JobRow | None:
    with node.database.reading() as session:
        job = session.scalars(select(JobRow).where(JobRow.kind == kind)).first()
        session.expunge_all()
    return job


def test_within_quiet_time_the_job_only_waits_on(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """A new image pushed the end out after the job had been queued."""
    send("1.2.1")
    close_exam(node, claim_of("close"))
    job = _job(node, "close")
    assert job is not None
    assert (_exam(node).state, job.state, job.not_before_at) == (
        "receiving", "queued", _exam(node).closes_at,
    )  # fmt: skip


def test_after_quiet_time_the_exam_is_closed_and_queued(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """Nobody answers at the peer's port, so the verdict is unknown, and closing does not wait for it."""
    send("1.2.1")
    _run_out(node)
    close_exam(node, claim_of("close"))
    exam = _exam(node)
    assert (exam.state, exam.completeness_verdict, exam.completeness_reason) == (
        "closed", "unknown", "no_answer",
    )  # fmt: skip
    assert _job(node, "read") is not None


def test_an_object_still_arriving_holds_the_exam_open(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """A 300 MB object takes longer than the quiet time; the exam waits for it."""
    send("1.2.1")
    _run_out(node)
    with node.database.writing() as session:
        session.add(ArrivalRow(token="t", study_instance_uid="1.2.3", beat_at=utc_now()))  # noqa: S106 - no secret
    close_exam(node, claim_of("close"))
    assert _exam(node).state == "receiving"


def test_an_arrival_that_no_longer_beats_holds_nothing(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """A receiver that died in mid object must not keep the exam open for ever."""
    send("1.2.1")
    _run_out(node)
    with node.database.writing() as session:
        long_ago = utc_now() - dt.timedelta(minutes=1)
        session.add(ArrivalRow(token="t", study_instance_uid="1.2.3", beat_at=long_ago))  # noqa: S106
    close_exam(node, claim_of("close"))
    assert _exam(node).state == "closed"


@pytest.mark.parametrize("state", ["closed", "read", "delivered", "failed"])
def test_a_second_close_changes_nothing(node: Node, send: Sender, claim_of: ClaimOf, state: str) -> None:
    """A job that is run twice after a crash must not close, or queue, an exam again."""
    send("1.2.1")
    with node.database.writing() as session:
        session.scalars(select(ExamRow)).one().state = state
    close_exam(node, claim_of("close"))
    assert _exam(node).state == state
    assert _job(node, "read") is None
