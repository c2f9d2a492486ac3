"""A node that delivers, peers that answer it, and what its tables say."""

import datetime as dt
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt
from sqlalchemy import select

from db.engine import Database, open_database, utc_now
from db.jobs import Claim
from db.schema import installation_id
from db.tables import (
    AuditEventRow,
    DeliveredObjectRow,
    DeliveryRow,
    ExamRow,
    JobRow,
    ResultObjectRow,
)
from node.files import FileStore
from node.house import Node
from node.records import result_row
from node.results.key_objects import build_key_objects, build_rejection_note
from node.results.report import EncodedObject
from node.results.secondary_capture import build_secondary_capture
from node.results.structured_report import build_structured_report
from node.settings import Peer, Settings
from tests.unit.node.conftest import RowJobs
from tests.unit.node.results.conftest import LOSSLESS, make_exam, make_panel, make_report

MULTI, SINGLE = "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.7"
BOTH = (MULTI, SINGLE)


def result(exam_key: str = "key", pages: int = 2) -> EncodedObject:
    """Return a multi-frame result of so many pages."""
    report = make_report(evidence=tuple(make_panel(number) for number in range(pages - 1)))
    return build_secondary_capture(report, make_exam(exam_key=exam_key), sources=[LOSSLESS])


def whole_result(exam_key: str = "key") -> list[EncodedObject]:
    """Return a result of every kind: pages, structured report, key objects, and a rejection note."""
    report, exam, sources = make_report(), make_exam(exam_key=exam_key), [LOSSLESS]
    return [
        build_secondary_capture(report, exam, sources=sources),
        build_structured_report(report, exam, sources=sources),
        build_key_objects(report, exam, sources=sources),
        build_rejection_note(report, exam, rejected=sources),
    ]


def open_node(folder: Path, database_url: str, *peers: Peer) -> Node:
    settings = Settings(
        storage_dir=folder / "store",
        database_url=database_url,
        peers=peers,
        min_free_bytes=0,
        network_timeout_s=2,
    )
    database = open_database(database_url)
    files = FileStore(settings.storage_dir, min_free_bytes=0)
    installation = installation_id(database)
    files.prepare(installation)
    return Node(settings, database, files, RowJobs(), installation)


@dataclass
class Bench:
    """A node whose peers can be set, and what its tables say."""

    node: Node

    def peers(self, *peers: Peer, commitment: str = "never") -> None:
        """Let the settings name these peers, and ask them for storage commitment or not."""
        peers = tuple(peer.model_copy(update={"storage_commitment": commitment}) for peer in peers)
        self.node = replace(self.node, settings=self.node.settings.model_copy(update={"peers": peers}))

    def exam(
        self, encoded: EncodedObject | Sequence[EncodedObject], *ae_titles: str, exam_id: str = "e1"
    ) -> list[Claim]:
        """Write a read exam with its stored results, a delivery and a job a peer; return the claims."""
        objects = [encoded] if isinstance(encoded, EncodedObject) else encoded
        kept = [self.node.files.keep_bytes(each.data) for each in objects]
        now = utc_now()
        with self.node.database.writing() as session:
            session.add(
                ExamRow(
                    id=exam_id, exam_key=exam_id, revision=1, study_instance_uid="1.2.3", state="read",
                    opened_at=now, last_new_at=now, closes_at=now, step_seconds={"read": 1.0},
                )
            )  # fmt: skip
            session.flush()
            session.add_all(
                result_row(exam_id, each, stored, now) for each, stored in zip(objects, kept, strict=True)
            )
            deliveries = [
                DeliveryRow(
                    exam_id=exam_id, peer_ae_title=title, state="pending",
                    deadline_at=now + dt.timedelta(days=7),
                )
                for title in ae_titles
            ]  # fmt: skip
            session.add_all(deliveries)
            session.flush()
            subjects = [str(delivery.id) for delivery in deliveries]
            jobs = [self.node.jobs.enqueue(session, "deliver", subject) for subject in subjects]
        return [
            Claim(job_id=job, kind="deliver", subject_id=subject, attempts=1, owner="test")
            for job, subject in zip(jobs, subjects, strict=True)
        ]

    def forms(self) -> set[str]:
        """Return the forms of what the peers have stored."""
        with self.node.database.reading() as session:
            join = ResultObjectRow.id == DeliveredObjectRow.result_object_id
            return set(session.scalars(select(ResultObjectRow.form).join(DeliveredObjectRow, join)))

    def delivery(self, claim: Claim) -> DeliveryRow:
        """Return the delivery of a claim."""
        with self.node.database.reading() as session:
            return session.get_one(DeliveryRow, int(claim.subject_id))

    def exam_row(self, exam_id: str = "e1") -> ExamRow:
        """Return an exam."""
        with self.node.database.reading() as session:
            return session.get_one(ExamRow, exam_id)

    def job(self, claim: Claim) -> JobRow:
        """Return the job of a claim."""
        with self.node.database.reading() as session:
            return session.get_one(JobRow, claim.job_id)

    def change(self, row: type[Any], key: Any, **values: Any) -> None:
        """Change a row, as another process would."""
        with self.node.database.writing() as session:
            for name, value in values.items():
                setattr(session.get_one(row, key), name, value)

    def events(self) -> list[str]:
        """Return the audit trail's events in order."""
        with self.node.database.reading() as session:
            return list(session.scalars(select(AuditEventRow.event).order_by(AuditEventRow.id)))

    def count(self, row: type[Any]) -> int:
        """Return how many rows a table has."""
        with self.node.database.reading() as session:
            return len(list(session.scalars(select(row))))


@dataclass
class Archive:
    """A C-STORE handler that keeps what it is given: SOP Instance UID -> every copy of the dataset."""

    status: int = 0

    def __post_init__(self) -> None:
        """Begin empty."""
        self.held: dict[str, list[bytes]] = {}

    def __call__(self, event: evt.Event) -> int:
        """Keep one object."""
        uid = str(event.request.AffectedSOPInstanceUID)
        self.held.setdefault(uid, []).append(event.request.DataSet.getvalue())
        return self.status


def down() -> Peer:
    """Return a peer at a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Peer(ae_title="PACS", host="127.0.0.1", port=probe.getsockname()[1])


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Iterator[Bench]:
    """Return a bench on a fresh database of each kind, and a fresh folder."""
    bench = Bench(open_node(tmp_path, database.url))
    yield bench
    bench.node.database.close()
