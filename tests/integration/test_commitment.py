"""Storage commitment with archives that answer in every way the Standard allows, and in some more."""

import contextlib
import datetime as dt
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select, text, update

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    AuditEventRow,
    CommitmentRow,
    DeliveredObjectRow,
    DeliveryRow,
    ExamRow,
    JobRow,
    PeerMemoryRow,
    PredictionRow,
)
from db.tables.readings import ModelPackageRow
from node.commitment import commit
from node.delivery import deliver
from node.dicom.arrivals import MAX_MESSAGE_BYTES
from node.dicom.scp import Receiver
from node.listing import list_exams
from node.retry import retry_exam
from node.settings import Peer
from tests.integration.delivering import BOTH, MULTI, SINGLE, Archive, Bench, bench, down, open_node, result
from tests.integration.receiving import RawPeer, command, fragment, free_port

__all__ = ["bench"]

COMMITMENT = (str(StorageCommitmentPushModel), ImplicitVRLittleEndian)
Treat = Callable[[evt.Event, Dataset], int]


@pytest.fixture
def database_kind() -> str:
    """Return one kind of database; what locks is tried on the other, where it is said."""
    return "sqlite"


@pytest.fixture(autouse=True)
def _short_listening(monkeypatch: pytest.MonkeyPatch) -> None:
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


def report_to(port: int, information: Dataset) -> int | None:
    """Open an association as SCP, as an archive does that answers late, and report on it."""
    ae = AE(ae_title="PACS")
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    assoc = ae.associate("127.0.0.1", port, ae_title="ENDONODE", ext_neg=[role])
    assert assoc.is_established
    assert [(context.as_scu, context.as_scp) for context in assoc.accepted_contexts] == [(False, True)]
    try:
        return send_report(assoc, information)
    finally:
        assoc.release()


@pytest.mark.parametrize("treat", [at_once, soon], ids=["before the answer", "after the answer"])
def test_a_report_on_the_same_association_commits(bench: Bench, treat: Treat) -> None:
    """Most small archives know no other way, and some are faster than their own answer."""
    pacs = Pacs(treat)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    delivery = bench.delivery(claim)
    assert (delivery.state, delivery.committed, bench.exam_row().state) == ("delivered", True, "delivered")
    assert object_states(bench) == ["committed"]
    assert count_queued(bench) == 0
    assert bench.events()[-5:] == [
        "result_stored", "commitment_requested", "commitment_reported", "result_delivered", "exam_delivered",
    ]  # fmt: skip
    (exam,) = list_exams(bench.node)
    assert exam["committed"] is True
    assert exam["deliveries"][0]["objects"] == {"committed": 1}


