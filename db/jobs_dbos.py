"""Jobs behind DBOS: DBOS waits and dispatches, our rows decide.

Each dispatch of a job is a DBOS workflow, enqueued in the transaction that writes the job's row. It carries
the job's id and a dispatch number and does one thing: claim that very dispatch and call the handler. Retry,
takeover and postponement are a further dispatch; an earlier one then finds nothing to claim.
"""

import datetime as dt
import logging
import os
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping

import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db.engine import Database, utc_now
from db.errors import DatabaseError, LostClaimError
from db.jobs import Claim
from db.tables import JobRow, LeaseRow

NAME = "endonode"
VERSION = "1"  # pinned: DBOS runs only its own version's jobs, by default a hash of the workflow's source
WORKFLOW = "run_job"  # what changes its arguments takes a new name
QUEUE_OF_KIND = {
    "compare": "exams",
    "close": "exams",
    "read": "read",
    "state_failure": "exams",
    "deliver": "deliver",
    "commit": "deliver",
    "picture": "picture",
    "notify": "deliver",
    "pull": "deliver",
    "perform": "deliver",
}
SLOTS_OF_QUEUE = {"exams": 2, "read": 1, "deliver": 4, "picture": 1}
POLL_S = 0.1
MAX_ATTEMPTS = 3
# kinds that decode: what kills their worker may be the job itself
POISONED = frozenset({"compare", "read", "state_failure", "picture"})
SHORTEST_DELAY, LONGEST_DELAY = dt.timedelta(seconds=2), dt.timedelta(minutes=10)
LONGEST_OUTAGE = dt.timedelta(days=1)
KEEP = dt.timedelta(days=1)
JSON = DBOSPortableJSONSerializer()  # the default is pickle
UNFINISHED = ["ENQUEUED", "DELAYED", "PENDING"]

log = structlog.get_logger()


class DbosJobs:
    """The client side: what receivers, commands and handlers use. Starts no thread and no connection."""

    def __init__(self, database: Database) -> None:
        logging.getLogger("dbos").disabled = True  # it writes to the console
        engine = database.dbos_engine
        self.client = DBOSClient(system_database_engine=engine, serializer=JSON, application_name=NAME)

    def enqueue(
        self, session: Session, kind: str, subject_id: str, *, not_before_at: dt.datetime | None = None
    ) -> str:
        """See `db.jobs.Jobs`."""
        now = utc_now()
        job = JobRow(id=str(uuid.uuid4()), kind=kind, subject_id=subject_id, dispatch=0, created_at=now)
        session.add(job)
        self.dispatch(session, job, not_before_at or now)
        return job.id

    def finish(self, session: Session, claim: Claim) -> None:
        """See `db.jobs.Jobs`."""
        job = _held(session, claim)
        job.state, job.owner, job.finished_at = "done", None, utc_now()

    def postpone(self, session: Session, claim: Claim, until: dt.datetime) -> None:
        """See `db.jobs.Jobs`."""
        job = _held(session, claim)
        job.attempts, job.outage_since = 0, None
        self.dispatch(session, job, until)

    def hasten(self, session: Session, kind: str, subject_id: str) -> None:
        """See `db.jobs.Jobs`."""
        waits = JobRow.kind == kind, JobRow.subject_id == subject_id, JobRow.state == "queued"
        for job in session.scalars(select(JobRow).where(*waits).with_for_update()):
            self.dispatch(session, job, utc_now())

    def bury(self, session: Session, claim: Claim, error: str) -> None:
        """See `db.jobs.Jobs`."""
        job = _held(session, claim)
        job.state, job.owner, job.last_error, job.finished_at = "buried", None, error, utc_now()

    def requeue(self, session: Session, job_id: str) -> None:
        """See `db.jobs.Jobs`."""
        job = session.get(JobRow, job_id, with_for_update=True)
        if job is None or job.state != "buried":
            raise DatabaseError(f"job {job_id} is not buried; it was {job.state if job else 'not found'}")
        job.attempts, job.outage_since, job.finished_at = 0, None, None
        self.dispatch(session, job, utc_now())

    def dispatch(self, session: Session, job: JobRow, not_before_at: dt.datetime) -> None:
        """Queue the job's next dispatch in the session's own transaction; an earlier one is void."""
        job.state, job.owner, job.not_before_at = "queued", None, not_before_at
        job.dispatch += 1
        options = EnqueueOptions(
            workflow_name=WORKFLOW,
            queue_name=QUEUE_OF_KIND[job.kind],
            workflow_id=f"{job.id}.{job.dispatch}",
            app_version=VERSION,
        )
        if not_before_at > (now := utc_now()):
            options["delay_seconds"] = (not_before_at - now).total_seconds()
        self.client.enqueue_in_transaction(session, options, job.id, job.dispatch)


