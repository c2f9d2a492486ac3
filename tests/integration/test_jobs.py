"""Jobs in one process: when they run, how often, and what their transactions hold."""

import datetime as dt
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import Database, utc_now
from db.errors import DatabaseError, LostClaimError
from db.jobs import Claim
from db.jobs_dbos import DbosJobs, JobWorker
from db.tables import AuditEventRow, JobRow
from tests.integration.working import Work, enqueue, finishing, jobs, row, until, work

__all__ = ["jobs", "work"]


def test_a_job_is_rolled_back_with_its_rows(database: Database, jobs: DbosJobs, work: Work) -> None:
    """A job for rows that are not there fails; rows without their job are never read."""
    claims: list[Claim] = []

    def write_both(*, fails: bool) -> None:
        with database.writing() as session:
            record(session, "exam_closed", "a")
            jobs.enqueue(session, "read", f"fails={fails}")
            if fails:
                raise RuntimeError("after the enqueue")

    with pytest.raises(RuntimeError):
        write_both(fails=True)
    write_both(fails=False)
    work(finishing(database, jobs, claims))
    until(lambda: len(claims) == 1)
    with database.reading() as session:
        assert session.scalars(select(JobRow.subject_id)).all() == ["fails=False"]
        assert session.scalar(select(func.count(AuditEventRow.id))) == 1
    flows = jobs.client.list_workflows()
    assert [flow.workflow_id for flow in flows] == [f"{claims[0].job_id}.1"]


def test_a_delayed_job_runs_when_due_and_not_before(database: Database, jobs: DbosJobs, work: Work) -> None:
    """Early, an exam is read without its last images; late, the answer is."""
    ran_at: list[dt.datetime] = []

    def handle(claim: Claim) -> None:
        ran_at.append(utc_now())
        with database.writing() as session:
            jobs.finish(session, claim)

    work(handle)
    job_id = enqueue(database, jobs, "close", "a", in_s=2)
    due_at = row(database, job_id).not_before_at
    until(lambda: row(database, job_id).state == "done")
    assert due_at <= ran_at[0] < due_at + dt.timedelta(seconds=3)


def test_a_job_that_waits_can_be_hastened(database: Database, jobs: DbosJobs, work: Work) -> None:
    """It waits for a report, an hour at most; the report is acted on when it comes, and once."""
    claims: list[Claim] = []
    work(finishing(database, jobs, claims))
    waiting = enqueue(database, jobs, "close", "a", in_s=3)
    other = enqueue(database, jobs, "close", "b", in_s=60)
    with database.writing() as session:
        jobs.hasten(session, "close", "a")
        jobs.hasten(session, "close", "nobody")
    until(lambda: row(database, waiting).state == "done", 2.5)
    with database.writing() as session:
        jobs.hasten(session, "close", "a")
    time.sleep(3)
    assert [claim.subject_id for claim in claims] == ["a"]
    assert (row(database, waiting).state, row(database, other).state) == ("done", "queued")


def test_a_postponed_job_runs_again_later_and_counts_no_attempt(
    database: Database, jobs: DbosJobs, work: Work
) -> None:
    """Every exam's `close` postpones itself as images arrive: counted, the fourth image would bury it."""
    claims: list[Claim] = []
    due_at: list[dt.datetime] = []
    early: list[dt.timedelta] = []

    def handle(claim: Claim) -> None:
        claims.append(claim)
        early.extend(due - utc_now() for due in due_at[-1:] if due > utc_now())
        due_at.append(utc_now() + dt.timedelta(seconds=0.5))
        with database.writing() as session:
            if len(claims) <= 4:
                jobs.postpone(session, claim, due_at[-1])
            else:
                jobs.finish(session, claim)

    work(handle)
    job_id = enqueue(database, jobs, "close", "a")
    until(lambda: row(database, job_id).state == "done", 20)
    assert [claim.attempts for claim in claims] == [1] * 5
    assert len({claim.owner for claim in claims}) == 5
    assert early == []


