"""Storage commitment: what a peer has stored is asked about until it answers for each object, or refuses one.

A delivery has one job at a time; while it is ``committing`` that is this one. It runs to ask, again when a
report has come (`node.commitment_reports`), and again when none has in time. It goes by the tables alone, so
it may be killed at any point: what it was waiting for is then asked anew, and a report on either will do.
"""

import datetime as dt
from dataclasses import dataclass
from functools import partial

import structlog
from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import CommitmentRow, DeliveredObjectRow, DeliveryRow, ResultObjectRow
from node.commitment_reports import take_report
from node.delivery import LONGEST_DELAY_S, NO_COMMITMENT, conclude, give_up, locked, peer_of
from node.dicom.commitment import CommitmentRequest, request_commitment
from node.errors import RefusedError, SendError
from node.house import Node
from node.ladder import remember

log = structlog.get_logger()

SHORTEST_DELAY_S = 2

FAILURE_REASONS = {
    0x0110: "processing failure", 0x0112: "no such object", 0x0119: "class/instance conflict",
    0x0122: "SOP class not supported", 0x0131: "duplicate transaction UID", 0x0213: "resource limitation",
}  # fmt: skip
"""PS3.3 C.14.1.1."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a peer is asked: by id of the result object, its SOP Class and SOP Instance UIDs."""

    delivery_id: int
    exam_id: str
    ae_title: str
    references: dict[int, tuple[str, str]]
    was_asked: bool


def commit(node: Node, claim: Claim) -> None:
    """Ask the peer of a delivery to commit to what it has stored; act on what it has reported."""
    question = _act(node, claim)
    if question is None:
        return
    try:
        peer = peer_of(node, question.ae_title)
        request_commitment(
            peer, node.settings,
            begin=partial(_write_down, node, question),
            take=partial(take_report, node),
            is_answered=partial(_is_answered, node),
        )  # fmt: skip
    except RefusedError as error:
        if peer.storage_commitment == "required" or not question.was_asked:
            _do_without(node, claim, str(error), is_required=peer.storage_commitment == "required")
        else:  # it took one before
            _act(node, claim, error=str(error))
    except SendError as error:
        _act(node, claim, error=str(error))
    else:
        _act(node, claim, error="")


def _act(node: Node, claim: Claim, *, error: str | None = None) -> Question | None:
    """Settle the job by what is known of each object; or return what there is to ask.

    Parameters
    ----------
    error
        None where nobody has been asked in this run; else why asking failed, empty where it did not.
    """
    with node.database.writing() as session:
        exam, delivery = locked(session, int(claim.subject_id))
        if delivery.state != "committing":
            node.jobs.finish(session, claim)
            return None
        objects = select(DeliveredObjectRow).where(DeliveredObjectRow.delivery_id == delivery.id)
        by_state: dict[str, list[DeliveredObjectRow]] = {}
        for row in session.scalars(objects.order_by(DeliveredObjectRow.result_object_id)):
            by_state.setdefault(row.state, []).append(row)
        waiting = by_state.get("sent", []) + by_state.get("unconfirmed", [])
        lost = by_state.get("resend", [])
        if lost and exam.superseded_by is None:
            delivery.state = "sending"
            node.jobs.enqueue(session, "deliver", str(delivery.id))
            node.jobs.finish(session, claim)
        elif lost or (not waiting and "refused" in by_state):  # what is replaced is not sent again
            refused = [*lost, *by_state.get("refused", [])]
            give_up(session, node, claim, delivery, _told(session, delivery, refused))
        elif not waiting:
            conclude(session, node, claim, delivery, committed=bool(by_state) or None)
        else:
            return _ask_or_wait(session, node, claim, delivery, waiting=waiting, error=error)
        return None


