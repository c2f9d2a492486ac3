"""What the model saw and said: packages, frames with their ledger, predictions and their evidence."""

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, UtcDateTime


class ModelPackageRow(Base):
    """A model package that has read at least one exam, by the digest of its manifest."""

    __tablename__ = "models"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(32))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    registered_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class FrameRow(Base):
    """One frame of one exam revision: kept or rejected and why, its ledger, and what the model said of it.

    `frame_number` is 1-based within the source instance (PS3.3 C.7.6.6); 0 stands for an instance that could
    not be decoded at all. `probability` is the positive class's after calibration. A frame that was read and
    has a `reason` did not vote for it. `synthetic_share` is the share, 0-1, of the activation of `label` that
    lies on filled pixels; null where the network gives no activations. Kept frames of one exam with the same
    `duplicate_group` show nearly the same.
    """

    __tablename__ = "frames"
    __table_args__ = (UniqueConstraint("exam_id", "instance_id", "frame_number"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    exam_id: Mapped[str] = mapped_column(ForeignKey("exams.id"))
    instance_id: Mapped[int] = mapped_column(ForeignKey("instances.id"), index=True)
    frame_number: Mapped[int] = mapped_column(Integer)
    kept: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str | None] = mapped_column(String(64))
    error_text: Mapped[str | None] = mapped_column(Text)
    ledger: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    label: Mapped[str | None] = mapped_column(String(32))
    probability: Mapped[float | None] = mapped_column(Float)
    confidence: Mapped[float | None] = mapped_column(Float)
    synthetic_share: Mapped[float | None] = mapped_column(Float)
    duplicate_group: Mapped[int | None] = mapped_column(Integer)


class PredictionRow(Base):
    """The reading of one exam revision: exactly one.

    What audit queries ask by is repeated here from the exam as it stood: patient, peer and device. Answers
    come newest first, so what is equal in a question stands before `created_at` and `id` in an index.
    `confidence` is that of the reading, 0-1, null where there is no probability. `verdict` is the newest of
    its reviews: accepted, rejected, or null.
    """

    __tablename__ = "predictions"
    __table_args__ = (
        Index("ix_predictions_created_at_id", "created_at", "id"),
        Index("ix_predictions_patient", "patient_row_id", "created_at", "id"),
        Index("ix_predictions_reading_reason", "reading", "unpredicted_reason", "created_at", "id"),
        Index("ix_predictions_model", "model_digest", "created_at", "id", "probability", "verdict"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    exam_id: Mapped[str] = mapped_column(ForeignKey("exams.id"), unique=True)
    patient_row_id: Mapped[int | None] = mapped_column(Integer)
    peer_ae_title: Mapped[str] = mapped_column(String(16), default="", server_default="")
    device_model: Mapped[str] = mapped_column(String(64), default="", server_default="")
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    recipe_digest: Mapped[str] = mapped_column(String(64))
    reading: Mapped[str] = mapped_column(String(16))
    unpredicted_reason: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None] = mapped_column(Float)
    confidence: Mapped[float | None] = mapped_column(Float)
    threshold: Mapped[float] = mapped_column(Float)
    top_k: Mapped[int] = mapped_column(Integer)
    vote_mode: Mapped[str] = mapped_column(String(16))
    frames_kept: Mapped[int] = mapped_column(Integer)
    frames_rejected: Mapped[int] = mapped_column(Integer)
    frames_used: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    verdict: Mapped[str | None] = mapped_column(String(8))


class ReviewRow(Base):
    """What a person said of a reading; never changed, only followed by another.

    `verdict` is accepted, rejected, or null for a comment alone; `reason` one of a short list.
    """

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    prediction_id: Mapped[int] = mapped_column(ForeignKey("predictions.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    verdict: Mapped[str | None] = mapped_column(String(8))
    reason: Mapped[str | None] = mapped_column(String(32))
    comment: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime)


class TallyRow(Base):
    """How many predictions of a week are alike in all that agreement, abstention and drift are told by.

    Kept in the transaction of each prediction and review, so that a year's rates need not count a million
    rows. `week` is its first day (UTC): a Monday, or the first of a month that begins within it, so that both
    weeks and months can be added up. `decile` is that of the probability, 0-9; -1 where there is none.
    Absent values are "".
    """

    __tablename__ = "tallies"
    __table_args__ = (  # each holds all that its question needs, in the order of its groups
        Index("ix_tallies_model", "model_digest", "week", "verdict", "decile", "count"),
        Index(
            "ix_tallies_device",
            *("peer_ae_title", "device_model", "week", "reading", "unpredicted_reason", "count"),
        ),
    )

    week: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    model_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    peer_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    device_model: Mapped[str] = mapped_column(String(64), primary_key=True)
    reading: Mapped[str] = mapped_column(String(16), primary_key=True)
    unpredicted_reason: Mapped[str] = mapped_column(String(64), primary_key=True)
    decile: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    verdict: Mapped[str] = mapped_column(String(8), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)


class EvidenceRow(Base):
    """A frame that the result shows, in the order shown; `voted` is False where it only illustrates.

    `gate` is the evidence gate's verdict: clean, blanked (its text, flat) or plate (nothing of it is shown).
    """

    __tablename__ = "evidence"
    __table_args__ = (UniqueConstraint("prediction_id", "position"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    prediction_id: Mapped[int] = mapped_column(ForeignKey("predictions.id"))
    frame_id: Mapped[int] = mapped_column(ForeignKey("frames.id"))
    position: Mapped[int] = mapped_column(Integer)
    voted: Mapped[bool] = mapped_column(Boolean)
    gate: Mapped[str] = mapped_column(String(8))
