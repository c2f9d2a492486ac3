"""kill -9 at random moments: nothing answered with success is lost, nothing is answered twice."""

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE
from sqlalchemy import func, select

from db.engine import Database, open_database
from db.tables import ExamRow, InstanceRow, JobRow, PredictionRow, ResultObjectRow
from node.files import FileStore
from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import NodeProcess, Orthanc, wait_for

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.data,
    pytest.mark.timeout(900),
    # the sender here is stock pynetdicom, which leaves its socket open where nobody listens
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEED = 20260101
META_LENGTH_END = 144
"""Preamble, prefix and the element that holds the meta group's length (PS3.10 7.1)."""


@pytest.fixture(autouse=True)
def _sender_leaks_here() -> Iterator[None]:
    """Collect what the stock sender left open now, while it is known whose it is, not in a later test."""
    yield
    gc.collect()


class Sender:
    """A PACS that does not give up: sends each file until it is answered 0x0000, and notes which were."""

    def __init__(self, port: int, paths: list[Path], *, seconds: float) -> None:
        self.port, self.paths = port, paths
        self.pause_s = seconds / len(paths)
        self.answered: set[str] = set()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        ae = AE(ae_title="PACS")
        waiting = [dcmread(path) for path in self.paths]
        for ds in waiting:
            ae.add_requested_context(ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.TransferSyntaxUID)
            break
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 5
        until = time.monotonic() + 300
        while waiting and time.monotonic() < until:
            assoc = ae.associate("127.0.0.1", self.port, ae_title="ENDONODE")
            while waiting and assoc.is_established:
                try:
                    status = assoc.send_c_store(waiting[0])
                except (RuntimeError, ValueError, AttributeError):
                    break
                if status and status.Status == 0x0000:
                    self.answered.add(str(waiting.pop(0).SOPInstanceUID))
                    time.sleep(self.pause_s)
                else:
                    break
            if assoc.is_established:
                assoc.release()
            time.sleep(0.2)


def _check(node: NodeProcess, orthanc: Orthanc, answered: set[str], studies: list[str]) -> None:
    """Hold every promise against what the database, the file store and the archive hold."""
    exams = node.exams()
    newest = {exam["study_uid"]: exam for exam in exams if exam["superseded_by"] is None}
    assert set(newest) == set(studies)
    assert sum(exam["counts"]["received"] for exam in newest.values()) == len(answered)
    assert not [exam for exam in exams if exam["error"]]
    held = orthanc.instances()
    database = open_database(node.database_url)
    files = FileStore(node.folder / "store", min_free_bytes=0)
    try:
        with database.reading() as session:
            in_force = session.execute(
                select(InstanceRow.sop_instance_uid, InstanceRow.sha256).where(
                    InstanceRow.disposition == "accepted"
                )
            ).all()
            assert {uid for uid, _ in in_force} == answered
            assert all(files.path(sha256).is_file() for _, sha256 in in_force)
            for exam_id in session.scalars(select(ExamRow.id).where(ExamRow.superseded_by.is_(None))):
                of_exam = PredictionRow.exam_id == exam_id
                assert session.scalar(select(func.count()).select_from(PredictionRow).where(of_exam)) == 1
            emitted = session.scalars(select(ResultObjectRow)).all()
            results = {row.sop_instance_uid: row.sha256 for row in emitted}
            kinds = [(row.exam_id, row.kind) for row in emitted]
            assert len(kinds) == len(set(kinds)), "one result set a revision"
            sets = session.scalar(select(func.count()).select_from(PredictionRow))
            assert sum(kind == "sr" for _, kind in kinds) == sets
    finally:
        database.close()
    for exam in newest.values():
        assert set(exam["result_uids"]) <= set(held), "a delivered result is not in the archive"
    assert set(held) <= set(results), "the archive holds a result that the node does not know"
    for uid, instance in held.items():
        with files.open(results[uid]) as stored:
            assert _dataset_of(stored.read()) == _dataset_of(orthanc.file(instance["id"])), uid


def _dataset_of(data: bytes) -> bytes:
    """Return a Part 10 file's encoded dataset: what follows the meta group, which each store writes anew."""
    return data[META_LENGTH_END + int.from_bytes(data[META_LENGTH_END - 4 : META_LENGTH_END], "little") :]


