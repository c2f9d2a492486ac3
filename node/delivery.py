"""Results on their way to a peer: sent until each object is answered with success, or dead-lettered.

No transaction is open while anything is sent; what a peer has answered is recorded at once, so that a restart
sends the rest and only the rest, in the same bytes.
"""

import datetime as dt
import time
from dataclasses import dataclass

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, PeerMemoryRow, ResultObjectRow
from node.dicom.scu import Outgoing, send
from node.errors import RefusedError, SendError
from node.house import Node
from node.records import fail_exam, result_row
from node.results.secondary_capture import to_single_frames

log = structlog.get_logger()

LONGEST_DELAY_S = 3600
"""Retries double from 2 s up to this: a PACS that comes back is found within the hour."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one run of a delivery job sends: the row as it stood, and the objects not yet answered."""

    delivery_id: int
    exam_id: str
    peer_ae_title: str
    form: str
    ids: dict[str, int]
    objects: tuple[Outgoing, ...]


def deliver(node: Node, claim: Claim) -> None:
    """Send the results named by the claim and store what came of it."""
    shipment = _begin(node, claim)
    if shipment is None:
        return
    started = time.monotonic()
    try:
        _send(node, shipment)
    except RefusedError as error:
        if shipment.form == "multi_frame":
            _step_down(node, claim, shipment, error)
        else:
            _put_off(node, claim, shipment, error)
    except SendError as error:
        _put_off(node, claim, shipment, error)
    else:
        _complete(node, claim, shipment, time.monotonic() - started)


def _begin(node: Node, claim: Claim) -> Shipment | None:
    """Mark the delivery as being sent; one withdrawn or ended meanwhile only ends its job.

    Of an exam with a later revision, only what has begun to arrive is sent to its end.
    """
    with node.database.writing() as session:
        delivery_id = int(claim.subject_id)
        exam = _locked_exam(session, session.get_one(DeliveryRow, delivery_id).exam_id)
        delivery = session.get_one(DeliveryRow, delivery_id, with_for_update=True, populate_existing=True)
        is_under_way = delivery.state in ("pending", "sending")
        if is_under_way and exam.superseded_by is not None and not _answered(session, delivery_id):
            _withdraw(session, exam, delivery)
            is_under_way = False
        if not is_under_way:
            node.jobs.finish(session, claim)
            return None
        delivery.state = "sending"
        if delivery.form is None:
            delivery.form = _remembered_form(session, node, delivery.peer_ae_title)
        form = delivery.form
        if exam.state == "read":
            exam.state = "delivering"
            record(session, "exam_delivering", exam.id)
        needs_single = form == "single_frame" and not _rows(session, exam.id, form)
    if needs_single:
        _make_single_frames(node, exam.id)
    with node.database.reading() as session:
        answered = _answered(session, delivery_id)
        rows = [row for row in _rows(session, exam.id, form) if row.id not in answered]
        return Shipment(
            delivery_id=delivery_id,
            exam_id=exam.id,
            peer_ae_title=delivery.peer_ae_title,
            form=form,
            ids={row.sop_instance_uid: row.id for row in rows},
            objects=tuple(
                Outgoing(row.sop_instance_uid, row.sop_class_uid, node.files.path(row.sha256)) for row in rows
            ),
        )


def _send(node: Node, shipment: Shipment) -> None:
    peer = node.settings.peer(shipment.peer_ae_title)
    if peer is None:
        raise SendError(f"{shipment.peer_ae_title}: no such peer in the settings any more; put it back")

    def on_answer(sop_instance_uid: str, status: int) -> None:
        with node.database.writing() as session:
            session.merge(
                DeliveredObjectRow(
                    delivery_id=shipment.delivery_id,
                    result_object_id=shipment.ids[sop_instance_uid],
                    answered_at=utc_now(),
                )
            )
            record(
                session, "result_stored", shipment.exam_id,
                sop_instance_uid=sop_instance_uid, peer=peer.ae_title, status=f"0x{status:04X}",
            )  # fmt: skip

    if shipment.objects:
        send(peer, shipment.objects, node.settings, on_answer=on_answer)


def _complete(node: Node, claim: Claim, shipment: Shipment, seconds: float) -> None:
    with node.database.writing() as session:
        now = utc_now()
        exam = _locked_exam(session, shipment.exam_id)
        delivery = session.get_one(DeliveryRow, shipment.delivery_id)
        delivery.state, delivery.delivered_at, delivery.last_error = "delivered", now, None
        exam.step_seconds = {**exam.step_seconds, "deliver": round(seconds, 3)}
        record(session, "result_delivered", exam.id, peer=shipment.peer_ae_title, form=shipment.form)
        _settle(session, exam, now)
        node.jobs.finish(session, claim)
    log.info("result_delivered", exam_id=shipment.exam_id, peer=shipment.peer_ae_title, form=shipment.form)