class JobWorker:
    """One worker process: claims jobs, runs their handlers, takes over what dead workers held.

    A handler settles its claim (finish, postpone, bury) in one transaction with its results. Where it raises,
    the job is tried again after 2, then 4 seconds, then buried; where its process dies, the same at once,
    uncounted if jobs of its kind decode nothing. `on_buried` takes part in such a burial's transaction, but
    not where a handler buries its job itself.

    Parameters
    ----------
    transient
        Errors that stand for an outage: the job is tried again for a day, ever more rarely.
    quotable
        Errors whose messages hold nothing of what was read. Of all others only the type is kept.
    """

    def __init__(
        self,
        database: Database,
        jobs: DbosJobs,
        handlers: Mapping[str, Callable[[Claim], None]],
        *,
        on_buried: Callable[[Session, Claim, str], None],
        transient: tuple[type[Exception], ...] = (),
        quotable: tuple[type[Exception], ...] = (),
        lease_ttl_s: float = 30.0,
        beat_s: float = 5.0,
    ) -> None:
        self.owner = f"{socket.gethostname()[:28]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._database, self._jobs, self._handlers, self._on_buried = database, jobs, handlers, on_buried
        self._transient, self._quotable = transient, quotable
        self._ttl, self._beat_s = dt.timedelta(seconds=lease_ttl_s), beat_s
        self._active: set[str] = set()  # workflow ids that this process is running
        self._unstarted: set[str] = set()  # those it had taken, but not begun to run, when it last looked
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="job-lease", daemon=True)

    def start(self) -> None:
        """Take a lease, then start to claim jobs."""
        self._beat()  # first: what is claimed without a lease would be taken over at once
        for queue, slots in SLOTS_OF_QUEUE.items():
            self._jobs.client.register_queue(queue, worker_concurrency=slots, polling_interval_sec=POLL_S)
        config = DBOSConfig(
            name=NAME,
            application_version=VERSION,
            executor_id=self.owner,  # the default is the same everywhere, and with it whose work is whose
            system_database_engine=self._database.dbos_engine,
            serializer=JSON,
            max_executor_threads=2 * sum(SLOTS_OF_QUEUE.values()),
        )
        DBOS(config=config)

        @DBOS.workflow(name=WORKFLOW)
        def run_job(job_id: str, dispatch: int) -> None:
            self._run(job_id, dispatch)

        DBOS.launch()
        self._recover()
        self._watcher.start()

    def stop(self, timeout_s: float) -> None:
        """Claim no more, wait for running handlers, then leave the rest to others, its attempts uncounted."""
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=int(timeout_s) + 1)
        self._stopped.set()
        if self._watcher.is_alive():  # it is not where `start` failed
            self._watcher.join()
        is_ours = JobRow.owner.startswith(f"{self.owner}.", autoescape=True)  # and so still running
        with self._database.writing() as session:
            session.execute(update(JobRow).where(is_ours).values(attempts=JobRow.attempts - 1))
            session.execute(delete(LeaseRow).where(LeaseRow.owner == self.owner))

    def _run(self, job_id: str, dispatch: int) -> None:
        self._active.add(f"{job_id}.{dispatch}")
        try:
            if (claim := self._claim(job_id, dispatch)) is not None:
                self._attempt(claim)
        finally:
            self._active.discard(f"{job_id}.{dispatch}")

    def _claim(self, job_id: str, dispatch: int) -> Claim | None:
        with self._database.writing() as session:
            job = session.get(JobRow, job_id, with_for_update=True)
            if job is None or job.state != "queued" or job.dispatch != dispatch:
                return None
            job.state, job.owner, job.attempts = "running", f"{self.owner}.{dispatch}", job.attempts + 1
            return Claim(job.id, job.kind, job.subject_id, job.attempts, job.owner)

    def _attempt(self, claim: Claim) -> None:
        try:
            self._handlers[claim.kind](claim)
        except LostClaimError:
            log.warning("job_lost", job_id=claim.job_id, owner=claim.owner)
        except Exception as error:  # noqa: BLE001 - the outermost loop round every handler
            at = str(traceback.extract_tb(error.__traceback__)[-1])  # no message: it may quote what was read
            log.warning("job_raised", job_id=claim.job_id, kind=claim.kind, error=type(error).__name__, at=at)
            self._settle(claim, error)

    def _settle(self, claim: Claim, error: Exception) -> None:
        """Store a failure, though the database itself may be out: a job left open would count it."""
        text = type(error).__name__
        text += f": {error}" if isinstance(error, self._quotable) else "; the log of that time says where"
        while True:
            try:
                if isinstance(error, self._transient):
                    self._put_off(claim, text)
                else:
                    self._fail(claim, text, 2.0**claim.attempts)
            except LostClaimError:
                log.warning("job_lost", job_id=claim.job_id, owner=claim.owner)
            except self._transient:
                if not self._stopped.wait(self._beat_s):
                    continue
            return

    def _fail(self, claim: Claim, error: str, retry_in_s: float) -> None:
        with self._database.writing() as session:
            job = _held(session, claim)
            if claim.attempts < MAX_ATTEMPTS:
                job.last_error, job.outage_since = error, None
                self._jobs.dispatch(session, job, utc_now() + dt.timedelta(seconds=retry_in_s))
            else:
                self._bury(session, claim, error)
        log.warning("job_failed", job_id=claim.job_id, state=job.state, attempts=claim.attempts)

    def _put_off(self, claim: Claim, error: str) -> None:
        """Try again after as long as the outage has lasted; that is no attempt of the job's own."""
        with self._database.writing() as session:
            job, now = _held(session, claim), utc_now()
            job.outage_since = job.outage_since or now
            lasted = now - job.outage_since
            if lasted < LONGEST_OUTAGE:
                job.last_error, job.attempts = error, job.attempts - 1
                self._jobs.dispatch(session, job, now + min(max(lasted, SHORTEST_DELAY), LONGEST_DELAY))
            else:
                self._bury(session, claim, error)
        log.warning("job_put_off", job_id=claim.job_id, state=job.state, lasted_s=lasted.total_seconds())

    def _bury(self, session: Session, claim: Claim, error: str) -> None:
        self._jobs.bury(session, claim, error)
        self._on_buried(session, claim, error)

    def _take_over(self, claim: Claim) -> None:
        with self._database.writing() as session:
            job = _held(session, claim)
            job.attempts -= 1
            self._jobs.dispatch(session, job, utc_now())
        log.warning("job_taken_over", job_id=claim.job_id, kind=claim.kind)

    def _watch(self) -> None:
        while not self._stopped.wait(self._beat_s):
            _guarded(self._beat)
            _guarded(self._recover)

    def _beat(self) -> None:
        with self._database.writing() as session:
            now = self._database.now(session)
            session.merge(LeaseRow(owner=self.owner, expires_at=now + self._ttl))
            session.execute(delete(LeaseRow).where(LeaseRow.expires_at < now - KEEP))

    def _recover(self) -> None:
        """Act for each job that no live workflow stands for, then delete yesterday's workflows.

        A running one has crashed, which counts as an attempt where it may itself be why, or was left open by
        its handler, which always does; a queued one was lost on the way to its claim.
        """
        with self._database.reading() as session:
            unsettled = session.scalars(select(JobRow).where(JobRow.state.in_(["queued", "running"])))
            lost = {f"{job.id}.{job.dispatch}": job for job in unsettled}
            # read last, for a lease precedes its claims
            is_live = LeaseRow.expires_at > self._database.now(session)
            others = {*session.scalars(select(LeaseRow.owner).where(is_live))} - {self.owner}
        live, unstarted = set(), set()
        client = self._jobs.client
        for flow in client.list_workflows(status=UNFINISHED, load_input=False, load_output=False):
            if (
                flow.status == "PENDING"
                and flow.executor_id not in others
                and flow.workflow_id not in self._active
            ):
                if flow.executor_id == self.owner:
                    unstarted.add(flow.workflow_id)
                if flow.workflow_id not in unstarted - self._unstarted:
                    continue
            live.add(flow.workflow_id)
            lost.pop(flow.workflow_id, None)
        self._unstarted = unstarted
        for seen in lost.values():
            if seen.state == "running":
                claim = Claim(seen.id, seen.kind, seen.subject_id, seen.attempts, seen.owner or "")
                if claim.owner.rpartition(".")[0] in {self.owner, *others}:
                    _guarded(self._fail, claim, "its handler left it open", 0)
                elif claim.kind in POISONED:
                    _guarded(self._fail, claim, "its worker died", 0)
                else:
                    _guarded(self._take_over, claim)
                continue
            with self._database.writing() as session:
                job = session.get_one(JobRow, seen.id, with_for_update=True)
                if job.state == "queued" and job.dispatch == seen.dispatch:
                    self._jobs.dispatch(session, job, job.not_before_at)
                    log.warning("job_dispatched_again", job_id=job.id, kind=job.kind)
        until = (utc_now() - KEEP).isoformat()
        old = client.list_workflows(end_time=until, limit=1000, load_input=False, load_output=False)
        client.delete_workflows([flow.workflow_id for flow in old if flow.workflow_id not in live])


def _held(session: Session, claim: Claim) -> JobRow:
    job = session.get(JobRow, claim.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state != "running" or job.owner != claim.owner:
        raise LostClaimError(f"job {claim.job_id} is no longer run by {claim.owner}; it was taken over")
    return job


def _guarded(duty: Callable[..., None], *args: object) -> None:
    try:
        duty(*args)
    except LostClaimError:
        pass  # settled while we looked
    except Exception as error:  # noqa: BLE001 - the outermost loop of the lease: it must beat on
        log.warning("job_duty_failed", error=type(error).__name__)