def test_what_fails_is_tried_thrice_then_buried_and_may_be_requeued(
    database: Database, jobs: DbosJobs, work: Work
) -> None:
    """What never succeeds must end where a person sees it, with its exam, and be revivable by `retry`."""
    runs: list[tuple[int, dt.datetime]] = []
    is_mended = threading.Event()

    def handle(claim: Claim) -> None:
        runs.append((claim.attempts, utc_now()))
        if not is_mended.is_set():
            raise RuntimeError("on purpose")
        with database.writing() as session:
            jobs.finish(session, claim)

    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: row(database, job_id).state == "buried", 25)
    assert [attempts for attempts, _ in runs] == [1, 2, 3]
    gaps = [(later - sooner).total_seconds() for (_, sooner), (_, later) in itertools.pairwise(runs)]
    assert gaps[0] >= 2
    assert gaps[1] >= 4
    assert row(database, job_id).last_error == "RuntimeError: on purpose"
    with database.reading() as session:
        buried = session.scalars(select(AuditEventRow)).one()
    assert (buried.event, buried.subject_id, buried.detail["error"]) == (
        "buried",
        "a",
        "RuntimeError: on purpose",
    )

    is_mended.set()
    with database.writing() as session:
        jobs.requeue(session, job_id)
    until(lambda: row(database, job_id).state == "done")
    assert [attempts for attempts, _ in runs] == [1, 2, 3, 1]
    with pytest.raises(DatabaseError, match="not buried; it was done"), database.writing() as session:
        jobs.requeue(session, job_id)


def test_an_outage_buries_nothing(
    database: Database, jobs: DbosJobs, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is away for a minute must not make dead letters of a whole day's exams."""
    monkeypatch.setattr("db.jobs_dbos.SHORTEST_DELAY", dt.timedelta(seconds=0.05))
    monkeypatch.setattr("db.jobs_dbos.LONGEST_DELAY", dt.timedelta(seconds=0.1))
    claims: list[Claim] = []

    def handle(claim: Claim) -> None:
        claims.append(claim)
        if len(claims) <= 5:
            raise OSError(5, "Input/output error", "/store/of/somebody")
        with database.writing() as session:
            jobs.finish(session, claim)

    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: row(database, job_id).state == "done", 20)
    assert [claim.attempts for claim in claims] == [1] * 6
    assert row(database, job_id).last_error == "OSError; the log of that time says where"


def test_an_outage_ends_in_a_dead_letter_in_the_end(
    database: Database, jobs: DbosJobs, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that never comes back must not be asked for until the disk dies."""
    monkeypatch.setattr("db.jobs_dbos.SHORTEST_DELAY", dt.timedelta(seconds=0.1))
    monkeypatch.setattr("db.jobs_dbos.LONGEST_OUTAGE", dt.timedelta(seconds=0.3))

    def handle(claim: Claim) -> None:
        raise FileNotFoundError(claim.subject_id)

    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: row(database, job_id).state == "buried")
    with database.reading() as session:
        assert [event.event for event in session.scalars(select(AuditEventRow))] == ["buried"]


def test_a_failure_is_stored_though_the_database_is_what_is_out(
    database: Database, jobs: DbosJobs, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither result nor failure can be stored, the job must not stay `running` or be counted."""
    claims: list[Claim] = []
    refused: list[int] = []
    writing = database.writing

    def away() -> AbstractContextManager[Session]:
        if refused and refused[-1] == threading.get_ident():
            refused.pop()
            raise OperationalError("", {}, OSError("server closed the connection"))
        return writing()

    def handle(claim: Claim) -> None:
        claims.append(claim)
        if len(claims) == 1:
            refused.extend([threading.get_ident()] * 2)  # the result, then the failure to store it
        with database.writing() as session:
            jobs.finish(session, claim)

    monkeypatch.setattr(database, "writing", away)
    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: row(database, job_id).state == "done", 20)
    assert [claim.attempts for claim in claims] == [1, 1]
    assert refused == []


def test_a_handler_that_buries_its_job_does_so_alone(database: Database, jobs: DbosJobs, work: Work) -> None:
    """A delivery past its deadline knows itself what to write of it."""

    def handle(claim: Claim) -> None:
        with database.writing() as session:
            jobs.bury(session, claim, "deadline passed")

    work(handle)
    job_id = enqueue(database, jobs, "deliver", "a")
    until(lambda: row(database, job_id).state == "buried")
    assert (row(database, job_id).last_error, row(database, job_id).attempts) == ("deadline passed", 1)
    with database.reading() as session:
        assert session.scalars(select(AuditEventRow)).all() == []


@pytest.mark.parametrize("leaves", [lambda: None, lambda: sys.exit(1)])
def test_a_handler_that_leaves_its_claim_open_is_run_again(
    database: Database, jobs: DbosJobs, work: Work, leaves: Callable[[], None]
) -> None:
    """Its database may fail just as it settles: the job must not stay `running` while the process lives."""
    claims: list[Claim] = []

    def handle(claim: Claim) -> None:
        claims.append(claim)
        if claim.attempts == 1:
            leaves()
            return
        with database.writing() as session:
            jobs.finish(session, claim)

    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: row(database, job_id).state == "done")
    assert [claim.attempts for claim in claims] == [1, 2]


