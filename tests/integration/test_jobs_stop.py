"""A worker that is told to stop: what is under way ends, or is left to others."""

import threading
import time

from sqlalchemy import select

from db.engine import Database
from db.jobs import Claim
from db.jobs_dbos import DbosJobs
from db.tables import LeaseRow
from tests.integration.working import Work, enqueue, finishing, jobs, row, until, work

__all__ = ["jobs", "work"]


def test_stopping_drains(database: Database, jobs: DbosJobs, work: Work) -> None:
    """SIGTERM loses nothing: what runs ends, what waits waits, and the lease is given up at once."""
    entered = threading.Event()

    def handle(claim: Claim) -> None:
        entered.set()
        time.sleep(1.5)
        with database.writing() as session:
            jobs.finish(session, claim)

    worker = work(handle)
    running = enqueue(database, jobs, "read", "running")
    waiting = enqueue(database, jobs, "read", "waiting")
    assert entered.wait(10)
    worker.stop(10)
    assert (row(database, running).state, row(database, waiting).state) == ("done", "queued")
    with database.reading() as session:
        assert session.scalars(select(LeaseRow)).all() == []


def test_what_a_stop_cuts_off_is_left_to_others_uncounted(
    database: Database, jobs: DbosJobs, work: Work
) -> None:
    """Three restarts during one long video must not bury its exam."""
    entered, released = threading.Event(), threading.Event()

    def handle(claim: Claim) -> None:
        entered.set()
        released.wait(20)
        with database.writing() as session:
            jobs.finish(session, claim)

    worker = work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    assert entered.wait(10)
    worker.stop(0)
    assert (row(database, job_id).state, row(database, job_id).attempts) == ("running", 0)

    claims: list[Claim] = []
    work(finishing(database, jobs, claims))
    until(lambda: row(database, job_id).state == "done")
    released.set()  # the one cut off wakes up, and finds its claim gone
    assert [claim.attempts for claim in claims] == [1]
