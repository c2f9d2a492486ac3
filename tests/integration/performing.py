"""A node that performs workitems, what asks it and what watches it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    AuditEventRow,
    ExamRow,
    JobRow,
    PatientRow,
    ResultObjectRow,
    WorkitemRow,
)
from node.house import Node
from node.settings import Peer
from node.workitem_steps import notify, perform, pull
from node.workitems import follow
from tests.integration.receiving import receiving
from tests.integration.worklists import (
    Requester,
    Subscriber,
    subscriber,
)

JOBS = {"notify": notify, "perform": perform, "pull": pull}


@dataclass
class Performing:
    """A node that performs steps, the peer that asks and watches, and what lies between."""

    node: Node
    port: int
    told: Subscriber
    peer: Requester

    def work(self, *kinds: str) -> None:
        """Run the jobs that are due, until none is."""
        while jobs := self.due(*kinds or ("notify", "perform")):
            for job in jobs:
                self.run(job)

    def run(self, job: JobRow) -> None:
        """Run a job once."""
        JOBS[job.kind](self.node, Claim(job.id, job.kind, job.subject_id, 1, "t"))

    def due(self, *kinds: str) -> list[JobRow]:
        """Return the jobs that are due."""
        is_due = JobRow.state == "queued", JobRow.kind.in_(kinds), JobRow.not_before_at <= utc_now()
        with self.node.database.reading() as session:
            return list(session.scalars(select(JobRow).where(*is_due).order_by(JobRow.created_at)))

    def exam(self, state: str, study: str = "1.2.3", *, of: str = "e1", **values: Any) -> None:
        """Let the exam of a study be in a state, as the job that brought it there says."""
        now = utc_now()
        with self.node.database.writing() as session:
            if session.get(PatientRow, 1) is None:
                session.add(PatientRow(id=1, patient_id="A", issuer_of_patient_id="HOUSE", created_at=now))
                session.flush()
            exam = session.get(ExamRow, of) or ExamRow(
                id=of, exam_key=study, revision=len(of), patient_row_id=1, study_instance_uid=study,
                opened_at=now, last_new_at=now, closes_at=now,
            )  # fmt: skip
            exam.state = state
            for name, value in values.items():
                setattr(exam, name, value)
            session.add(exam)
            follow(session, self.node, exam)
        self.work()

    def result(self, of: str = "e1", **values: Any) -> None:
        """Store a result of an exam, in the best form."""
        row: dict[str, Any] = {
            "kind": "sr", "form": "comprehensive_3d", "item": 1, "sop_instance_uid": f"1.9.{of[1:]}",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34", "series_instance_uid": "1.8",
        }  # fmt: skip
        with self.node.database.writing() as session:
            session.add(
                ResultObjectRow(exam_id=of, sha256="0", size_bytes=1, created_at=utc_now(), **row | values)
            )

    def hasten(self, uid: str) -> None:
        """Run the jobs of a workitem that wait."""
        with self.node.database.writing() as session:
            self.node.jobs.hasten(session, "perform", str(self.row(uid).id))
        self.work()

    def row(self, uid: str) -> WorkitemRow:
        """Return a workitem as the database has it."""
        with self.node.database.reading() as session:
            found = select(WorkitemRow).where(WorkitemRow.sop_instance_uid == uid)
            return session.scalars(found).one()

    def events(self, subject: str = "1.2.3") -> list[tuple[str, str]]:
        """Return the audit trail of a study: events, and states where they name one."""
        with self.node.database.reading() as session:
            rows = select(AuditEventRow).where(AuditEventRow.subject_id == subject).order_by(AuditEventRow.id)
            return [(row.event, row.detail.get("state", "")) for row in session.scalars(rows)]

    def count(self, row: type[Any]) -> int:
        """Return how many rows a table has."""
        with self.node.database.reading() as session:
            return len(session.scalars(select(row)).all())


@pytest.fixture(scope="module")
def listening() -> Iterator[Subscriber]:
    """Return a peer that is told; one for all tests, since it takes half a second to end."""
    with subscriber() as told:
        yield told


@pytest.fixture
def performing(tmp_path: Path, listening: Subscriber) -> Iterator[Performing]:
    """Return a node with one peer, which asks and is told."""
    listening.told.clear()
    peers = (Peer(ae_title="PACS", host="127.0.0.1", port=listening.port),)
    with receiving(tmp_path, peers=peers) as running:
        peer = Requester(running.port)
        yield Performing(running.node, running.port, listening, peer)
        peer.assoc.release()
