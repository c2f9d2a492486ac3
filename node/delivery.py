"""Results on their way to a peer: sent until each object is answered with success, or dead-lettered.

No transaction is open while anything is sent; what a peer has answered is recorded at once, so that a restart
sends the rest and only the rest, in the same bytes. Each kind of result has a ladder of forms of its own.
"""

import datetime as dt
import time
from dataclasses import dataclass

import structlog
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, ResultObjectRow
from node.dicom.scu import Outgoing, send
from node.errors import RefusedError, SendError
from node.house import Node
from node.ladder import choose_forms, next_form, objects_of, remember, remembered
from node.records import fail_exam
from node.settings import Peer
from node.workitems import follow

log = structlog.get_logger()

LONGEST_DELAY_S = 3600
"""Retries double from 2 s up to this: a PACS that comes back is found within the hour."""

NO_COMMITMENT = "none"
"""What is remembered, as subject ``commitment``, of a peer that rejects storage commitment."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one run of a delivery job sends: the kinds of result, and the form that each begins with."""

    delivery_id: int
    exam_id: str
    ae_title: str
    forms: dict[str, str]


def deliver(node: Node, claim: Claim) -> None:
    """Send the results named by the claim and store what came of it.

    A kind that the peer takes in no form keeps the others from nothing, but makes the delivery a dead letter.
    """
    shipment = _begin(node, claim)
    if shipment is None:
        return
    started = time.monotonic()
    try:
        peer = peer_of(node, shipment.ae_title)
        refusals = [_send_kind(node, peer, shipment, kind) for kind in shipment.forms]
    except SendError as error:
        _put_off(node, claim, shipment, error)
    else:
        _complete(
            node, claim, shipment, refusals=[*filter(None, refusals)], seconds=time.monotonic() - started
        )


def peer_of(node: Node, ae_title: str) -> Peer:
    """Return the peer of a delivery; raises `SendError` where the settings have lost it."""
    peer = node.settings.peer(ae_title)
    if peer is None:
        raise SendError(f"{ae_title}: no such peer in the settings any more; put it back")
    return peer


def locked(session: Session, delivery_id: int) -> tuple[ExamRow, DeliveryRow]:
    """Return a delivery and its exam, all others kept from both until the transaction ends."""
    exam_id = session.get_one(DeliveryRow, delivery_id).exam_id
    exam = session.get_one(ExamRow, exam_id, with_for_update=True, populate_existing=True)
    return exam, session.get_one(DeliveryRow, delivery_id, with_for_update=True, populate_existing=True)


def conclude(
    session: Session, node: Node, claim: Claim, delivery: DeliveryRow, *, committed: bool | None
) -> None:
    """Call a delivery made, and its exam where nothing else of it is under way; `locked` came before."""
    now = utc_now()
    delivery.state, delivery.delivered_at, delivery.last_error = "delivered", now, None
    delivery.committed = committed
    record(
        session, "result_delivered", delivery.exam_id, peer=delivery.peer_ae_title, committed=committed
    )  # fmt: skip
    exam = session.get_one(ExamRow, delivery.exam_id)
    _settle(session, exam, now)
    follow(session, node, exam)
    node.jobs.finish(session, claim)
    log.info("result_delivered", exam_id=delivery.exam_id, peer=delivery.peer_ae_title, committed=committed)


def give_up(session: Session, node: Node, claim: Claim, delivery: DeliveryRow, error: str) -> None:
    """Make a delivery a dead letter, or withdraw what a later revision replaces; `locked` came before."""
    delivery.last_error = error
    exam = session.get_one(ExamRow, delivery.exam_id)
    if exam.superseded_by is not None:
        _withdraw(session, exam, delivery)
        node.jobs.finish(session, claim)
    else:
        delivery.state = "failed"
        fail_exam(session, exam.id, "deliver", error)
        follow(session, node, exam)
        node.jobs.bury(session, claim, error)
    log.warning("delivery_not_made", exam_id=exam.id, peer=delivery.peer_ae_title, error=error)


def _begin(node: Node, claim: Claim) -> Shipment | None:
    """Mark the delivery as being sent; one withdrawn or ended meanwhile only ends its job.

    Of an exam with a later revision, only what has begun to arrive is sent to its end, and not after that
    revision's results are made: they name it as replaced.
    """
    with node.database.writing() as session:
        exam, delivery = locked(session, int(claim.subject_id))
        is_under_way = delivery.state in ("pending", "sending")
        if is_under_way and exam.superseded_by is not None and _is_too_late(session, exam, delivery):
            _withdraw(session, exam, delivery)
            is_under_way = False
        if not is_under_way:
            node.jobs.finish(session, claim)
            return None
        delivery.state = "sending"
        if exam.state == "read":
            exam.state = "delivering"
            record(session, "exam_delivering", exam.id, peer=delivery.peer_ae_title)
        return Shipment(delivery.id, exam.id, delivery.peer_ae_title, choose_forms(session, node, delivery))


def _is_too_late(session: Session, exam: ExamRow, delivery: DeliveryRow) -> bool:
    later = DeliveryRow.exam_id == exam.superseded_by, DeliveryRow.peer_ae_title == delivery.peer_ae_title
    return not _answered(session, delivery.id) or bool(session.scalar(select(exists().where(*later))))


def _send_kind(node: Node, peer: Peer, shipment: Shipment, kind: str) -> str | None:
    """Send what is left of one kind, down its ladder as far as it goes; return why it is refused, or None."""
    form = shipment.forms[kind]
    while True:
        try:
            _send(node, peer, shipment, _left(node, shipment, kind, form))
        except RefusedError as error:
            lower = _step_down(node, peer, shipment, kind=kind, form=form, error=error)
            if lower is None:
                return str(error)
            form = lower
        else:
            return None