@pytest.mark.parametrize("database_kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_late_report_on_an_association_of_the_archives_own_commits(bench: Bench) -> None:
    """The rule in hospitals: minutes later, the archive calls us and proposes to be the SCP."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
        delivery = bench.delivery(claim)
        assert (delivery.state, delivery.committed, bench.exam_row().state) == (
            "committing", False, "delivering",
        )  # fmt: skip
        with bench.node.database.reading() as session:
            job = session.scalars(select(JobRow).where(JobRow.state == "queued")).one()
            due_at = session.scalars(select(CommitmentRow.asked_at)).one() + dt.timedelta(hours=1)
        assert (job.kind, job.not_before_at) == ("commit", due_at)
        with listening(bench) as port:
            assert report_to(port, report_on(pacs.asked[0])) == 0x0000
            assert report_to(port, report_on(pacs.asked[0])) == 0x0000
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state) == (True, "delivered")
    assert len(pacs.asked) == 1
    assert count_queued(bench) == 0


def test_a_report_on_another_association_ends_the_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthanc reports within a tenth of a second by calling back; a slot must not wait on for nothing."""
    monkeypatch.setattr("node.dicom.commitment.LISTEN_S", 20)
    (claim,) = bench.exam(result(), "PACS")
    ports: list[int] = []

    def call_back(_event: evt.Event, asked: Dataset) -> int:
        threading.Timer(0.1, report_to, (ports[0], report_on(asked))).start()
        return 0x0000

    with Pacs(call_back).running() as peer:
        bench.peers(peer, commitment="auto")
        with listening(bench) as port:
            ports.append(port)
            started = time.monotonic()
            work(bench)
            assert time.monotonic() - started < 10
    assert bench.delivery(claim).committed is True


def test_an_archive_without_commitment_is_delivered_to_and_remembered(bench: Bench) -> None:
    """Its answer to C-STORE is all it ever says; the page shows that nobody has confirmed."""
    (first,) = bench.exam(result(), "PACS")
    with Pacs().running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
        (second,) = bench.exam(result("other"), "PACS", exam_id="e2")
        work(bench)
    for claim in (first, second):
        assert (bench.delivery(claim).state, bench.delivery(claim).committed) == ("delivered", None)
    assert (bench.exam_row().state, bench.count(CommitmentRow)) == ("delivered", 0)
    with bench.node.database.reading() as session:
        assert session.get_one(PeerMemoryRow, ("PACS", "commitment")).form == "none"
        assert [job.kind for job in session.scalars(select(JobRow))].count("commit") == 1
    assert list_exams(bench.node)[0]["committed"] is None


def test_an_archive_that_must_commit_and_does_not_makes_a_dead_letter(bench: Bench) -> None:
    """`required` is the operator's word that nothing less counts; what is mended there is asked again."""
    (claim,) = bench.exam(result(), "PACS")
    predicted(bench)
    with Pacs().running() as peer:
        bench.peers(peer, commitment="required")
        work(bench)
    exam = bench.exam_row()
    assert (bench.delivery(claim).state, exam.state, exam.error_step) == ("failed", "failed", "deliver")
    assert "Storage Commitment" in (exam.error_text or "")
    pacs = Pacs(at_once)
    with pacs.running() as peer:
        bench.peers(peer, commitment="required")
        assert retry_exam(bench.node, "e1") == "deliver"
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state) == (True, "delivered")
    assert pacs.archive.held == {}


def test_an_archive_that_is_never_asked_is_believed(bench: Bench) -> None:
    """For archives that take the request and never report."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="never")
        work(bench)
    assert (bench.delivery(claim).state, bench.delivery(claim).committed, pacs.asked) == (
        "delivered",
        None,
        [],
    )


@pytest.mark.parametrize("reason", [0x0110, 0x0112, 0x0213])
def test_only_what_is_missing_is_sent_again_and_asked_about(bench: Bench, reason: int) -> None:
    """An archive that lost one of three objects gets that one, the same bytes, and a new transaction."""
    pacs = Pacs(failing(reason), at_once)
    (claim,) = bench.exam(result(pages=3), "PACS")
    with pacs.running(SINGLE) as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state) == (True, "delivered")
    assert pacs.copies == [1, 1, 2]
    assert all(len(set(copies)) == 1 for copies in pacs.archive.held.values())
    assert [len(asked.ReferencedSOPSequence) for asked in pacs.asked] == [3, 1]
    assert pacs.asked[0].TransactionUID != pacs.asked[1].TransactionUID


def test_what_is_lost_and_then_refused_is_replaced_by_its_lower_form(bench: Bench) -> None:
    """The archive was changed meanwhile; what it no longer takes is not asked about for ever."""
    pacs = Pacs(failing(0x0112), at_once)
    archive = pacs.archive

    def once(event: evt.Event) -> int:
        is_refused = event.request.AffectedSOPClassUID == MULTI and archive.held
        return 0xA900 if is_refused else archive(event)

    pacs.on_store = once
    (claim,) = bench.exam(result(pages=2), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state) == (True, "delivered")
    assert object_states(bench) == ["committed", "committed"]
    assert bench.forms() == {"single_frame"}


def test_what_is_lost_again_and_again_is_a_dead_letter_in_the_end(bench: Bench) -> None:
    """Three times sent again; an archive that loses it then has a fault that somebody must see."""
    pacs = Pacs(failing(0x0112))
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    assert (bench.delivery(claim).state, bench.exam_row().state, pacs.copies) == ("failed", "failed", [1 + 3])
    assert "0x0112, no such object" in (bench.exam_row().error_text or "")
    assert count_queued(bench) == 0


@pytest.mark.parametrize("reason", [0x0119, 0x0122, 0x0131])
def test_what_an_archive_will_not_commit_to_is_a_dead_letter(bench: Bench, reason: int) -> None:
    """Sent again it would be refused again; once the archive is mended, a person takes it up."""
    pacs = Pacs(failing(reason), at_once)
    (claim,) = bench.exam(result(pages=2), "PACS")
    predicted(bench)
    with pacs.running(SINGLE) as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
        assert (bench.delivery(claim).state, bench.exam_row().state) == ("failed", "failed")
        assert object_states(bench) == ["committed", "refused"]
        assert f"0x{reason:04X}" in (bench.exam_row().error_text or "")
        assert pacs.copies == [1, 1]
        assert retry_exam(bench.node, "e1") == "deliver"
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state, pacs.copies) == (
        True,
        "delivered",
        [1, 2],
    )


def test_an_archive_that_never_reports_raises_an_alarm(bench: Bench) -> None:
    """Asked as often as set, each time under a new UID; then a person is told, and the images are kept."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer, listening(bench):
        bench.peers(peer, commitment="auto")
        for _ in range(4):
            work(bench)
            let_time_pass(bench)
        assert len({asked.TransactionUID for asked in pacs.asked}) == 3
        assert (bench.delivery(claim).state, bench.exam_row().state) == ("unconfirmed", "delivering")
        assert object_states(bench) == ["unconfirmed"]
        assert bench.events()[-1] == "delivery_unconfirmed"
        assert count_queued(bench) == 0
        assert list_exams(bench.node)[0]["committed"] is False
        predicted(bench)
        assert retry_exam(bench.node, "e1") == "deliver"
        work(bench)
    assert (len(pacs.asked), bench.delivery(claim).state, pacs.copies) == (4, "committing", [1])


