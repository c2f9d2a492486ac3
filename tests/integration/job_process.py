"""A worker process for the tests to kill: what a handler does with a job is told by the job's subject.

`quick`, `slow:SECONDS` and `poison` (kills the process). Each run leaves an audit event `started`, each that
is finished one `ran` in the same transaction as its `finish`, each burial one `buried`.
"""

import os
import signal
import sys
import threading
import time

from sqlalchemy.orm import Session

from db.audit import record
from db.engine import open_database
from db.jobs import Claim
from db.jobs_dbos import DbosJobs, JobWorker


def main(url: str, lease_ttl_s: str, beat_s: str) -> None:
    """Work until SIGTERM, after a line `ready as OWNER` on standard output."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    database = open_database(url)
    jobs = DbosJobs(database)

    def handle(claim: Claim) -> None:
        with database.writing() as session:
            record(session, "started", claim.subject_id, owner=claim.owner, attempts=claim.attempts)
        verb, _, argument = claim.subject_id.partition(":")
        if verb == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "slow":
            time.sleep(float(argument.partition("#")[0]))
        with database.writing() as session:
            record(session, "ran", claim.subject_id, owner=claim.owner, attempts=claim.attempts)
            jobs.finish(session, claim)

    def on_buried(session: Session, claim: Claim, error: str) -> None:
        record(session, "buried", claim.subject_id, error=error)

    handlers = dict.fromkeys(("compare", "close", "read", "deliver"), handle)
    worker = JobWorker(
        database, jobs, handlers, on_buried=on_buried, lease_ttl_s=float(lease_ttl_s), beat_s=float(beat_s)
    )
    worker.start()
    print(f"ready as {worker.owner}", flush=True)  # noqa: T201 - what the test waits for
    stop.wait()
    worker.stop(5)
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
