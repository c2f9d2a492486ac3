"""Stored predictions as an auditor asks for them: filters, newest first, page by page."""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from db.errors import DatabaseError
from db.tables import ExamRow, ModelPackageRow, PatientRow, PredictionRow

NEWEST_FIRST = PredictionRow.created_at.desc(), PredictionRow.id.desc()
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
CURSOR = re.compile("([0-9]{1,17})-([0-9]{1,18})")

_DESCRIBED = (
    select(
        PredictionRow.id, PredictionRow.exam_id, ExamRow.revision, ExamRow.superseded_by,
        func.coalesce(PatientRow.patient_id, ""), func.coalesce(PatientRow.issuer_of_patient_id, ""),
        ExamRow.accession_number, ExamRow.study_date, ExamRow.study_instance_uid,
        PredictionRow.created_at, PredictionRow.reading, PredictionRow.unpredicted_reason,
        PredictionRow.probability, PredictionRow.confidence, PredictionRow.threshold, PredictionRow.top_k,
        PredictionRow.vote_mode, PredictionRow.frames_kept, PredictionRow.frames_rejected,
        PredictionRow.frames_used, ModelPackageRow.name, ModelPackageRow.version, PredictionRow.model_digest,
        PredictionRow.recipe_digest, PredictionRow.peer_ae_title, PredictionRow.device_model,
        PredictionRow.verdict,
    )
    .join(ExamRow, ExamRow.id == PredictionRow.exam_id)
    .join(ModelPackageRow, ModelPackageRow.digest == PredictionRow.model_digest)
    .outerjoin(PatientRow, PatientRow.id == PredictionRow.patient_row_id)
)  # fmt: skip
"""In the order of the fields of `Prediction`."""


Term = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
"""PostgreSQL takes no NUL in a text, and answers it with an error."""
Share = Annotated[float, Field(ge=0, le=1)]


class PredictionFilters(BaseModel):
    """What predictions must be like; what is not given is not asked. All are of the time of the reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    patient_id: Term | None = Field(None, description="Patient ID, exactly; of any issuer.")
    issuer_of_patient_id: Term | None = Field(None, description="Issuer of that Patient ID.")
    since: dt.date | None = Field(None, description="First day of reading, UTC.")
    until: dt.date | None = Field(None, description="Last day of reading, UTC.")
    model_version: Term | None = Field(None, description="Version of the model package.")
    model_digest: Term | None = Field(None, description="Digest of the model package, or its beginning.")
    recipe_digest: Term | None = Field(None, description="Digest of the cleaning recipe, or its beginning.")
    reading: Literal["ibd", "healthy", "unpredicted"] | None = Field(None, description="The reading.")
    unpredicted_reason: Term | None = Field(None, description="Why it is unpredicted.")
    min_probability: Share | None = Field(None, description="Least probability of IBD.")
    max_probability: Share | None = Field(None, description="Highest probability of IBD.")
    min_confidence: Share | None = Field(None, description="Least confidence of the reading.")
    max_confidence: Share | None = Field(None, description="Highest confidence of the reading.")
    verdict: Literal["accepted", "rejected", "none"] | None = Field(
        None, description="Newest verdict of its reviews; none: nobody has said."
    )
    peer: Term | None = Field(None, description="AE title that the exam came from.")
    device_model: Term | None = Field(None, description="Manufacturer and model of the device.")

    @model_validator(mode="after")
    def _issuer_is_of_a_patient(self) -> Self:
        if self.issuer_of_patient_id is not None and self.patient_id is None:
            raise ValueError("issuer_of_patient_id narrows patient_id, which is missing")
        return self


@dataclass(frozen=True, slots=True)
class Prediction:
    """A stored prediction with the exam, the patient and the model that it is of.

    Patient, peer and device are those that the exam had when it was read.
    """

    id: int
    exam_id: str
    revision: int
    superseded_by: str | None
    patient_id: str
    issuer_of_patient_id: str
    accession_number: str
    study_date: str
    study_instance_uid: str
    created_at: dt.datetime
    reading: str
    unpredicted_reason: str | None
    probability: float | None
    confidence: float | None
    threshold: float
    top_k: int
    vote_mode: str
    frames_kept: int
    frames_rejected: int
    frames_used: int
    model_name: str
    model_version: str
    model_digest: str
    recipe_digest: str
    peer: str
    device_model: str
    verdict: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Predictions, newest first, and what `find_predictions` takes as `after` to go on; None at the end."""

    predictions: tuple[Prediction, ...]
    next: str | None


