"""A delivery from its row to the peer's answers: SQLite, the file store and pynetdicom's SCP, all real."""

import datetime as dt
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pynetdicom import evt
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    AuditEventRow,
    DeliveredObjectRow,
    DeliveryRow,
    ExamRow,
    PeerMemoryRow,
    ResultObjectRow,
)
from node.delivery import deliver
from node.exams import supersede
from node.records import superseded_results
from node.results.iod import COMPREHENSIVE_3D_SR, EMITTED, MULTI_FRAME_TRUE_COLOUR_SC
from node.settings import Peer
from tests.integration.delivering import (
    BOTH,
    SINGLE,
    Archive,
    Bench,
    bench,
    down,
    open_node,
    result,
    whole_result,
)
from tests.unit.node.dicom.test_scu import answering, scp

__all__ = ["bench"]


def test_a_result_is_delivered_when_every_object_is_answered(bench: Bench) -> None:
    """`delivered` is a promise about the PACS; it is kept object by object and told in the audit trail."""
    encoded, archive = result(), Archive()
    (claim,) = bench.exam(encoded, "PACS")
    with scp((evt.EVT_C_STORE, archive), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert list(archive.held) == [encoded.sop_instance_uid]
    assert encoded.data.endswith(archive.held[encoded.sop_instance_uid][0])
    delivery, exam = bench.delivery(claim), bench.exam_row()
    assert (delivery.state, delivery.committed, exam.state) == ("delivered", None, "delivered")
    assert delivery.delivered_at is not None
    assert exam.delivered_at is not None
    assert exam.step_seconds["deliver"] > 0
    assert exam.step_seconds["read"] == 1.0
    assert bench.count(DeliveredObjectRow) == 1
    assert bench.job(claim).state == "done"
    assert bench.events() == ["exam_delivering", "result_stored", "result_delivered", "exam_delivered"]


def test_a_peer_without_multi_frame_gets_single_frames_and_is_remembered(bench: Bench) -> None:
    """The bytes are stored and committed before the first is sent; the next result skips the refused rung."""
    committed: list[int] = []
    archive = Archive()

    def keep(event: evt.Event) -> int:
        committed.append(bench.count(ResultObjectRow))
        return archive(event)

    (first,) = bench.exam(result(), "PACS")
    (second,) = bench.exam(result("other"), "PACS", exam_id="e2")
    with scp((evt.EVT_C_STORE, keep), classes=(SINGLE,)) as peer:
        bench.peers(peer)
        deliver(bench.node, first)
        assert bench.events().count("result_form_refused") == 1
        deliver(bench.node, second)
    assert committed[0] == 2 + 2
    assert bench.forms() == {"single_frame"}
    assert bench.exam_row("e2").state == "delivered"
    assert bench.events().count("result_form_refused") == 1
    with bench.node.database.reading() as session:
        rows = list(session.scalars(select(ResultObjectRow).where(ResultObjectRow.form == "single_frame")))
    assert {row.sop_instance_uid for row in rows} == set(archive.held)
    for row in rows:
        stored = bench.node.files.path(row.sha256).read_bytes()
        assert stored.endswith(archive.held[row.sop_instance_uid][0])


def test_a_refusal_is_forgotten_in_time(bench: Bench) -> None:
    """An upgraded PACS gets the better form again, without anybody's help."""
    archive = Archive()
    (claim,) = bench.exam(result(), "PACS")
    with bench.node.database.writing() as session:
        learned_at = utc_now() - dt.timedelta(days=bench.node.settings.fallback_days, seconds=1)
        session.add(PeerMemoryRow(ae_title="PACS", subject="sc", form="single_frame", learned_at=learned_at))
    with scp((evt.EVT_C_STORE, archive), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.forms() == {"multi_frame"}
    assert len(archive.held) == 1


@pytest.mark.parametrize("status", [0x0122, 0xA900, 0xC000])
def test_a_peer_that_takes_neither_form_makes_a_dead_letter(bench: Bench, status: int) -> None:
    """Sent for ever it would block the queue; hidden it would be lost."""
    (claim,) = bench.exam(result(), "PACS")
    with scp(answering(status), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    exam = bench.exam_row()
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("failed", "buried")
    assert (exam.state, exam.error_step) == ("failed", "deliver")
    assert f"0x{status:04X}" in (exam.error_text or "")
    assert bench.events().count("result_form_refused") == 2


@pytest.mark.parametrize("status", [0xA700, 0x0110])
def test_a_failing_peer_is_tried_again_in_the_same_form(bench: Bench, status: int) -> None:
    """A full disk says nothing against multi-frame objects."""
    (claim,) = bench.exam(result(), "PACS")
    with scp(answering(status), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    delivery = bench.delivery(claim)
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert "result_form_refused" not in bench.events()
    assert f"0x{status:04X}" in (delivery.last_error or "")
    assert bench.job(claim).state == "queued"
    assert bench.exam_row().state == "delivering"


def test_the_delay_doubles_up_to_an_hour(bench: Bench) -> None:
    """A PACS that is down is not hammered, and one that is back is found soon."""
    (claim,) = bench.exam(result(), "PACS")
    bench.peers(down())
    delays = []
    for attempts in (0, 1, 2, 10, 11, 12, 5000):
        bench.change(DeliveryRow, int(claim.subject_id), attempts=attempts)
        before = utc_now()
        deliver(bench.node, claim)
        delays.append((bench.job(claim).not_before_at - before).total_seconds())
    assert delays == pytest.approx([2, 4, 8, 2048, 3600, 3600, 3600], abs=2)


def test_what_cannot_be_delivered_by_the_deadline_is_a_dead_letter(bench: Bench) -> None:
    """The last attempt is made at the deadline itself, not an hour later."""
    (claim,) = bench.exam(result(), "PACS")
    bench.peers(down())
    deadline = utc_now() + dt.timedelta(seconds=30)
    bench.change(DeliveryRow, int(claim.subject_id), attempts=11, deadline_at=deadline)
    deliver(bench.node, claim)
    assert bench.job(claim).not_before_at == deadline
    bench.change(DeliveryRow, int(claim.subject_id), deadline_at=utc_now())
    deliver(bench.node, claim)
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("failed", "buried")
    assert (bench.exam_row().state, bench.exam_row().error_step) == ("failed", "deliver")


def test_a_withdrawn_result_is_not_sent(bench: Bench) -> None:
    """A late claim must not bring a superseded reading into the PACS."""
    archive = Archive()
    (claim,) = bench.exam(result(), "PACS")
    bench.change(DeliveryRow, int(claim.subject_id), state="withdrawn")
    with scp((evt.EVT_C_STORE, archive), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert archive.held == {}
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("withdrawn", "done")
    assert bench.exam_row().state == "read"


def test_a_result_superseded_while_its_peer_was_down_is_not_tried_again(bench: Bench) -> None:
    """It was being sent when the next revision came, so nobody could withdraw it; now it is."""
    (claim,) = bench.exam(result(), "PACS")
    bench.exam(result("other"), exam_id="e2")
    bench.change(ExamRow, "e1", superseded_by="e2")
    bench.peers(down())
    deliver(bench.node, claim)
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("withdrawn", "done")
    assert bench.exam_row().state == "read"


def test_a_warning_counts_as_delivered_and_is_on_record(bench: Bench) -> None:
    """The object is there (PS3.4 B.2.3); what the peer remarked is kept with it."""
    (claim,) = bench.exam(result(), "PACS")
    with scp(answering(0xB000), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.exam_row().state == "delivered"
    with bench.node.database.reading() as session:
        stored = session.scalars(select(AuditEventRow).where(AuditEventRow.event == "result_stored")).one()
    assert stored.detail["status"] == "0xB000"


def test_an_exam_is_delivered_when_all_its_peers_have_it(bench: Bench) -> None:
    """And stays failed, and shown, while one of them has not."""
    first, second, third = bench.exam(result(), "A", "B", "C")
    with scp((evt.EVT_C_STORE, Archive()), classes=BOTH) as up, scp(answering(0xC000), classes=BOTH) as bad:
        bench.peers(
            up.model_copy(update={"ae_title": "A"}),
            bad.model_copy(update={"ae_title": "B"}),
            up.model_copy(update={"ae_title": "C"}),
        )
        deliver(bench.node, first)
        assert bench.exam_row().state == "delivering"
        deliver(bench.node, second)
        assert bench.exam_row().state == "failed"
        deliver(bench.node, third)
        assert bench.exam_row().state == "failed"
        bench.change(DeliveryRow, int(second.subject_id), state="pending")
        bench.change(ExamRow, "e1", state="read")
        bench.peers(up.model_copy(update={"ae_title": "B"}))
        with bench.node.database.writing() as session:
            session.delete(session.get_one(PeerMemoryRow, ("B", "sc")))
        deliver(bench.node, second)
    assert bench.exam_row().state == "delivered"


def test_two_peers_may_step_down_and_finish_at_once(bench: Bench) -> None:
    """Single frames are made once, and the last of two that end together still sees that all is delivered."""
    archives = Archive(), Archive()
    together = threading.Barrier(2, timeout=30)

    def wait_for_the_other(archive: Archive) -> Callable[[evt.Event], int]:
        def keep(event: evt.Event) -> int:
            together.wait()
            return archive(event)

        return keep

    claims = bench.exam(result(), "A", "B")
    with (
        scp((evt.EVT_C_STORE, wait_for_the_other(archives[0])), classes=(SINGLE,)) as a,
        scp((evt.EVT_C_STORE, wait_for_the_other(archives[1])), classes=(SINGLE,)) as b,
        ThreadPoolExecutor(2) as pool,
    ):
        bench.peers(a.model_copy(update={"ae_title": "A"}), b.model_copy(update={"ae_title": "B"}))
        for done in [pool.submit(deliver, bench.node, claim) for claim in claims]:
            done.result()
    assert bench.exam_row().state == "delivered"
    assert bench.events().count("exam_delivered") == 1
    assert bench.count(ResultObjectRow) == 1 + 2
    assert archives[0].held == archives[1].held


def test_a_peer_that_was_taken_out_of_the_settings_is_waited_for(bench: Bench) -> None:
    """An operator's slip is no reason to lose a result."""
    (claim,) = bench.exam(result(), "PACS")
    deliver(bench.node, claim)
    assert bench.delivery(claim).state == "pending"
    assert "no such peer" in (bench.delivery(claim).last_error or "")


def _deliver_in_a_process_of_its_own(folder: Path, database_url: str, peer: Peer, claim: Claim) -> None:
    deliver(open_node(folder, database_url, peer), claim)


def test_after_a_kill_only_what_was_not_answered_is_sent_again(bench: Bench, tmp_path: Path) -> None:
    """The same bytes under the same UID, and what the peer has acknowledged not at all."""
    archive = Archive()
    victim: list[int] = []

    def keep(event: evt.Event) -> int:
        status = archive(event)
        if len(archive.held) == 2 and victim:
            os.kill(victim.pop(), signal.SIGKILL)
        return status

    (claim,) = bench.exam(result(pages=4), "PACS")
    with scp((evt.EVT_C_STORE, keep), classes=(SINGLE,)) as peer:
        spawning = multiprocessing.get_context("spawn")
        process = spawning.Process(
            target=_deliver_in_a_process_of_its_own,
            args=(tmp_path, bench.node.settings.database_url, peer, claim),
        )
        process.start()
        victim.append(process.pid or 0)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert bench.delivery(claim).state == "sending"
        assert bench.count(DeliveredObjectRow) == 1
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.exam_row().state == "delivered"
    assert sorted(len(copies) for copies in archive.held.values()) == [1, 1, 1, 2]
    assert all(len(set(copies)) == 1 for copies in archive.held.values())
    assert len(next(iter(archive.held.values()))) == 1


@pytest.mark.parametrize("state", ["pending", "sending"])
def test_a_superseded_result_is_not_sent_for_the_first_time(bench: Bench, state: str) -> None:
    """Its worker died before it sent: taken up later, it would arrive after the result that replaces it."""
    encoded, archive = result(), Archive()
    (claim,) = bench.exam(encoded, "PACS")
    bench.exam(result("later"), exam_id="e2")
    bench.change(ExamRow, "e1", superseded_by="e2", state="delivering")
    bench.change(DeliveryRow, int(claim.subject_id), state=state)
    with scp((evt.EVT_C_STORE, archive), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert archive.held == {}
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("withdrawn", "done")
    assert bench.exam_row().state == "read"
    assert bench.events() == ["result_withdrawn"]


def test_a_superseded_result_that_has_begun_to_arrive_is_sent_to_its_end(bench: Bench) -> None:
    """Half a result in the archive is worse than a result that another one replaces."""
    archive = Archive()
    (claim,) = bench.exam(result(pages=3), "PACS")
    bench.exam(result("later"), exam_id="e2")
    with scp((evt.EVT_C_STORE, archive), classes=(SINGLE,)) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
        assert len(archive.held) == 3
        with bench.node.database.writing() as session:
            session.delete(session.scalars(select(DeliveredObjectRow)).first())
        bench.change(ExamRow, "e1", superseded_by="e2", state="delivering")
        bench.change(DeliveryRow, int(claim.subject_id), state="sending")
        deliver(bench.node, claim)
    assert sum(len(copies) for copies in archive.held.values()) == 4
    assert (bench.delivery(claim).state, bench.exam_row().state) == ("delivered", "delivered")


def test_a_superseded_result_is_not_completed_after_the_one_that_replaces_it(bench: Bench) -> None:
    """What is replaced and rejected must not come to an archive that has been told so."""
    archive = Archive()
    (claim,) = bench.exam(result(pages=3), "PACS")
    with scp((evt.EVT_C_STORE, archive), classes=(SINGLE,)) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
        with bench.node.database.writing() as session:
            session.delete(session.scalars(select(DeliveredObjectRow)).first())
        bench.exam(result("later"), "PACS", exam_id="e2")
        bench.change(ExamRow, "e1", superseded_by="e2", state="delivering")
        bench.change(DeliveryRow, int(claim.subject_id), state="sending")
        deliver(bench.node, claim)
    assert sum(len(copies) for copies in archive.held.values()) == 3
    assert (bench.delivery(claim).state, bench.job(claim).state) == ("withdrawn", "done")


@pytest.mark.parametrize(
    ("refused", "replaced"), [(COMPREHENSIVE_3D_SR, ["sc", "sr"]), (MULTI_FRAME_TRUE_COLOUR_SC, [])]
)
def test_a_result_that_arrived_in_part_is_one_that_the_next_revision_replaces(
    bench: Bench, refused: str, replaced: list[str]
) -> None:
    """Its pages would look current for ever, were it taken for one that never left."""

    def keep(event: evt.Event) -> int:
        return 0xA700 if event.request.AffectedSOPClassUID == refused else 0

    (claim,) = bench.exam(whole_result()[:2], "PACS")
    bench.exam(result("later"), exam_id="e2")
    with scp((evt.EVT_C_STORE, keep), classes=EMITTED) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    with bench.node.database.writing() as session:
        supersede(session, session.get_one(ExamRow, "e1"), session.get_one(ExamRow, "e2"))
        session.flush()
        assert [row.kind for row in superseded_results(session, "e2")] == replaced
    assert bench.delivery(claim).state == "withdrawn"


def test_an_exam_whose_reading_failed_stays_so_when_the_archive_has_been_told(bench: Bench) -> None:
    """What is delivered is that it failed: `retry` still has to take it up."""
    (claim,) = bench.exam(result(), "PACS")
    bench.change(ExamRow, "e1", state="failed", error_step="read", error_text="no")
    with scp((evt.EVT_C_STORE, Archive()), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.delivery(claim).state == "delivered"
    assert (bench.exam_row().state, bench.exam_row().error_step) == ("failed", "read")


def test_no_transaction_is_open_while_a_peer_is_waited_for(bench: Bench) -> None:
    """SQLite has one write lock: held over the network it would stop the receiver."""
    (claim,) = bench.exam(result(), "PACS")

    def write(_event: evt.Event) -> int:
        bench.change(ExamRow, "e1", accession_number="written meanwhile")
        return 0

    with scp((evt.EVT_C_STORE, write), classes=BOTH) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.exam_row().state == "delivered"
    assert bench.exam_row().accession_number == "written meanwhile"