def _put_off(node: Node, claim: Claim, shipment: Shipment, error: SendError | RefusedError) -> None:
    """Try again later; a refusal or the deadline makes a dead letter, a later revision a withdrawal."""
    with node.database.writing() as session:
        now = utc_now()
        exam = _locked_exam(session, shipment.exam_id)
        delivery = session.get_one(DeliveryRow, shipment.delivery_id)
        delivery.attempts += 1
        delivery.last_error = str(error)
        if exam.superseded_by is not None:
            _withdraw(session, exam, delivery)
            node.jobs.finish(session, claim)
        elif now >= delivery.deadline_at or isinstance(error, RefusedError):
            delivery.state = "failed"
            fail_exam(session, exam.id, "deliver", str(error))
            node.jobs.bury(session, claim, str(error))
        else:
            delay = dt.timedelta(seconds=min(LONGEST_DELAY_S, 2 ** min(delivery.attempts, 12)))
            delivery.state = "pending"
            peer, attempts = shipment.peer_ae_title, delivery.attempts
            record(session, "delivery_postponed", exam.id, peer=peer, attempts=attempts)
            node.jobs.postpone(session, claim, min(now + delay, delivery.deadline_at))
    log.warning("delivery_not_made", exam_id=shipment.exam_id, peer=shipment.peer_ae_title, error=str(error))


def _step_down(node: Node, claim: Claim, shipment: Shipment, error: RefusedError) -> None:
    """Leave the multi-frame rung: remember it of the peer, and go on at once with single frames."""
    with node.database.writing() as session:
        delivery = session.get_one(DeliveryRow, shipment.delivery_id)
        delivery.form, delivery.last_error = "single_frame", str(error)
        session.merge(
            PeerMemoryRow(
                ae_title=shipment.peer_ae_title, subject="sc", form="single_frame", learned_at=utc_now()
            )
        )
        record(session, "peer_refused_multi_frame", shipment.exam_id, peer=shipment.peer_ae_title)
    deliver(node, claim)


def _answered(session: Session, delivery_id: int) -> set[int]:
    """Return the result objects that the peer has answered with success."""
    ids = select(DeliveredObjectRow.result_object_id).where(DeliveredObjectRow.delivery_id == delivery_id)
    return set(session.scalars(ids))


def _withdraw(session: Session, exam: ExamRow, delivery: DeliveryRow) -> None:
    """End a delivery whose exam has a later revision: sent now, it would arrive after that one's result."""
    delivery.state = "withdrawn"
    record(session, "result_withdrawn", exam.id, peer=delivery.peer_ae_title)
    _settle(session, exam, utc_now())


def _settle(session: Session, exam: ExamRow, now: dt.datetime) -> None:
    """Call the exam delivered once nothing of it is under way or failed, and something has arrived."""
    session.flush()
    states = set(session.scalars(select(DeliveryRow.state).where(DeliveryRow.exam_id == exam.id)))
    if states == {"withdrawn"}:
        exam.state = "read"
    elif states <= {"delivered", "withdrawn"}:
        exam.state, exam.delivered_at = "delivered", now
        record(session, "exam_delivered", exam.id)


def _make_single_frames(node: Node, exam_id: str) -> None:
    """Make the single-frame objects of an exam and commit them, before the first of them is sent."""
    with node.database.reading() as session:
        stored = _rows(session, exam_id, "multi_frame")
    made: list[ResultObjectRow] = []
    for row in stored:
        with node.files.open(row.sha256) as file:
            made += [
                result_row(exam_id, encoded, node.files.keep_bytes(encoded.data), utc_now())
                for encoded in to_single_frames(file.read())
            ]
    with node.database.writing() as session:
        _locked_exam(session, exam_id)
        if not _rows(session, exam_id, "single_frame"):  # else made meanwhile, for another peer
            session.add_all(made)


def _remembered_form(session: Session, node: Node, ae_title: str) -> str:
    memory = session.get(PeerMemoryRow, (ae_title, "sc"))
    oldest = utc_now() - dt.timedelta(days=node.settings.fallback_days)
    return memory.form if memory is not None and memory.learned_at > oldest else "multi_frame"


def _rows(session: Session, exam_id: str, form: str) -> list[ResultObjectRow]:
    rows = select(ResultObjectRow).where(ResultObjectRow.exam_id == exam_id, ResultObjectRow.form == form)
    return list(session.scalars(rows.order_by(ResultObjectRow.kind, ResultObjectRow.item)))


def _locked_exam(session: Session, exam_id: str) -> ExamRow:
    """Return the exam, other deliveries of it kept out until the transaction ends."""
    return session.get_one(ExamRow, exam_id, with_for_update=True, populate_existing=True)