def test_a_report_after_everybody_has_given_up_still_commits(bench: Bench) -> None:
    """Even one on the first request: the archive does hold the objects."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        for _ in range(4):
            work(bench)
            let_time_pass(bench)
        assert bench.delivery(claim).state == "unconfirmed"
        with listening(bench) as port:
            assert report_to(port, report_on(pacs.asked[0])) == 0x0000
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state) == (True, "delivered")


def test_a_failure_told_of_an_older_request_is_not_acted_on(bench: Bench) -> None:
    """What it missed may have been sent again since: only the newest request's failures count."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
        let_time_pass(bench)
        work(bench)
        (uid,) = pacs.archive.held
        with listening(bench) as port:
            assert report_to(port, report_on(pacs.asked[0], {uid: 0x0122})) == 0x0000
            assert object_states(bench) == ["sent"]
            assert report_to(port, report_on(pacs.asked[1])) == 0x0000
            assert report_to(port, report_on(pacs.asked[1], {uid: 0x0122})) == 0x0000
        work(bench)
    assert (bench.delivery(claim).committed, pacs.copies) == (True, [1])


def test_an_unknown_transaction_is_answered_so_and_audited(bench: Bench) -> None:
    """Somebody else's, or one of a database that was restored: said, not swallowed."""
    asked = Dataset()
    asked.TransactionUID, asked.ReferencedSOPSequence = "1.2.3", []
    bench.peers(down())
    with listening(bench) as port:
        assert report_to(port, report_on(asked)) == 0x0115
    with bench.node.database.reading() as session:
        event = session.scalars(select(AuditEventRow)).one()
    assert (event.event, event.subject_id, event.actor) == ("commitment_unknown", "1.2.3", "ae:PACS")


def test_a_report_that_cannot_be_kept_is_not_answered_with_success(bench: Bench) -> None:
    """The archive forgets what it has reported; so must it only where we have not."""
    pacs = Pacs(silently)
    bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    with bench.node.database.writing() as session:
        session.execute(text("DROP TABLE audit_events"))
    with listening(bench) as port:
        assert report_to(port, report_on(pacs.asked[0])) == 0x0110
    assert object_states(bench) == ["sent"]


