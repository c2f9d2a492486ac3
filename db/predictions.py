"""Stored predictions as an auditor asks for them: filters, newest first, page by page."""

import datetime as dt
import re
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from db.errors import DatabaseError
from db.filters import PredictionFilters
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
    page = tuple(Prediction(*tuple(row)) for row in rows[:limit])
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
