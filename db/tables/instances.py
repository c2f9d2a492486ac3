"""Every object that was answered with success, and what became of it."""

import datetime as dt

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime

IN_FORCE = text("disposition IN ('accepted', 'kept')")
"""At most one row a SOP Instance UID is in force; the index below lets the database keep that promise."""

IS_UNTOLD = text("reception IS NOT NULL")


class InstanceRow(Base):
    """One stored object. The bytes lie in the file store under `sha256`; no path is ever stored.

    `disposition` is one of: accepted (an image that is read), kept (not read: not endoscopy), pending (same
    UID as one in force, not yet compared), duplicate, header_revision, quarantined, own (emitted by this node
    or derived from what it emitted), discarded (by a person). `reception` is the association that brought it,
    until the audit event that lists it is written.
    """

    __tablename__ = "instances"
    __table_args__ = (
        Index(
            "uq_instances_in_force",
            "sop_instance_uid",
            unique=True,
            sqlite_where=IN_FORCE,
            postgresql_where=IN_FORCE,
        ),
        Index("ix_instances_exam_key_disposition", "exam_key", "disposition"),
        Index("ix_instances_reception", "reception", sqlite_where=IS_UNTOLD, postgresql_where=IS_UNTOLD),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    patient_id: Mapped[str] = mapped_column(String(64))
    issuer_of_patient_id: Mapped[str] = mapped_column(String(64))
    accession_number: Mapped[str] = mapped_column(String(64), default="")
    study_date: Mapped[str] = mapped_column(String(8), default="", server_default="")
    device_model: Mapped[str] = mapped_column(String(64), default="", server_default="")
    modality: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    disposition: Mapped[str] = mapped_column(String(16), index=True)
    disposition_reason: Mapped[str | None] = mapped_column(String(64))
    same_as_id: Mapped[int | None] = mapped_column(ForeignKey("instances.id"))
    exam_key: Mapped[str | None] = mapped_column(String(64))
    first_revision: Mapped[int | None] = mapped_column(Integer)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    reception: Mapped[str | None] = mapped_column(String(32))
    purged_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)


class ArrivalRow(Base):
    """An object that is still arriving; while it beats, its study's exam stays open."""

    __tablename__ = "arrivals"

    token: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    beat_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
