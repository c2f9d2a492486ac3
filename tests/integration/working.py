"""Workers of this process on a database, and what its jobs have come to."""

import datetime as dt
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import Database, utc_now
from db.jobs import Claim
from db.jobs_dbos import DbosJobs, JobWorker
from db.tables import JobRow

Handler = Callable[[Claim], None]
Work = Callable[[Handler], JobWorker]


def until(condition: Callable[[], bool], within_s: float = 15) -> None:
    """Wait until the condition holds, at most so long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def jobs(database: Database) -> DbosJobs:
    return DbosJobs(database)


@pytest.fixture
def work(database: Database, jobs: DbosJobs) -> Iterator[Work]:
    """Return what starts a worker whose every kind has the given handler."""
    workers: list[JobWorker] = []

    def on_buried(session: Session, claim: Claim, error: str) -> None:
        record(session, "buried", claim.subject_id, error=error)

    def start(handler: Handler) -> JobWorker:
        handlers = dict.fromkeys(("compare", "close", "read", "deliver"), handler)
        worker = JobWorker(
            database, jobs, handlers, on_buried=on_buried, transient=(OSError, OperationalError),
            quotable=(RuntimeError,), lease_ttl_s=5, beat_s=0.2,
        )  # fmt: skip
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop(0)


def enqueue(database: Database, jobs: DbosJobs, kind: str, subject_id: str, *, in_s: float = 0) -> str:
    not_before_at = utc_now() + dt.timedelta(seconds=in_s) if in_s else None
    with database.writing() as session:
        return jobs.enqueue(session, kind, subject_id, not_before_at=not_before_at)


def finishing(database: Database, jobs: DbosJobs, claims: list[Claim]) -> Handler:
    """Return a handler that notes its claim and finishes it."""

    def handle(claim: Claim) -> None:
        with database.writing() as session:
            jobs.finish(session, claim)
        claims.append(claim)

    return handle


def row(database: Database, job_id: str) -> JobRow:
    with database.reading() as session:
        return session.get_one(JobRow, job_id)
