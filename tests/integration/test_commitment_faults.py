"""Archives that commit late, partly, never, or say why they will not."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom import Dataset
from pynetdicom import evt
from sqlalchemy import delete

from db.engine import utc_now
from db.tables import (
    CommitmentRow,
    DeliveryRow,
    ExamRow,
    JobRow,
    PeerMemoryRow,
)
from node.delivery import deliver
from node.errors import NodeError
from node.listing import list_exams
from node.records import superseded_results
from node.retry import retry_exam
from tests.integration.committing import (
    Pacs,
    at_once,
    count_queued,
    database_kind,
    failing,
    let_time_pass,
    listening,
    object_states,
    predicted,
    report_on,
    report_to,
    short_listening,
    silently,
    work,
)
from tests.integration.delivering import MULTI, SINGLE, Bench, bench, result

__all__ = ["bench", "database_kind", "short_listening"]


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


@pytest.mark.parametrize("reason", [0x0112, 0x0119])
def test_what_is_lost_or_refused_of_a_replaced_result_is_not_sent_again(bench: Bench, reason: int) -> None:
    """It would come after the result that replaces it, which names it nevertheless: it had left."""
    pacs = Pacs(failing(reason))
    (claim,) = bench.exam(result(), "PACS")
    bench.exam(result("later"), exam_id="e2")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        deliver(bench.node, claim)
        bench.change(ExamRow, "e1", superseded_by="e2")
        work(bench)
    assert (pacs.copies, bench.delivery(claim).state, count_queued(bench)) == ([1], "withdrawn", 0)
    assert f"0x{reason:04X}" in (bench.delivery(claim).last_error or "")
    with bench.node.database.reading() as session:
        assert [row.kind for row in superseded_results(session, "e2")] == ["sc"]


@pytest.mark.parametrize("state", ["delivering", "read"])
def test_an_archive_that_never_reported_on_a_replaced_result_is_asked_again(bench: Bench, state: str) -> None:
    """Else nothing but a late report would ever end that delivery."""
    pacs = Pacs(at_once)
    (claim,) = bench.exam(result(), "PACS")
    bench.exam(result("later"), exam_id="e2")
    with pacs.running() as peer:
        bench.peers(peer, commitment="auto")
        deliver(bench.node, claim)
        with bench.node.database.writing() as session:
            session.execute(delete(JobRow).where(JobRow.kind == "commit"))
        bench.change(ExamRow, "e1", superseded_by="e2", state=state)
        bench.change(DeliveryRow, int(claim.subject_id), state="unconfirmed")
        assert retry_exam(bench.node, "e1") == "deliver"
        work(bench)
    assert (bench.delivery(claim).committed, bench.exam_row().state, pacs.copies) == (True, "delivered", [1])


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_report_that_comes_while_a_person_retries_makes_no_second_job(bench: Bench) -> None:
    """Two jobs of one delivery would ask its archive twice, and act on its answer twice."""
    (claim,) = bench.exam(result(), "PACS")
    predicted(bench)
    bench.change(ExamRow, "e1", state="delivering")
    bench.change(DeliveryRow, int(claim.subject_id), state="unconfirmed")
    with ThreadPoolExecutor(1) as pool:
        with bench.node.database.writing() as session:
            session.get_one(DeliveryRow, int(claim.subject_id), with_for_update=True).state = "committing"
            session.flush()
            retried = pool.submit(retry_exam, bench.node, "e1")
            with pytest.raises(TimeoutError):
                retried.result(0.5)
        with pytest.raises(NodeError, match="this one is delivering"):
            retried.result(20)


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
