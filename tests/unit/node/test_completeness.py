"""The set held against the set the PACS holds: what counts, what does not, and when nothing can be said."""

from sqlalchemy import select

from db.engine import utc_now
from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, ResultObjectRow
from node.completeness import Held, compare, held_of
from node.dicom.scu import Holdings, RemoteInstance
from node.house import Node
from node.settings import EndoscopyRule
from tests.unit.node.conftest import Sender

VL = "1.2.840.10008.5.1.4.1.1.77.1.1"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SC = "1.2.840.10008.5.1.4.1.1.7"


def _held(
    *arrived: str,
    emitted: tuple[str, ...] = (),
    delivered: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
) -> Held:
    return Held(
        arrived=frozenset(arrived),
        emitted=frozenset(emitted) | frozenset(delivered),
        delivered=frozenset(delivered),
        unread=frozenset(unread),
    )


def _holds(**instances: tuple[str, str]) -> Holdings:
    return Holdings(
        level="IMAGE",
        instances={
            uid: RemoteInstance(sop_class, modality) for uid, (sop_class, modality) in instances.items()
        },
        count=len(instances),
    )


def test_all_that_the_pacs_holds_has_arrived() -> None:
    """The verdict a clinician can rely on."""
    verdict = compare(_holds(a=(VL, "ES"), b=(VL, "ES")), _held("a", "b"), EndoscopyRule())
    assert (verdict.verdict, verdict.expected, verdict.missing) == ("complete", 2, 0)


def test_what_is_missing_is_counted() -> None:
    """An incomplete exam says how many images it lacks."""
    verdict = compare(_holds(a=(VL, "ES"), b=(VL, "ES")), _held("a"), EndoscopyRule())
    assert (verdict.verdict, verdict.expected, verdict.missing) == ("incomplete", 2, 1)


def test_reports_and_our_own_results_are_not_expected() -> None:
    """A bare count would wait for ever for a PDF that is not read and for our own answer."""
    holds = _holds(a=(VL, "ES"), pdf=(PDF, "DOC"), ours=(SC, "OT"), sr=(SC, "OT"))
    verdict = compare(holds, _held("a", emitted=("ours",)), EndoscopyRule())
    assert (verdict.verdict, verdict.expected) == ("complete", 1)


def test_a_pacs_that_holds_only_our_answer_has_no_match() -> None:
    """Images sent by a device straight to us are unknown to the PACS; our result there proves nothing."""
    verdict = compare(_holds(ours=(VL, "ES")), _held("a", emitted=("ours",)), EndoscopyRule())
    assert (verdict.verdict, verdict.reason) == ("unknown", "no_match")


def test_a_pacs_that_can_only_count_is_taken_at_its_count() -> None:
    """The fallback: what arrived, read or not, against the number, less what it took of ours."""
    count = Holdings(level="STUDY", instances=None, count=4)
    held = _held("a", "b", "pdf", delivered=("ours",), unread=("pdf",))
    assert compare(count, held, EndoscopyRule()).verdict == "complete"
    assert compare(count, _held("a", "b", delivered=("ours",)), EndoscopyRule()).missing == 1


def test_a_result_that_never_left_hides_no_missing_image() -> None:
    """Withdrawn results, and the forms that a peer did not take, are not among what it counts."""
    count = Holdings(level="STUDY", instances=None, count=3)
    verdict = compare(count, _held("a", "b", emitted=("withdrawn",)), EndoscopyRule())
    assert (verdict.expected, verdict.missing) == (3, 1)


def test_a_count_of_our_results_alone_is_no_match() -> None:
    """A peer that threw a result away may count fewer than it answered for; no number is below nought."""
    count = Holdings(level="STUDY", instances=None, count=1)
    verdict = compare(count, _held("a", delivered=("ours", "too")), EndoscopyRule())
    assert (verdict.verdict, verdict.reason, verdict.expected) == ("unknown", "no_match", None)


def test_what_is_held_tells_whom_our_results_were_delivered_to(node: Node, send: Sender) -> None:
    """What another archive took is not in this one's count."""
    send("1.2.1")
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        for number, peer in ((1, "PACS"), (2, "OTHER"), (3, None)):
            result = ResultObjectRow(
                exam_id=exam.id, kind="sc", form="multi_frame", item=number,
                sop_instance_uid=f"2.25.{number}", sop_class_uid=SC, series_instance_uid="2.25.8",
                sha256="0" * 64, size_bytes=1, created_at=utc_now(),
            )  # fmt: skip
            session.add(result)
            if peer is not None:
                delivery = DeliveryRow(
                    exam_id=exam.id, peer_ae_title=peer, state="delivered", deadline_at=utc_now()
                )
                session.add(delivery)
                session.flush()
                session.add(
                    DeliveredObjectRow(
                        delivery_id=delivery.id, result_object_id=result.id, answered_at=utc_now()
                    )
                )
    held = held_of(node, exam)
    assert held.delivered == {"2.25.1"}
    assert held.emitted == {"2.25.1", "2.25.2", "2.25.3"}
