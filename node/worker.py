"""The worker: it compares, closes, reads and delivers, and purges what is due."""

import threading
import warnings

import cv2
import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.audit import record
from db.errors import DatabaseError
from db.jobs import Claim
from db.jobs_dbos import DbosJobs, JobWorker
from db.tables import DeliveryRow, ExamRow, InstanceRow
from models.errors import ModelError
from models.package import load_package
from node import workitem_steps
from node.closing import close_exam
from node.commitment import commit
from node.delivery import deliver
from node.duplicates import compare_copies
from node.errors import NodeError, StorageError
from node.failing import state_failure
from node.frames import FrameReader
from node.house import Node
from node.pictures import make_pictures
from node.purge import purge_delivered
from node.reading import read_exam
from node.records import fail_exam
from node.results.iod import required_attributes
from node.workitem_steps import notify, perform, pull, start_pulling
from node.workitems import follow
from pipeline.clean.recipe import load_recipe
from pipeline.errors import PipelineError

log = structlog.get_logger()

PURGE_EVERY_S = 3600

OURS = (NodeError, DatabaseError, PipelineError, ModelError)
"""Errors whose messages hold no patient data, by the rule of their packages."""

OUTAGES = (StorageError, OSError, OperationalError)
"""Errors of a disk, a mount or a database that will be back."""


class Worker:
    """All job handlers of one process behind one engine."""

    def __init__(self, node: Node) -> None:
        cv2.setNumThreads(1)
        warnings.filterwarnings("ignore", module=r"pydicom\b")  # they quote header values, names and all
        self._node = node
        required_attributes()  # now, while nothing else takes memory: what is read is kept
        recipe = load_recipe(node.settings.recipe)
        package = load_package(node.settings.model_dir, recipe)
        self._reader = FrameReader(package, recipe, node.settings)
        self._stopping = threading.Event()
        self._purger = threading.Thread(target=self._purge, name="purger", daemon=True)
        if not isinstance(node.jobs, DbosJobs):
            raise TypeError(f"a worker runs on DbosJobs, {type(node.jobs).__name__} was found")
        self._jobs = JobWorker(
            node.database,
            node.jobs,
            {
                "compare": lambda claim: compare_copies(node, claim),
                "close": lambda claim: close_exam(node, claim),
                "read": lambda claim: read_exam(node, self._reader, claim),
                "state_failure": lambda claim: state_failure(node, self._reader, claim),
                "deliver": lambda claim: deliver(node, claim),
                "commit": lambda claim: commit(node, claim),
                "picture": lambda claim: make_pictures(node, self._reader, claim),
                "notify": lambda claim: notify(node, claim),
                "pull": lambda claim: pull(node, claim),
                "perform": lambda claim: perform(node, claim),
            },
            on_buried=self._on_buried,
            transient=OUTAGES,
            quotable=OURS,
        )

    def start(self) -> None:
        """Begin to take jobs."""
        start_pulling(self._node)
        self._jobs.start()
        self._purger.start()

    def stop(self, timeout_s: float) -> None:
        """Take no more jobs; those under way end, or are another worker's when the lease has run out."""
        self._stopping.set()
        self._jobs.stop(timeout_s)
        self._reader.close()

    def _on_buried(self, session: Session, claim: Claim, error_text: str) -> None:
        exam_id = on_buried(session, claim, error_text)
        workitem_steps.on_buried(session, self._node, claim, error_text)
        if exam_id is not None:
            follow(session, self._node, session.get_one(ExamRow, exam_id))
        if claim.kind == "read":  # whoever waits for a result is told that there is none
            self._node.jobs.enqueue(session, "state_failure", claim.subject_id)

    def _purge(self) -> None:
        while True:
            try:
                purge_delivered(self._node)
            except Exception as error:  # noqa: BLE001 - outermost loop: the next hour tries again
                log.error("purge_failed", error=type(error).__name__)  # noqa: TRY400 - a traceback may hold names
            if self._stopping.wait(PURGE_EVERY_S):
                return


def on_buried(session: Session, claim: Claim, error_text: str) -> str | None:
    """Show a dead letter where people look: at its exam, which is returned, its delivery or its instance."""
    if claim.kind in ("close", "read"):
        fail_exam(session, claim.subject_id, claim.kind, error_text)
        return claim.subject_id
    if claim.kind in ("deliver", "commit"):
        delivery = session.get_one(DeliveryRow, int(claim.subject_id))
        delivery.state, delivery.last_error = "failed", error_text
        fail_exam(session, delivery.exam_id, "deliver", error_text)
        return delivery.exam_id
    if claim.kind == "compare":
        instance = session.get_one(InstanceRow, int(claim.subject_id))
        if instance.disposition == "pending":
            instance.disposition, instance.disposition_reason = "quarantined", "not_comparable"
            record(session, "instance_quarantined", str(instance.id), reason="not_comparable")
    return None