def test_the_whole_node_killed_at_random(
    start_pair: Callable[..., Pair],
    studies: Studies,
    database_url: str,
    full: bool,  # noqa: FBT001
) -> None:
    """The crash-point matrix in one: whatever it was doing, a node that comes back has lost nothing."""
    kills = 10 if full else 3
    node, orthanc = start_pair(quiet_time_s=2, late_quiet_time_s=2, database_url=database_url)
    names = [f"1.2.826.0.3.{n}" for n in range(3)]
    uc, normal = studies.of("uc", 2), studies.of("normal", 1)
    paths = [
        path
        for number, (name, patient) in enumerate(zip(names, [*uc, *normal], strict=True))
        for path in studies.write(name, [patient], patient_id=f"P{number}")
    ]
    chance = random.Random(SEED)
    chance.shuffle(paths)
    sender = Sender(node.port, paths, seconds=kills * 1.5)
    node.start()
    sender.thread.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.3, 4.0))
        node.kill()
        node.start()
    sender.thread.join(300)
    assert len(sender.answered) == len(paths)
    node.wait_delivered(names, 180)
    _check(node, orthanc, sender.answered, names)


def _settled(database: Database, job_id: str) -> JobRow | None:
    """Return a job once it is neither queued nor running."""
    with database.reading() as session:
        job = session.get_one(JobRow, job_id)
    return None if job.state in ("queued", "running") else job


def _reading(database: Database) -> tuple[str, int] | None:
    """Return a running reading and the pid of the process that runs it, which its claim is signed with."""
    running = select(JobRow).where(JobRow.kind == "read", JobRow.state == "running")
    with database.reading() as session:
        job = session.scalars(running).first()
        return (job.id, int(str(job.owner).split("-")[-2])) if job else None


def test_a_dead_worker_is_taken_over(
    start_pair: Callable[..., Pair], studies: Studies, database_url: str
) -> None:
    """One of two workers dies in mid reading and never comes back: its exam is another's within a lease."""
    node, orthanc = start_pair(quiet_time_s=1, late_quiet_time_s=1, database_url=database_url)
    node.start("receive")
    names = [f"1.2.826.0.4.{n}" for n in range(2)]
    paths = [
        path
        for number, name in enumerate(names)
        for path in studies.write(name, studies.of("uc", 12), patient_id=f"P{number}")
    ]
    workers = {process.pid: process for process in (node.start("work"), node.start("work"))}
    log = node.folder / "node.log"
    wait_for("both workers", lambda: log.read_text().count('"worker_started"') == len(workers), 60)
    sender = Sender(node.port, paths, seconds=0.1)
    sender.thread.start()
    database = open_database(database_url)
    try:
        job_id, pid = wait_for("a reading", lambda: _reading(database), 60, 0.05)
        workers[pid].kill()
        workers.pop(pid).wait(10)
        with database.reading() as session:
            assert session.get_one(JobRow, job_id).state == "running", "it was done before its worker died"
        sender.thread.join(120)
        node.wait_delivered(names, 180)
        # A stalled sender makes a second revision, which may be delivered before the first is read.
        job = wait_for("the dead worker's job", lambda: _settled(database, job_id), 60)
        assert (job.state, job.attempts, job.last_error) == ("done", 2, "its worker died")
    finally:
        database.close()
    (heir,) = workers.values()
    assert heir.poll() is None
    _check(node, orthanc, sender.answered, names)


def test_results_wait_for_a_pacs_that_is_down(
    start_pair: Callable[..., Pair], studies: Studies, database_url: str
) -> None:
    """A PACS out for a while neither stops the reading of further exams nor costs a result."""
    node, orthanc = start_pair(quiet_time_s=1, late_quiet_time_s=1, database_url=database_url)
    orthanc.stop()
    node.start()
    names = [f"1.2.826.0.5.{n}" for n in range(2)]
    paths = [
        path
        for number, name in enumerate(names)
        for path in studies.write(name, studies.of("normal"), patient_id=f"P{number}")
    ]
    sender = Sender(node.port, paths, seconds=0.1)
    sender.thread.start()
    sender.thread.join(60)
    wait_for(
        "both readings", lambda: len([exam for exam in node.exams() if exam["reading"] is not None]) == 2, 60
    )
    assert all(exam["state"] in ("read", "delivering") for exam in node.exams())
    orthanc.start()
    node.wait_delivered(names, 120)
    _check(node, orthanc, sender.answered, names)
