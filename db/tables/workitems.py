"""Workitems (Unified Procedure Steps, PS3.4 annex CC), their subscribers, and what these wait to be told."""

import datetime as dt

from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime


class WorkitemRow(Base):
    """One step that this node performs: given to it by a peer, or claimed from a peer that manages it.

    `state` is SCHEDULED, IN PROGRESS, COMPLETED or CANCELED; of a foreign one also LOST, which another
    performs. `peer_ae_title` is who gave it, or manages it where `is_foreign`. `transaction_uid` locks it: it
    is kept before it is first sent. `dataset` is the whole of it, in Implicit VR Little Endian.
    """

    __tablename__ = "workitems"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    is_foreign: Mapped[bool] = mapped_column(Boolean)
    state: Mapped[str] = mapped_column(String(16), index=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), default="")
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    dataset: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class WorkitemSubscriptionRow(Base):
    """A peer that is told of a workitem, or, under one of the well-known UIDs, of each new one.

    `keys` is what a new one must match under the filtered one of these, in Implicit VR Little Endian.
    """

    __tablename__ = "workitem_subscriptions"

    ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    keys: Mapped[bytes] = mapped_column(LargeBinary, default=b"")


class WorkitemReportRow(Base):
    """An event that a subscriber has not answered yet; the row goes when it has, or when it is too late."""

    __tablename__ = "workitem_reports"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(16), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    event_type: Mapped[int] = mapped_column(Integer)
    information: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
