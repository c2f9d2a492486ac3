"""The installation itself, its jobs, the leases of its workers, and the audit trail."""

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime


class InstallationRow(Base):
    """One row: the id that our UIDs derive from and that the storage folder's marker file must repeat."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class JobRow(Base):
    """A piece of work; `subject_id` names what it is about.

    `kind` is compare, close, read, state_failure, deliver, commit, picture, notify, pull or perform.
    `state` is queued, running, done or buried (dead letter). This table is the truth; the engine behind it
    only dispatches. `outage_since` is when it first failed for want of something that will be back.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_not_before_at", "state", "not_before_at"),
        Index("ix_jobs_kind_subject_id", "kind", "subject_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    not_before_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    dispatch: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(64))
    last_error: Mapped[str | None] = mapped_column(Text)
    outage_since: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class LeaseRow(Base):
    """A worker process that lives; once `expires_at` has passed, its jobs are another's."""

    __tablename__ = "leases"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)


class AuditEventRow(Base):
    """What happened, to what, when and by whom; appended in the transaction of the change that it records.

    `actor` is a user's name, ``token:`` and a token's, ``ae:`` and a peer's AE title, ``os:`` and the account
    of who ran a command; empty for what the node does by itself.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_subject_id_id", "subject_id", "id"),
        Index("ix_audit_events_at_id", "at", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    event: Mapped[str] = mapped_column(String(48))
    subject_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(80), default="", server_default="")
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class AuditLinkRow(Base):
    """An event's place in the chain: `mac` is an HMAC-SHA-256 over the link before and the event's content.

    Events get their ids as they are written, which is not the order in which they are committed; `seq` has no
    gaps and is given afterwards, by one sequencer at a time.
    """

    __tablename__ = "audit_links"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    linked_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    mac: Mapped[str] = mapped_column(String(64))
