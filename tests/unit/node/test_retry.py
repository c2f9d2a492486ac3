"""A failed exam is taken up where it failed, and only while its result is the one that counts."""

import pytest
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import DeliveryRow, ExamRow, JobRow, ModelPackageRow, PredictionRow
from db.tables.exams import FAILED, IN_PROGRESS
from node.errors import NodeError, NotFoundError
from node.house import Node
from node.records import fail_exam, start_delivery
from node.retry import retry_exam
from node.worker import on_buried
from tests.unit.node.conftest import ClaimOf, Sender


def bury(node: Node, claim: Claim) -> None:
    """End a job as the worker does at its last failure."""
    with node.database.writing() as session:
        node.jobs.bury(session, claim, "StorageError: gone")
        on_buried(session, claim, "StorageError: gone")


def only_exam(node: Node) -> ExamRow:
    with node.database.reading() as session:
        return session.scalars(select(ExamRow)).one()


def states(node: Node, kind: str) -> list[str]:
    with node.database.reading() as session:
        return list(session.scalars(select(JobRow.state).where(JobRow.kind == kind)))


def test_a_failed_close_is_taken_up(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """The exam is open again, and due: its one job is revived, not doubled."""
    send("1.2.1")
    bury(node, claim_of("close"))
    exam = only_exam(node)
    assert (exam.state, exam.error_step, exam.error_text) == ("failed", "close", "StorageError: gone")
    assert exam.priority == FAILED
    assert retry_exam(node, exam.id) == "close"
    exam = only_exam(node)
    assert (exam.state, exam.error_step, exam.error_text) == ("receiving", None, None)
    assert exam.priority == IN_PROGRESS
    assert exam.closes_at <= utc_now()
    assert states(node, "close") == ["queued"]


def test_a_failed_delivery_is_taken_up(node: Node, send: Sender, claim_of: ClaimOf) -> None:
    """What was read stays read: only the sending starts over, with a deadline of its own."""
    send("1.2.1")
    now = utc_now()
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        exam.state = "delivering"
        session.add(ModelPackageRow(digest="d", name="n", version="1", manifest={}, registered_at=now))
        session.flush()
        session.add(
            PredictionRow(
                exam_id=exam.id, model_digest="d", recipe_digest="r", reading="healthy", probability=0.1,
                threshold=0.9, top_k=6, vote_mode="top_k", frames_kept=1, frames_rejected=0, frames_used=1,
                created_at=now,
            )
        )  # fmt: skip
        start_delivery(session, node, exam, "PACS", now)
    bury(node, claim_of("deliver"))
    with node.database.writing() as session:
        delivery = session.scalars(select(DeliveryRow)).one()
        assert (delivery.state, delivery.last_error) == ("failed", "StorageError: gone")
        delivery.deadline_at = now
    assert retry_exam(node, only_exam(node).id) == "deliver"
    with node.database.reading() as session:
        delivery = session.scalars(select(DeliveryRow)).one()
    assert (delivery.state, delivery.attempts, delivery.deadline_at > utc_now()) == ("pending", 0, True)
    assert only_exam(node).state == "read"
    assert states(node, "deliver") == ["queued"]


def test_a_superseded_exam_is_not_retried(node: Node, send: Sender) -> None:
    """Its result would reach the PACS after the one that has taken its place."""
    send("1.2.1")
    first = only_exam(node).id
    with node.database.writing() as session:
        fail_exam(session, first, "read", "no")
    send("1.2.2")
    with pytest.raises(NodeError, match=f"exam {first}: a later revision has taken its place"):
        retry_exam(node, first)
    with node.database.reading() as session:
        assert session.get_one(ExamRow, first).state == "failed"
    assert states(node, "read") == []


def test_only_a_failed_exam_that_exists_is_retried(node: Node, send: Sender) -> None:
    """A mistyped id must not stir up an exam that is well."""
    send("1.2.1")
    with pytest.raises(NodeError, match="only a failed exam is retried, this one is receiving"):
        retry_exam(node, only_exam(node).id)
    with pytest.raises(NotFoundError):
        retry_exam(node, "none")
