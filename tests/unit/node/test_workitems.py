"""No change of an exam is missed by the workitems of its study."""

import threading

import pytest
from pydicom import Dataset
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import DeliveryRow, ExamRow, JobRow
from node.delivery import conclude, give_up
from node.house import Node
from node.reading import _begin
from node.workitems import add_workitem, follow


def exam(state: str) -> ExamRow:
    """Return an exam of the study 1.2.3."""
    now = utc_now()
    return ExamRow(
        id="e1", exam_key="e1", revision=1, study_instance_uid="1.2.3", state=state,
        opened_at=now, last_new_at=now, closes_at=now,
    )  # fmt: skip


def workitem() -> Dataset:
    """Return as little of a workitem as is needed."""
    ds = Dataset()
    ds.SOPInstanceUID = "1.2.9"
    return ds


def looks(node: Node) -> int:
    """Return how often a workitem was, or is to be, looked at."""
    with node.database.reading() as session:
        return len(session.scalars(select(JobRow).where(JobRow.kind == "perform")).all())


@pytest.mark.postgres
def test_an_exam_that_changes_meanwhile_waits_for_a_new_workitem(postgres_node: Node) -> None:
    """Else it would look for workitems just before there is one, and never again."""
    may_end = threading.Event()
    with postgres_node.database.writing() as session:
        session.add(exam("reading"))

    def deliver() -> None:
        with postgres_node.database.writing() as session:
            row = session.get_one(ExamRow, "e1")
            row.state = "delivered"
            follow(session, postgres_node, row)
        may_end.set()

    thread = threading.Thread(target=deliver)
    with postgres_node.database.writing() as session:
        add_workitem(session, postgres_node, workitem(), "1.2.3", "PACS", is_foreign=False)
        thread.start()
        assert not may_end.wait(0.5)
    thread.join(10)
    assert looks(postgres_node) == 2


def test_each_step_of_an_exam_looks_for_workitems(node: Node) -> None:
    """Begun, delivered, given up: whoever moves an exam on does not leave those behind who wait for it."""
    with node.database.writing() as session:
        session.add(exam("closed"))
        add_workitem(session, node, workitem(), "1.2.3", "PACS", is_foreign=False)
        session.add_all(
            DeliveryRow(exam_id="e1", peer_ae_title=peer, state="sending", deadline_at=utc_now())
            for peer in ("PACS", "OTHER")
        )
        claims = [
            Claim(node.jobs.enqueue(session, kind, "e1"), kind, "e1", 1, "t")
            for kind in ("read", "deliver", "deliver")
        ]
    _begin(node, claims[0])
    assert looks(node) == 2
    with node.database.writing() as session:
        first, second = session.scalars(select(DeliveryRow)).all()
        conclude(session, node, claims[1], first, committed=None)
        give_up(session, node, claims[2], second, "gone")
    assert looks(node) == 4
