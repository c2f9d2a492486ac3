"""Jobs: what callers ask of the engine behind them, and the claim that a handler works under."""

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Claim:
    """One run of one job by one worker.

    Attributes
    ----------
    attempts
        Runs that failed or crashed, plus this one: 1 at the first.
    owner
        The worker process and the dispatch; no two runs of a job have the same, so it fences off the earlier.
    """

    job_id: str
    kind: str
    subject_id: str
    attempts: int
    owner: str


class Jobs(Protocol):
    """The port. Each call takes part in the caller's transaction: with its rows, or not at all."""

    def enqueue(
        self, session: Session, kind: str, subject_id: str, *, not_before_at: dt.datetime | None = None
    ) -> str:
        """Add a job that runs once, not before the given instant; return its id."""

    def finish(self, session: Session, claim: Claim) -> None:
        """Mark the job done. Raises `LostClaimError` if it was taken over; the caller's rows go with it."""

    def postpone(self, session: Session, claim: Claim, until: dt.datetime) -> None:
        """Run the job again from the given instant on; this run is not counted. Raises as `finish`."""

    def hasten(self, session: Session, kind: str, subject_id: str) -> None:
        """Let a job that waits run now; one that runs, or has ended, is left alone."""

    def bury(self, session: Session, claim: Claim, error: str) -> None:
        """Make the job a dead letter. Raises as `finish`."""

    def requeue(self, session: Session, job_id: str) -> None:
        """Let a buried job run again, its attempts forgotten. Raises `DatabaseError` if it is not buried."""
