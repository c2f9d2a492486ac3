"""Many at one database: nobody is turned away by a lock."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.audit import record
from db.engine import Database, open_database
from db.jobs import Claim
from db.jobs_dbos import DbosJobs, JobWorker
from db.schema import ensure_schema
from db.tables import AuditEventRow
from tests.integration.working import finishing, jobs, work

__all__ = ["jobs", "work"]


def test_four_readers_and_two_writers_meet_no_lock(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """SQLite has one write lock for receiver, workers and DBOS: an error here is a study refused there."""
    url = f"sqlite:///{tmp_path / 'endonode.db'}"
    databases = [open_database(url) for _ in range(7)]
    ensure_schema(databases[0])
    jobs = DbosJobs(databases[0])
    claims: list[Claim] = []
    handlers = {"deliver": finishing(databases[0], jobs, claims)}
    worker = JobWorker(databases[0], jobs, handlers, on_buried=lambda *_: None, beat_s=0.2)
    worker.start()
    ends_at = time.monotonic() + (10 if request.config.getoption("--full") else 3)
    failures: list[Exception] = []
    written: list[str] = []

    def loop(turn: Callable[[], None]) -> None:
        while time.monotonic() < ends_at and not failures:
            try:
                turn()
            except Exception as error:  # noqa: BLE001 - the test fails with whatever it is
                failures.append(error)

    def read(database: Database) -> None:
        with database.reading() as session:
            before = session.scalar(select(func.count(AuditEventRow.id)))
            time.sleep(0.01)
            assert session.scalar(select(func.count(AuditEventRow.id))) == before, "a reader saw two states"

    def write(database: Database) -> None:
        with database.writing() as session:
            record(session, "written", "a")
            written.append(jobs.enqueue(session, "deliver", str(len(written))))

    threads = [threading.Thread(target=loop, args=(lambda d=d: read(d),)) for d in databases[1:5]]
    threads += [threading.Thread(target=loop, args=(lambda d=d: write(d),)) for d in databases[5:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert claims
    worker.stop(5)
    with databases[0].reading() as session:
        assert session.scalar(select(func.count(AuditEventRow.id))) == len(written) > 0
    for database in databases:
        database.close()
