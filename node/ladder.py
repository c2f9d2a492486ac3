"""The forms in which a peer takes results: the best first, and what a refusal has taught for a time."""

import datetime as dt
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import utc_now
from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, PeerMemoryRow, ResultObjectRow
from node.house import Node
from node.records import result_row
from node.results.report import EncodedObject
from node.results.secondary_capture import to_single_frames
from node.results.structured_report import to_comprehensive
from node.settings import Peer

LADDERS = {
    "sc": ("multi_frame", "single_frame"),
    "sr": ("comprehensive_3d", "comprehensive"),
    "ko": ("key_object",),
    "rn": ("key_object",),
}
"""Kinds of result in the order in which they are sent, and the forms of each, the best first."""

LOWER: dict[str, Callable[[bytes], list[EncodedObject]]] = {
    "single_frame": to_single_frames,
    "comprehensive": lambda data: [to_comprehensive(data)],
}
"""What makes a lower form of the best one."""


def choose_forms(session: Session, node: Node, delivery: DeliveryRow) -> dict[str, str]:
    """Return the form of each kind that is sent: pinned, begun with, remembered or the best.

    What was to be sent again in another form, or of a kind no longer wanted, is forgotten.
    """
    title, result = delivery.peer_ae_title, ResultObjectRow
    peer = node.settings.peer(title)
    kinds = set(session.scalars(select(result.kind).where(result.exam_id == delivery.exam_id)))
    answered = session.execute(
        select(result.kind, result.form, DeliveredObjectRow)
        .join(result, DeliveredObjectRow.result_object_id == result.id)
        .where(DeliveredObjectRow.delivery_id == delivery.id)
    ).all()
    begun = {kind: form for kind, form, row in answered if row.state != "resend"}
    forms = {
        kind: _pinned(peer, kind) or begun.get(kind) or remembered(session, node, title, kind) or ladder[0]
        for kind, ladder in LADDERS.items()
        if kind in kinds and _is_wanted(peer, kind)
    }
    for kind, form, row in answered:
        if row.state == "resend" and forms.get(kind) != form:
            session.delete(row)
    return forms


def next_form(peer: Peer, kind: str, form: str) -> str | None:
    """Return the form to try where a peer refuses one; None where there is none, or it is pinned."""
    rest = LADDERS[kind][LADDERS[kind].index(form) + 1 :]
    return rest[0] if rest and not _pinned(peer, kind) else None


def remember(session: Session, ae_title: str, subject: str, form: str) -> None:
    """Note what a peer takes of a subject; forgotten after ``fallback_days``, and by ``check``."""
    session.merge(PeerMemoryRow(ae_title=ae_title, subject=subject, form=form, learned_at=utc_now()))


def remembered(session: Session, node: Node, ae_title: str, subject: str) -> str | None:
    """Return what a peer is remembered to take of a subject."""
    memory = session.get(PeerMemoryRow, (ae_title, subject))
    oldest = utc_now() - dt.timedelta(days=node.settings.fallback_days)
    return memory.form if memory is not None and memory.learned_at > oldest else None


def objects_of(node: Node, exam_id: str, kind: str, form: str) -> list[ResultObjectRow]:
    """Return an exam's results of a kind in a form; one that is not there yet is made and committed."""
    with node.database.reading() as session:
        if rows := _rows(session, exam_id, kind, form):
            return rows
        stored = _rows(session, exam_id, kind, LADDERS[kind][0])
    made: list[ResultObjectRow] = []
    for row in stored:
        with node.files.open(row.sha256) as file:
            made += [
                result_row(exam_id, encoded, node.files.keep_bytes(encoded.data), utc_now())
                for encoded in LOWER[form](file.read())
            ]
    with node.database.writing() as session:
        session.get_one(ExamRow, exam_id, with_for_update=True)
        if not _rows(session, exam_id, kind, form):  # else made meanwhile, for another peer
            session.add_all(made)
            session.flush()
        return _rows(session, exam_id, kind, form)


def _rows(session: Session, exam_id: str, kind: str, form: str) -> list[ResultObjectRow]:
    row = ResultObjectRow
    of_form = row.exam_id == exam_id, row.kind == kind, row.form == form
    return list(session.scalars(select(row).where(*of_form).order_by(row.item)))


def _is_wanted(peer: Peer | None, kind: str) -> bool:
    return peer is not None and (peer.rejection_notes if kind == "rn" else kind in peer.results)


def _pinned(peer: Peer | None, kind: str) -> str | None:
    form = {"sc": peer.sc_form, "sr": peer.sr_form}.get(kind, "auto") if peer else "auto"
    return None if form == "auto" else form