def find_predictions(
    session: Session, filters: PredictionFilters, *, after: str | None = None, skip: int = 0, limit: int = 50
) -> Page:
    """Return at most `limit` predictions, newest first, from behind `after` on, `skip` of them left out.

    A page found by `after` costs what it holds, however deep it lies, and moves with what is read meanwhile;
    `skip` jumps to any page and costs a step through the index for each row left out.

    Raises
    ------
    DatabaseError
        `after` did not come from a page.
    """
    found = select(PredictionRow.id).where(*_conditions(session, filters))
    if after is not None:
        created_at, row_id = _position(after)
        found = found.where(tuple_(PredictionRow.created_at, PredictionRow.id) < (created_at, row_id))
    # the rows themselves are fetched of the page alone: what is skipped is skipped within an index
    ids = found.order_by(*NEWEST_FIRST).offset(skip).limit(limit + 1).subquery()
    rows = session.execute(_DESCRIBED.join(ids, ids.c.id == PredictionRow.id).order_by(*NEWEST_FIRST)).all()
    page = tuple(Prediction(*row) for row in rows[:limit])
    last = page[-1] if len(rows) > limit else None
    return Page(page, f"{(last.created_at - EPOCH) // MICROSECOND}-{last.id}" if last else None)


def count_predictions(session: Session, filters: PredictionFilters) -> int:
    """Return how many predictions are so, exactly."""
    counted = select(func.count()).select_from(PredictionRow).where(*_conditions(session, filters))
    return session.scalars(counted).one()


def patient_rows(session: Session, filters: PredictionFilters) -> list[int]:
    """Return the row ids of the patients that the filters name: without an issuer there may be several."""
    found = select(PatientRow.id).where(PatientRow.patient_id == filters.patient_id).order_by(PatientRow.id)
    if filters.issuer_of_patient_id is not None:
        found = found.where(PatientRow.issuer_of_patient_id == filters.issuer_of_patient_id)
    return list(session.scalars(found))


def _conditions(session: Session, filters: PredictionFilters) -> list[ColumnElement[bool]]:
    row = PredictionRow
    conditions: list[ColumnElement[bool]] = []
    if filters.patient_id is not None:
        conditions.append(row.patient_row_id.in_(patient_rows(session, filters)))
    if filters.model_version is not None or filters.model_digest is not None:
        conditions.append(row.model_digest.in_(_digests(session, filters)))
    if filters.recipe_digest is not None:
        conditions.append(row.recipe_digest.startswith(filters.recipe_digest, autoescape=True))
    if filters.verdict is not None:
        conditions.append(
            row.verdict.is_not_distinct_from({"none": None}.get(filters.verdict, filters.verdict))
        )
    if filters.since is not None:
        conditions.append(row.created_at >= _utc(filters.since, dt.time.min))
    if filters.until is not None:
        conditions.append(row.created_at <= _utc(filters.until, dt.time.max))
    for column, least, most in (
        (row.probability, filters.min_probability, filters.max_probability),
        (row.confidence, filters.min_confidence, filters.max_confidence),
    ):
        conditions += [column >= least] if least is not None else []
        conditions += [column <= most] if most is not None else []
    for text, term in (
        (row.reading, filters.reading),
        (row.unpredicted_reason, filters.unpredicted_reason),
        (row.peer_ae_title, filters.peer),
        (row.device_model, filters.device_model),
    ):
        conditions += [text == term] if term is not None else []
    return conditions


def _digests(session: Session, filters: PredictionFilters) -> list[str]:
    """Return the packages that the filters name: they are few, and an index is by their digests."""
    found = select(ModelPackageRow.digest).order_by(ModelPackageRow.digest)
    if filters.model_version is not None:
        found = found.where(ModelPackageRow.version == filters.model_version)
    if filters.model_digest is not None:
        found = found.where(ModelPackageRow.digest.startswith(filters.model_digest, autoescape=True))
    return list(session.scalars(found))


def _utc(day: dt.date, time: dt.time) -> dt.datetime:
    return dt.datetime.combine(day, time, dt.UTC)


def _position(after: str) -> tuple[dt.datetime, int]:
    numbers = CURSOR.fullmatch(after)
    if numbers is None:
        raise DatabaseError("`after` is no end of a page; take `next` of the page before, or leave it out")
    return EPOCH + int(numbers[1]) * MICROSECOND, int(numbers[2])
