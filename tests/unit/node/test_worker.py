"""The worker process as a whole: what fails for good is shown, and what libraries quote is not."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom import Dataset
from sqlalchemy import select

from db.jobs_dbos import DbosJobs
from db.tables import AuditEventRow, ExamRow, InstanceRow, JobRow, PredictionRow
from node.house import Node
from node.retry import retry_exam
from node.worker import Worker, on_buried
from tests.unit.node.conftest import ClaimOf, Sender
from tests.unit.node.test_reading import image


def until(condition: Callable[[], bool], within_s: float = 40) -> None:
    """Wait until the condition holds, at most so long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def only_exam(node: Node) -> ExamRow:
    with node.database.reading() as session:
        return session.scalars(select(ExamRow)).one()


def test_what_cannot_be_read_fails_in_sight_and_is_read_once_mended(node: Node) -> None:
    """The whole way of a failure: three attempts, the exam's own words, `retry`, and a result after all."""
    node = replace(node, jobs=DbosJobs(node.database))
    uid, data = image(1)
    row = Sender(node)(uid, content=data, transfer_syntax_uid="1.2.840.10008.1.2.4.50")
    path = node.files.path(row.sha256)
    path.chmod(0o600)
    path.write_bytes(b"no DICOM any more")
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        exam.state = "closed"
        node.jobs.enqueue(session, "read", exam.id)
    with warnings.catch_warnings():
        worker = Worker(node)
        worker.start()
        try:
            until(lambda: only_exam(node).state == "failed")
            exam = only_exam(node)
            assert (exam.error_step, str(exam.error_text).partition(":")[0]) == ("read", "DecodeError")
            with node.database.reading() as session:
                job = session.scalars(select(JobRow).where(JobRow.kind == "read")).one()
            assert (job.state, job.attempts, job.last_error) == ("buried", 3, exam.error_text)
            with node.database.reading() as session:
                told = session.scalars(select(JobRow.subject_id).where(JobRow.kind == "state_failure")).all()
            assert told == [exam.id]
            path.write_bytes(data)
            assert retry_exam(node, exam.id) == "read"
            until(lambda: only_exam(node).state in ("read", "delivering"))
        finally:
            worker.stop(5)
    with node.database.reading() as session:
        assert session.scalars(select(PredictionRow)).one().exam_id == exam.id


def test_pydicoms_warnings_are_not_printed(node: Node) -> None:
    """They go to standard error, which is the log, and quote the header value that they complain of."""
    ds = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="exceeds the maximum length"):
            ds.PatientID = "A" * 100
        Worker(replace(node, jobs=DbosJobs(node.database)))
        ds.PatientID = "A" * 100


def test_a_copy_that_cannot_be_compared_is_set_aside_on_the_record(
    node: Node, send: Sender, claim_of: ClaimOf
) -> None:
    """Whoever asks why an object plays no part finds it in the audit trail."""
    send("1.2.1")
    second = send("1.2.1", content=b"other")
    with node.database.writing() as session:
        on_buried(session, claim_of("compare"), "its worker died")
    with node.database.reading() as session:
        row = session.get_one(InstanceRow, second.id)
        assert (row.disposition, row.disposition_reason) == ("quarantined", "not_comparable")
        event = session.scalars(
            select(AuditEventRow).where(AuditEventRow.event == "instance_quarantined")
        ).one()
    assert (event.subject_id, event.detail["reason"]) == (str(second.id), "not_comparable")
