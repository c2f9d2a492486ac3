"""A node on a fresh SQLite file and folder, with a job port that only writes its rows."""

import datetime as dt
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.engine import open_database, utc_now
from db.jobs import Claim
from db.schema import installation_id
from db.tables import InstanceRow, JobRow
from node.dicom.header import Header
from node.exams import admit
from node.files import FileStore
from node.house import Node
from node.next_object import OpenExams
from node.settings import Peer, Settings


class RowJobs:
    """The job port without an engine: what was asked of it stands in the jobs table."""

    def enqueue(
        self, session: Session, kind: str, subject_id: str, *, not_before_at: dt.datetime | None = None
    ) -> str:
        """Write the row."""
        now = utc_now()
        job = JobRow(
            id=str(uuid.uuid4()), kind=kind, subject_id=subject_id, state="queued",
            not_before_at=not_before_at or now, created_at=now,
        )  # fmt: skip
        session.add(job)
        session.flush()
        return job.id

    def finish(self, session: Session, claim: Claim) -> None:
        """Mark it done."""
        session.get_one(JobRow, claim.job_id).state = "done"

    def postpone(self, session: Session, claim: Claim, until: dt.datetime) -> None:
        """Push it out."""
        session.get_one(JobRow, claim.job_id).not_before_at = until

    def hasten(self, session: Session, kind: str, subject_id: str) -> None:
        """Pull it up."""
        waits = JobRow.kind == kind, JobRow.subject_id == subject_id, JobRow.state == "queued"
        for job in session.scalars(select(JobRow).where(*waits)):
            job.not_before_at = utc_now()

    def bury(self, session: Session, claim: Claim, error: str) -> None:
        """Make it a dead letter."""
        job = session.get_one(JobRow, claim.job_id)
        job.state, job.last_error = "buried", error

    def requeue(self, session: Session, job_id: str) -> None:
        """Revive a dead letter."""
        session.get_one(JobRow, job_id).state = "queued"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with one peer, short times and everything below the test's folder."""
    return Settings(
        storage_dir=tmp_path / "store",
        database_url=f"sqlite:///{tmp_path / 'endonode.db'}",
        peers=(Peer(ae_title="PACS", host="127.0.0.1", port=4242, receives_results=True),),
        min_free_bytes=0,
        quiet_time_s=5,
        late_quiet_time_s=50,
    )


@pytest.fixture
def node(settings: Settings, sqlite_with_tables: Path) -> Iterator[Node]:
    """Return an opened node whose jobs are rows only."""
    shutil.copyfile(sqlite_with_tables, settings.storage_dir.with_name("endonode.db"))
    with opened(settings) as node:
        yield node


@pytest.fixture
def postgres_node(
    settings: Settings, new_postgres_url: Callable[..., str], postgres_with_tables: str
) -> Iterator[Node]:
    """Return the same on PostgreSQL, where two writers do work at once."""
    url = new_postgres_url(postgres_with_tables)
    with opened(settings.model_copy(update={"database_url": url})) as node:
        yield node


@contextmanager
def opened(settings: Settings) -> Iterator[Node]:
    """Open a node on a database that has its tables."""
    database = open_database(settings.database_url)
    files = FileStore(settings.storage_dir, min_free_bytes=0)
    installation = installation_id(database)
    files.prepare(installation)
    yield Node(settings, database, files, RowJobs(), installation)
    database.close()


def wait_for_lock(node: Node) -> None:
    """Wait until some session waits for a study that another has locked."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        with node.database.reading() as session:
            if session.execute(waiting).scalar_one():
                return
        time.sleep(0.02)
    raise AssertionError("nobody waited for the study")


class Sender:
    """Admits objects as the receiver does, by their header values."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.open_exams = OpenExams()

    def __call__(
        self, sop_instance_uid: str, *, content: bytes | None = None, sender: str = "PACS", **header: str
    ) -> InstanceRow:
        """Keep `content` (the UID's own text by default) and admit it; missing header values get defaults."""
        values = {
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.77.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "study_instance_uid": "1.2.3",
            "series_instance_uid": "1.2.3.1",
            "patient_id": "P1",
            "issuer_of_patient_id": "",
            "accession_number": "A1",
            "modality": "ES",
        } | header
        stored = self.node.files.keep_bytes(content or sop_instance_uid.encode())
        full = Header(
            sop_instance_uid=sop_instance_uid, source_uids=frozenset(), equipment_uids=frozenset(), **values
        )
        with self.node.database.writing() as session:
            admit(session, self.node, full, stored, calling_ae_title=sender, open_exams=self.open_exams)
            session.flush()
            row = session.scalars(select(InstanceRow).order_by(InstanceRow.id.desc()).limit(1)).one()
            session.expunge(row)
        return row


@pytest.fixture
def send(node: Node) -> Sender:
    """Return a function that admits one object."""
    return Sender(node)


def digest_of(content: bytes) -> str:
    """Return the name a file store gives these bytes."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def claim_of(node: Node) -> "ClaimOf":
    """Return a function that claims the newest queued job of a kind."""
    return ClaimOf(node)


class ClaimOf:
    """Finds a queued job and makes its claim."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __call__(self, kind: str) -> Claim:
        """Return the claim of the newest queued job of that kind."""
        with self.node.database.reading() as session:
            job = session.scalars(
                select(JobRow)
                .where(JobRow.kind == kind, JobRow.state == "queued")
                .order_by(JobRow.created_at.desc())
            ).first()
            assert job is not None, f"no queued {kind} job"
            return Claim(job_id=job.id, kind=kind, subject_id=job.subject_id, attempts=1, owner="test")