def test_an_archive_that_is_down_when_it_is_to_be_asked_is_waited_for(bench: Bench) -> None:
    """A restart between storing and committing uses up no attempt; past the deadline it is an alarm."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        deliver(bench.node, claim)
    work(bench)
    assert (bench.delivery(claim).state, bench.delivery(claim).attempts) == ("committing", 0)
    assert bench.count(CommitmentRow) == 0
    bench.change(DeliveryRow, int(claim.subject_id), deadline_at=utc_now())
    let_time_pass(bench)
    work(bench)
    assert bench.delivery(claim).state == "unconfirmed"


def test_a_request_that_fails_there_is_made_again_in_time(bench: Bench) -> None:
    """Under a new UID; the archive may report on the first one nevertheless."""

    def fail(_event: evt.Event, _asked: Dataset) -> int:
        return 0x0110

    pacs = Pacs(fail, at_once)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
        assert "0x0110" in (bench.delivery(claim).last_error or "")
        let_time_pass(bench)
        work(bench)
    assert (bench.delivery(claim).committed, len(pacs.asked)) == (True, 2)


def test_an_archive_that_took_requests_before_is_waited_for_when_it_rejects_one(bench: Bench) -> None:
    """It is being reconfigured, most likely; that it once committed is no reason to take less now."""
    pacs = Pacs(silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        work(bench)
    with Pacs().running() as peer:
        bench.peers(peer, commitment="auto")
        let_time_pass(bench)
        work(bench)
    assert (bench.delivery(claim).state, bench.count(PeerMemoryRow)) == ("committing", 0)


def _commit_in_a_process_of_its_own(folder: Path, database_url: str, peer: Peer, claim: Claim) -> None:
    commit(open_node(folder, database_url, peer), claim)


def test_a_kill_while_asking_loses_neither_the_request_nor_its_report(bench: Bench, tmp_path: Path) -> None:
    """The request is durable before it is sent: its report counts, and without one it is made anew."""
    victim: list[int] = []

    def kill(_event: evt.Event, _asked: Dataset) -> int:
        os.kill(victim.pop(), signal.SIGKILL)
        return 0x0000

    pacs = Pacs(kill, silently)
    (claim,) = bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        deliver(bench.node, claim)
        with bench.node.database.reading() as session:
            job = session.scalars(select(JobRow).where(JobRow.kind == "commit")).one()
        asking = Claim(job.id, job.kind, job.subject_id, 1, "test")
        process = multiprocessing.get_context("spawn").Process(
            target=_commit_in_a_process_of_its_own,
            args=(tmp_path, bench.node.settings.database_url, peer, asking),
        )
        process.start()
        victim.append(process.pid or 0)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        work(bench)
        assert len({asked.TransactionUID for asked in pacs.asked}) == 2
        assert bench.delivery(claim).state == "committing"
        with listening(bench) as port:
            assert report_to(port, report_on(pacs.asked[0])) == 0x0000
        work(bench)
    assert (bench.delivery(claim).committed, pacs.copies) == (True, [1])


def test_a_report_longer_than_any_is_not_collected(bench: Bench) -> None:
    """A peer that is let in must still not fill the memory; nor may it store under the wrong service."""
    bench.peers(down())
    request = command(
        AffectedSOPClassUID=COMMITMENT[0], CommandField=0x0100, MessageID=1, CommandDataSetType=1
    )
    with listening(bench) as port, RawPeer(port) as peer:
        assert peer.associate(COMMITMENT)[:1] == b"\x02"
        peer.socket.sendall(fragment(request, 3))
        for _ in range(MAX_MESSAGE_BYTES // 16_000 + 1):
            peer.socket.sendall(fragment(bytes(16_000), 0))
        assert peer.receive()[:4] == b"\x07\0\0\x02"  # A-ABORT by the provider, at once (PS3.8 9.3.8)


def test_reports_that_do_not_wait_for_their_answers_are_cut_off(bench: Bench) -> None:
    """We negotiate one operation at a time; each in a thread of its own, they would take the machine."""
    bench.peers(down())
    request = command(
        AffectedSOPClassUID=COMMITMENT[0], CommandField=0x0100, MessageID=1, CommandDataSetType=0x0101,
        AffectedSOPInstanceUID=str(StorageCommitmentPushModelInstance), EventTypeID=1,
    )  # fmt: skip
    with listening(bench) as port, RawPeer(port) as peer:
        assert peer.associate(COMMITMENT)[:1] == b"\x02"
        with contextlib.suppress(ConnectionError):
            peer.socket.sendall(fragment(request, 3) * 500)
        answered = 0
        while peer.receive()[:1] == b"\x04":
            answered += 1
        assert answered < 100


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
