"""The objects we emit, whom they go to and how far they got."""

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime


class ResultObjectRow(Base):
    """One encoded DICOM object of ours; its bytes are in the file store before it is first sent.

    `form` says which rung of its kind's fallback ladder it belongs to: multi_frame or single_frame,
    comprehensive_3d or comprehensive.
    """

    __tablename__ = "result_objects"
    __table_args__ = (UniqueConstraint("exam_id", "kind", "form", "item"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    exam_id: Mapped[str] = mapped_column(ForeignKey("exams.id"))
    kind: Mapped[str] = mapped_column(String(8))
    form: Mapped[str] = mapped_column(String(16))
    item: Mapped[int] = mapped_column(Integer)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class DeliveryRow(Base):
    """The results of one exam revision on their way to one peer.

    `state` is pending, sending, committing (all sent, the peer's commitment awaited), delivered, unconfirmed
    (the peer never answered; a late answer still commits), withdrawn (superseded before its end) or failed
    (dead letter). `attempts` counts tries of the present step. `committed` is null where the peer takes no
    storage commitment, or is never asked.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("exam_id", "peer_ae_title"),
        Index("ix_deliveries_state", "state"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    exam_id: Mapped[str] = mapped_column(ForeignKey("exams.id"))
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    deadline_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    last_error: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    committed: Mapped[bool | None] = mapped_column(Boolean)


class DeliveredObjectRow(Base):
    """One object that a peer has answered as stored: 0x0000, or a warning (PS3.4 B.2.3).

    `state` is sent, committed, resend (not safe there: to be sent again), refused or unconfirmed;
    `failure_reason` is that of the commitment's answer (PS3.3 C.14.1.1).
    """

    __tablename__ = "delivered_objects"

    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    result_object_id: Mapped[int] = mapped_column(ForeignKey("result_objects.id"), primary_key=True)
    answered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(16), default="sent", server_default="sent")
    failure_reason: Mapped[int | None] = mapped_column(Integer)
    resends: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class CommitmentRow(Base):
    """One request for storage commitment (PS3.4 J.3), written down before it is sent.

    `object_ids` are the result objects asked about. `answered_at` is null until an answer came.
    """

    __tablename__ = "commitments"

    transaction_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    object_ids: Mapped[list[int]] = mapped_column(JSON)
    attempt: Mapped[int] = mapped_column(Integer)
    asked_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    answered_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class PeerMemoryRow(Base):
    """What we learned of a peer: the form it takes of a `subject`, ``sc``, ``sr`` or ``commitment``."""

    __tablename__ = "peer_memory"

    ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    subject: Mapped[str] = mapped_column(String(16), primary_key=True)
    form: Mapped[str] = mapped_column(String(16))
    learned_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class OrderRow(Base):
    """What a modality worklist says of an exam's order; asked once, when the exam is closed.

    `matched_by` is study or accession, null where nothing was taken; then `reason` says why: no_match,
    several, mismatch, no_answer, refused or unreadable.
    """

    __tablename__ = "orders"

    exam_id: Mapped[str] = mapped_column(ForeignKey("exams.id"), primary_key=True)
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    matched_by: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(16))
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    found_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