def _left(node: Node, shipment: Shipment, kind: str, form: str) -> list[ResultObjectRow]:
    """Return the objects of a form that the peer has not answered yet, or has to be given again."""
    rows = objects_of(node, shipment.exam_id, kind, form)
    with node.database.reading() as session:
        answered = _answered(session, shipment.delivery_id)
    return [row for row in rows if answered.get(row.id, "resend") == "resend"]


def _send(node: Node, peer: Peer, shipment: Shipment, rows: list[ResultObjectRow]) -> None:
    ids = {row.sop_instance_uid: row.id for row in rows}
    objects = [Outgoing(row.sop_instance_uid, row.sop_class_uid, node.files.path(row.sha256)) for row in rows]

    def on_answer(sop_instance_uid: str, status: int) -> None:
        key, now = (shipment.delivery_id, ids[sop_instance_uid]), utc_now()
        with node.database.writing() as session:
            row = session.get(DeliveredObjectRow, key)
            if row is None:
                session.add(DeliveredObjectRow(delivery_id=key[0], result_object_id=key[1], answered_at=now))
            else:
                row.state, row.answered_at, row.resends = "sent", now, row.resends + 1
            record(
                session, "result_stored", shipment.exam_id,
                sop_instance_uid=sop_instance_uid, peer=peer.ae_title, status=f"0x{status:04X}",
            )  # fmt: skip

    if objects:
        send(peer, objects, node.settings, on_answer=on_answer)


def _step_down(
    node: Node, peer: Peer, shipment: Shipment, *, kind: str, form: str, error: RefusedError
) -> str | None:
    """Leave a refused rung: remember it of the peer; return the next, or None where there is none."""
    lower = next_form(peer, kind, form)
    with node.database.writing() as session:
        _, delivery = locked(session, shipment.delivery_id)
        delivery.last_error = str(error)
        if lower is not None:
            remember(session, peer.ae_title, kind, lower)
        record(
            session, "result_form_refused", shipment.exam_id,
            peer=peer.ae_title, kind=kind, form=form, instead=lower,
        )  # fmt: skip
    return lower


def _complete(node: Node, claim: Claim, shipment: Shipment, *, refusals: list[str], seconds: float) -> None:
    """Wait for the peer's commitment where it gives one; a kind refused for good makes a dead letter."""
    with node.database.writing() as session:
        exam, delivery = locked(session, shipment.delivery_id)
        exam.step_seconds = {**exam.step_seconds, "deliver": round(seconds, 3)}
        if refusals:
            give_up(session, node, claim, delivery, "; ".join(refusals))
        elif _is_committed_to(session, node, delivery):
            delivery.state, delivery.committed = "committing", False
            delivery.attempts, delivery.last_error = 0, None
            node.jobs.enqueue(session, "commit", str(delivery.id))
            node.jobs.finish(session, claim)
        else:
            conclude(session, node, claim, delivery, committed=None)


def _is_committed_to(session: Session, node: Node, delivery: DeliveryRow) -> bool:
    wish = peer_of(node, delivery.peer_ae_title).storage_commitment
    known = remembered(session, node, delivery.peer_ae_title, "commitment")
    return wish == "required" or (wish == "auto" and known != NO_COMMITMENT)


def _put_off(node: Node, claim: Claim, shipment: Shipment, error: SendError) -> None:
    """Try again later; the deadline makes a dead letter, a later revision a withdrawal."""
    with node.database.writing() as session:
        now = utc_now()
        exam, delivery = locked(session, shipment.delivery_id)
        delivery.attempts += 1
        if now >= delivery.deadline_at or exam.superseded_by is not None:
            give_up(session, node, claim, delivery, str(error))
            return
        delay = dt.timedelta(seconds=min(LONGEST_DELAY_S, 2 ** min(delivery.attempts, 12)))
        delivery.state, delivery.last_error = "pending", str(error)
        peer, attempts = shipment.ae_title, delivery.attempts
        record(session, "delivery_postponed", exam.id, peer=peer, attempts=attempts)
        node.jobs.postpone(session, claim, min(now + delay, delivery.deadline_at))
    log.warning("delivery_not_made", exam_id=shipment.exam_id, peer=shipment.ae_title, error=str(error))


def _answered(session: Session, delivery_id: int) -> dict[int, str]:
    """Return the result objects that the peer has answered with success, and how they stand."""
    rows = select(DeliveredObjectRow).where(DeliveredObjectRow.delivery_id == delivery_id)
    return {row.result_object_id: row.state for row in session.scalars(rows)}


def _withdraw(session: Session, exam: ExamRow, delivery: DeliveryRow) -> None:
    """End a delivery whose exam has a later revision: sent now, it would arrive after that one's result."""
    delivery.state = "withdrawn"
    record(session, "result_withdrawn", exam.id, peer=delivery.peer_ae_title)
    _settle(session, exam, utc_now())


def _settle(session: Session, exam: ExamRow, now: dt.datetime) -> None:
    """Call the exam delivered once nothing of it is under way or failed, and something has arrived.

    One whose reading has failed stays so, whoever has been told.
    """
    session.flush()
    states = set(session.scalars(select(DeliveryRow.state).where(DeliveryRow.exam_id == exam.id)))
    if exam.state == "failed":
        return
    if states == {"withdrawn"}:
        exam.state = "read"
    elif states <= {"delivered", "withdrawn"}:
        exam.state, exam.delivered_at = "delivered", now
        record(session, "exam_delivered", exam.id)