def test_a_claim_settles_once(database: Database, jobs: DbosJobs, work: Work) -> None:
    """Whoever comes second rolls back its results with the refusal."""
    refused: list[str] = []

    def handle(claim: Claim) -> None:
        with database.writing() as session:
            jobs.finish(session, claim)
        again: list[Callable[[Session], None]] = [
            lambda session: jobs.finish(session, claim),
            lambda session: jobs.postpone(session, claim, utc_now()),
            lambda session: jobs.bury(session, claim, "no"),
        ]
        for settle in again:
            try:
                with database.writing() as session:
                    record(session, "result_stored", "a")
                    settle(session)
            except LostClaimError as error:
                refused.append(str(error))

    work(handle)
    job_id = enqueue(database, jobs, "read", "a")
    until(lambda: len(refused) == 3)
    assert row(database, job_id).state == "done"
    with database.reading() as session:
        assert session.scalars(select(AuditEventRow)).all() == []


def test_a_job_whose_workflow_is_gone_is_dispatched_again(
    database: Database, jobs: DbosJobs, work: Work
) -> None:
    """DBOS's tables may be restored from an older backup, or lose a row in a crash; ours are the truth."""
    claims: list[Claim] = []
    lost = enqueue(database, jobs, "read", "lost")
    later = enqueue(database, jobs, "close", "later", in_s=3600)
    jobs.client.delete_workflows([f"{lost}.1", f"{later}.1"])
    work(finishing(database, jobs, claims))
    until(lambda: row(database, lost).state == "done")
    assert (claims[0].subject_id, claims[0].attempts) == ("lost", 1)
    until(lambda: row(database, later).dispatch == 2)
    (flow,) = jobs.client.list_workflows(workflow_ids=[f"{later}.2"])
    assert flow.status == "DELAYED"
    time.sleep(0.6)  # two more looks: what stands there is not dispatched a third time
    assert row(database, later).dispatch == 2


def test_the_engine_is_told_an_id_and_a_number_in_json(database: Database, jobs: DbosJobs) -> None:
    """Pickle, its default, would run what a row says and break with each version of Python."""
    job_id = enqueue(database, jobs, "read", "exam-1")
    table = "dbos.workflow_input" if database.dialect == "postgresql" else "workflow_input"
    with database.reading() as session:
        stored = session.scalar(text(f"SELECT inputs FROM {table}"))  # noqa: S608 - one of two names
    assert json.loads(str(stored)) == {"positionalArgs": [job_id, 1], "namedArgs": {}}


def test_a_dispatch_too_many_finds_nothing_to_claim(database: Database, jobs: DbosJobs, work: Work) -> None:
    """Two processes that reconcile at once may both dispatch; the job still runs once."""
    claims: list[Claim] = []
    job_id = enqueue(database, jobs, "read", "a")
    with database.writing() as session:
        jobs.dispatch(session, session.get_one(JobRow, job_id), utc_now())
    work(finishing(database, jobs, claims))

    def all_ended() -> bool:
        return [flow.status for flow in jobs.client.list_workflows()] == ["SUCCESS", "SUCCESS"]

    until(all_ended)
    assert [claim.job_id for claim in claims] == [job_id]


def test_a_job_about_to_run_is_not_dispatched_again(database: Database, jobs: DbosJobs) -> None:
    """The engine marks a job as taken a moment before it runs; only one that stays so is lost."""
    job_id = enqueue(database, jobs, "read", "a")
    worker = JobWorker(database, jobs, {}, on_buried=lambda *_: None)
    table = "dbos.workflow_status" if database.dialect == "postgresql" else "workflow_status"
    with database.writing() as session:
        taken = text(f"UPDATE {table} SET status = 'PENDING', executor_id = :owner")  # noqa: S608 - as above
        session.execute(taken, {"owner": worker.owner})
    worker._recover()
    assert row(database, job_id).dispatch == 1
    worker._recover()
    assert row(database, job_id).dispatch == 2


def test_old_workflows_are_deleted_and_what_waits_is_not(
    database: Database, jobs: DbosJobs, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each postponement leaves a workflow: without a purge the tables of a busy node grow for ever."""
    monkeypatch.setattr("db.jobs_dbos.KEEP", dt.timedelta(seconds=0))
    claims: list[Claim] = []
    later = enqueue(database, jobs, "close", "later", in_s=3600)
    done = enqueue(database, jobs, "read", "done")
    work(finishing(database, jobs, claims))
    until(lambda: row(database, done).state == "done")
    until(lambda: [flow.workflow_id for flow in jobs.client.list_workflows()] == [f"{later}.1"])