def _ask_or_wait(
    session: Session, node: Node, claim: Claim, delivery: DeliveryRow,
    *, waiting: list[DeliveredObjectRow], error: str | None,
) -> Question | None:  # fmt: skip
    now, settings = utc_now(), node.settings
    asked = select(CommitmentRow).where(CommitmentRow.delivery_id == delivery.id)
    newest = session.scalars(asked.order_by(CommitmentRow.asked_at.desc()).limit(1)).first()
    due = now
    if newest is not None and newest.answered_at is None:
        due = newest.asked_at + dt.timedelta(seconds=settings.commitment_timeout_s)
    is_last = delivery.attempts >= settings.commitment_attempts
    if error is None and not is_last:
        ids = [row.result_object_id for row in waiting]
        rows = session.scalars(select(ResultObjectRow).where(ResultObjectRow.id.in_(ids)))
        return Question(
            delivery.id, delivery.exam_id, delivery.peer_ae_title,
            {row.id: (row.sop_class_uid, row.sop_instance_uid) for row in rows}, newest is not None,
        )  # fmt: skip
    if (is_last and due <= now) or (error and now >= delivery.deadline_at):
        for row in waiting:
            row.state = "unconfirmed"
        delivery.state = "unconfirmed"
        delivery.last_error = error or (
            f"{delivery.peer_ae_title}: no report on storage commitment in time; "
            f"`endonode retry {delivery.exam_id}` asks again"
        )
        record(session, "delivery_unconfirmed", delivery.exam_id, peer=delivery.peer_ae_title)
        node.jobs.finish(session, claim)
        log.error("delivery_unconfirmed", exam_id=delivery.exam_id, peer=delivery.peer_ae_title)
        return None
    if error:
        delivery.last_error = error
        log.warning("commitment_not_requested", exam_id=delivery.exam_id, error=error)
    # As long again as it has lasted, between the bounds: doubling without a counter.
    lasted_s = (now - max(row.answered_at for row in waiting)).total_seconds()
    delay = dt.timedelta(seconds=min(max(lasted_s, SHORTEST_DELAY_S), LONGEST_DELAY_S))
    node.jobs.postpone(session, claim, max(due, now + delay))
    return None


def _write_down(node: Node, question: Question) -> CommitmentRequest:
    """Make a request durable before it is sent, under a Transaction UID of its own (PS3.4 J.3.2.1.1.1)."""
    uid = generate_uid(prefix=None)
    with node.database.writing() as session:
        _, delivery = locked(session, question.delivery_id)
        delivery.attempts += 1
        session.add(
            CommitmentRow(
                transaction_uid=uid, delivery_id=delivery.id, object_ids=list(question.references),
                attempt=delivery.attempts, asked_at=utc_now(),
            )
        )  # fmt: skip
        record(
            session, "commitment_requested", question.exam_id,
            peer=question.ae_title, transaction_uid=uid, objects=len(question.references),
        )  # fmt: skip
    return CommitmentRequest(uid, list(question.references.values()))


def _is_answered(node: Node, transaction_uid: str) -> bool:
    with node.database.reading() as session:
        return session.get_one(CommitmentRow, transaction_uid).answered_at is not None


def _do_without(node: Node, claim: Claim, error: str, *, is_required: bool) -> None:
    """End the delivery to a peer that takes no storage commitment: made but not confirmed, or not made."""
    with node.database.writing() as session:
        _, delivery = locked(session, int(claim.subject_id))
        if is_required:
            give_up(session, node, claim, delivery, error)
        else:
            remember(session, delivery.peer_ae_title, "commitment", NO_COMMITMENT)
            conclude(session, node, claim, delivery, committed=None)


def _told(session: Session, delivery: DeliveryRow, refused: list[DeliveredObjectRow]) -> str:
    told = []
    for row in refused:
        uid = session.get_one(ResultObjectRow, row.result_object_id).sop_instance_uid
        reason = row.failure_reason or 0
        told.append(f"{uid} (0x{reason:04X}, {FAILURE_REASONS.get(reason, 'reason unknown')})")
    return f"{delivery.peer_ae_title}: storage commitment was refused for {', '.join(told)}; mend that there"
