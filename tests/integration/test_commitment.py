"""Storage commitment: the request, the report and the associations that they come on."""

import contextlib
import datetime as dt
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModelInstance
from sqlalchemy import select, text

from db.jobs import Claim
from db.tables import (
    AuditEventRow,
    CommitmentRow,
    JobRow,
    PeerMemoryRow,
)
from node.commitment import commit
from node.delivery import deliver
from node.dicom.arrivals import MAX_MESSAGE_BYTES
from node.listing import list_exams
from node.retry import retry_exam
from node.settings import Peer
from tests.integration.committing import (
    COMMITMENT,
    Pacs,
    Treat,
    at_once,
    count_queued,
    database_kind,
    listening,
    object_states,
    predicted,
    report_on,
    report_to,
    short_listening,
    silently,
    soon,
    work,
)
from tests.integration.delivering import Bench, bench, down, open_node, result
from tests.integration.receiving import RawPeer, command, fragment

__all__ = ["bench", "database_kind", "short_listening"]


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


def test_another_peer_than_the_one_asked_reports_on_nothing(bench: Bench) -> None:
    """A Transaction UID is no secret; whether the archive holds the result, only the archive can say."""
    pacs = Pacs(silently)
    bench.exam(result(), "PACS")
    with pacs.running() as peer:
        bench.peers(peer, peer.model_copy(update={"ae_title": "OTHER"}), commitment="auto")
        work(bench)
    with listening(bench) as port:
        assert report_to(port, report_on(pacs.asked[0]), "OTHER") == 0x0115
        assert (object_states(bench), bench.events()[-1]) == (["sent"], "commitment_unknown")
        assert report_to(port, report_on(pacs.asked[0])) == 0x0000
    assert object_states(bench) == ["committed"]


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
