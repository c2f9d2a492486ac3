"""Patients and their exams, one row a revision."""

import datetime as dt
from typing import Any

from sqlalchemy import JSON, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime

IBD, FAILED, UNPREDICTED, IN_PROGRESS, HEALTHY = 10, 20, 30, 40, 50
"""Priorities: a sure positive first, then what needs a person, what is still coming, and the rest."""


class PatientRow(Base):
    """A patient as the PACS names one: Patient ID within an issuer (PS3.3 C.7.1.1), padding apart."""

    __tablename__ = "patients"
    __table_args__ = (UniqueConstraint("patient_id", "issuer_of_patient_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(64))
    issuer_of_patient_id: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class ExamRow(Base):
    """One revision of one patient's exam.

    `exam_key` is the SHA-256 of (Patient ID, issuer, Study Instance UID); revision *n* holds every accepted
    instance of that key whose `first_revision` is at most *n*. A late image makes a new row, never a change
    of a read one; `received_count` is what it held when it was closed. `state` walks receiving, closed,
    reading, read, delivering, delivered, or failed; a revision whose images were moved away ends as closed.
    `priority` is what a person should look at first: the smaller, the sooner.
    """

    __tablename__ = "exams"
    __table_args__ = (
        UniqueConstraint("exam_key", "revision"),
        Index("ix_exams_state_closes_at", "state", "closes_at"),
        Index("ix_exams_priority_opened_at", "priority", "opened_at"),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    exam_key: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int] = mapped_column(Integer)
    patient_row_id: Mapped[int | None] = mapped_column(ForeignKey("patients.id"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    accession_number: Mapped[str] = mapped_column(String(64), default="", index=True)
    study_date: Mapped[str] = mapped_column(String(8), default="", server_default="", index=True)
    device_model: Mapped[str] = mapped_column(String(64), default="", server_default="")
    peer_ae_title: Mapped[str] = mapped_column(String(16), default="")
    priority: Mapped[int] = mapped_column(Integer, default=IN_PROGRESS, server_default=str(IN_PROGRESS))
    state: Mapped[str] = mapped_column(String(16))
    superseded_by: Mapped[str | None] = mapped_column(ForeignKey("exams.id"), index=True)
    opened_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, index=True)
    last_new_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    closes_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    first_asked_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[dt.datetime | None] = mapped_column(UtcDateTime)
    completeness_verdict: Mapped[str | None] = mapped_column(String(16))
    completeness_reason: Mapped[str | None] = mapped_column(String(64))
    received_count: Mapped[int | None] = mapped_column(Integer)
    expected_count: Mapped[int | None] = mapped_column(Integer)
    missing_count: Mapped[int | None] = mapped_column(Integer)
    body_part_stated: Mapped[bool | None] = mapped_column(Boolean)
    has_conflict: Mapped[bool] = mapped_column(Boolean, default=False)
    error_step: Mapped[str | None] = mapped_column(String(32))
    error_text: Mapped[str | None] = mapped_column(Text)
    step_seconds: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
