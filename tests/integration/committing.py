"""Archives that are asked to commit, and answer in every way that the Standard allows, and in some more."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select, update

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    CommitmentRow,
    DeliveredObjectRow,
    ExamRow,
    JobRow,
    PredictionRow,
)
from db.tables.readings import ModelPackageRow
from node.commitment import commit
from node.delivery import deliver
from node.dicom.scp import Receiver
from node.settings import Peer
from tests.integration.delivering import BOTH, Archive, Bench
from tests.integration.receiving import free_port

COMMITMENT = (str(StorageCommitmentPushModel), ImplicitVRLittleEndian)
Treat = Callable[[evt.Event, Dataset], int]


@pytest.fixture
def database_kind() -> str:
    """Return one kind of database; what locks is tried on the other, where it is said."""
    return "sqlite"


@pytest.fixture(autouse=True)
def short_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.dicom.commitment.LISTEN_S", 0.3)


def report_on(asked: Dataset, failed: Mapping[str, int] | None = None) -> Dataset:
    """Return the Event Information for a request: what is not named as failed is committed."""
    failed, ds = failed or {}, Dataset()
    ds.TransactionUID = asked.TransactionUID
    for keyword in ("ReferencedSOPSequence", "FailedSOPSequence"):
        items = []
        for reference in asked.ReferencedSOPSequence:
            uid = reference.ReferencedSOPInstanceUID
            if (uid in failed) == (keyword == "FailedSOPSequence"):
                item = Dataset()
                item.ReferencedSOPClassUID = reference.ReferencedSOPClassUID
                item.ReferencedSOPInstanceUID = uid
                if uid in failed:
                    item.FailureReason = failed[uid]
                items.append(item)
        if items:
            setattr(ds, keyword, items)
    return ds


def send_report(assoc: Association, information: Dataset) -> int | None:
    """Send a report; return the status of its answer."""
    event_type = 2 if "FailedSOPSequence" in information else 1
    status, _ = assoc.send_n_event_report(
        information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    return None if status.get("Status") is None else int(status.Status)


class Pacs:
    """An archive that keeps what it is given and treats each request for commitment as it is told to.

    The last of `treats` stands for all that follow.
    """

    def __init__(self, *treats: Treat) -> None:
        self.archive = Archive()
        self.on_store: Callable[[evt.Event], int] = self.archive
        self.asked: list[Dataset] = []
        self.treats = list(treats)

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        self.asked.append(asked)
        return (self.treats.pop(0) if len(self.treats) > 1 else self.treats[0])(event, asked), None

    @property
    def copies(self) -> list[int]:
        """Return how often each object was stored."""
        return sorted(len(copies) for copies in self.archive.held.values())

    @contextmanager
    def running(self, *classes: str) -> Iterator[Peer]:
        """Serve until the end of the block."""
        ae = AE(ae_title="PACS")
        for uid in classes or BOTH:
            ae.add_supported_context(uid, [ExplicitVRLittleEndian])
        if self.treats:
            ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self.on_store), (evt.EVT_N_ACTION, self._on_action)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        try:
            yield Peer(ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
        finally:
            server.shutdown()


def at_once(event: evt.Event, asked: Dataset) -> int:
    """Report before the request is answered."""
    assert send_report(event.assoc, report_on(asked)) == 0x0000
    return 0x0000


def soon(event: evt.Event, asked: Dataset) -> int:
    """Report on the association of the request, after its answer."""
    threading.Timer(0.1, send_report, (event.assoc, report_on(asked))).start()
    return 0x0000


def silently(_event: evt.Event, _asked: Dataset) -> int:
    """Take the request and never report."""
    return 0x0000


def failing(reason: int, count: int = 1) -> Treat:
    """Return what reports that the first so many objects asked about have failed."""

    def treat(event: evt.Event, asked: Dataset) -> int:
        uids = [item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence]
        assert send_report(event.assoc, report_on(asked, dict.fromkeys(uids[:count], reason))) == 0x0000
        return 0x0000

    return treat


def work(bench: Bench) -> None:
    """Run the jobs that are due, as a worker does, until none is."""
    handlers = {"deliver": deliver, "commit": commit}
    due = select(JobRow).where(JobRow.state == "queued")
    for _ in range(20):
        with bench.node.database.reading() as session:
            job = session.scalars(due.where(JobRow.not_before_at <= utc_now())).first()
        if job is None:
            return
        handlers[job.kind](bench.node, Claim(job.id, job.kind, job.subject_id, 1, "test"))
    raise AssertionError("the jobs do not come to an end")


def let_time_pass(bench: Bench) -> None:
    """Make everything that waits for its time, due."""
    with bench.node.database.writing() as session:
        long_ago = utc_now() - dt.timedelta(seconds=bench.node.settings.commitment_timeout_s)
        for row in session.scalars(select(CommitmentRow).where(CommitmentRow.asked_at > long_ago)):
            row.asked_at -= dt.timedelta(seconds=bench.node.settings.commitment_timeout_s)
        session.execute(update(JobRow).where(JobRow.state == "queued").values(not_before_at=utc_now()))


def object_states(bench: Bench) -> list[str]:
    with bench.node.database.reading() as session:
        return sorted(session.scalars(select(DeliveredObjectRow.state)))


def count_queued(bench: Bench) -> int:
    with bench.node.database.reading() as session:
        return len(list(session.scalars(select(JobRow).where(JobRow.state == "queued"))))


@contextmanager
def listening(bench: Bench) -> Iterator[int]:
    """Run the node's receiver; yields its port."""
    port = free_port()
    settings = bench.node.settings.model_copy(update={"port": port})
    receiver = Receiver(replace(bench.node, settings=settings))
    receiver.start()
    try:
        yield port
    finally:
        receiver.stop(5)


def report_to(port: int, information: Dataset, ae_title: str = "PACS") -> int | None:
    """Open an association as SCP, as an archive does that answers late, and report on it."""
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    assoc = ae.associate("127.0.0.1", port, ae_title="ENDONODE", ext_neg=[role])
    assert assoc.is_established
    assert [(context.as_scu, context.as_scp) for context in assoc.accepted_contexts] == [(False, True)]
    try:
        return send_report(assoc, information)
    finally:
        assoc.release()


def predicted(bench: Bench) -> None:
    """Give the exam a reading, without which there is nothing to deliver again."""
    with bench.node.database.writing() as session:
        session.add(ModelPackageRow(digest="d", name="n", version="1", manifest={}, registered_at=utc_now()))
        session.flush()
        session.add(
            PredictionRow(
                exam_id="e1", model_digest="d", recipe_digest="r", reading="healthy", probability=0.1,
                threshold=0.9, top_k=6, vote_mode="top_k", frames_kept=1, frames_rejected=0, frames_used=1,
                created_at=utc_now(),
            )
        )  # fmt: skip
        assert session.get_one(ExamRow, "e1").id == "e1"
