"""What a row of the worklist says beside its exam and reading; asked for a page at a time."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from db.tables import DeliveryRow, ExamRow, InstanceRow, PredictionRow

Exams = Sequence[Row[ExamRow, str, PredictionRow]]

UNREAD = ("receiving", "closed", "reading", "failed")
"""States of exams that may have no reading."""

NOT_ARRIVED = DeliveryRow.state.in_(("unconfirmed", "failed"))


def arrived(session: Session, rows: Exams) -> dict[str, int]:
    """Return how many images of each open exam are here."""
    keys = [exam.exam_key for exam, _, _ in rows if exam.received_count is None]
    of = InstanceRow.exam_key.in_(keys), InstanceRow.disposition == "accepted"
    counted = select(InstanceRow.exam_key, func.count()).where(*of).group_by(InstanceRow.exam_key)
    return {key: count for key, count in session.execute(counted) if key}


def read_before(session: Session, exams: Iterable[ExamRow]) -> dict[str, tuple[int, str]]:
    """Return by exam key the newest revision that was read, and its reading, of exams not read yet."""
    found = (
        select(ExamRow.exam_key, ExamRow.revision, PredictionRow.reading)
        .join(PredictionRow, PredictionRow.exam_id == ExamRow.id)
        .where(ExamRow.exam_key.in_([exam.exam_key for exam in exams if exam.revision > 1]))
        .order_by(ExamRow.revision)
    )
    return {key: (revision, reading) for key, revision, reading in session.execute(found)}


def stuck(session: Session, rows: Exams) -> dict[str, list[DeliveryRow]]:
    """Return by exam the deliveries that did not arrive, or whose arrival nobody has confirmed."""
    of = DeliveryRow.exam_id.in_([exam.id for exam, _, _ in rows]), NOT_ARRIVED
    found: dict[str, list[DeliveryRow]] = {}
    for row in session.scalars(select(DeliveryRow).where(*of).order_by(DeliveryRow.id)):
        found.setdefault(row.exam_id, []).append(row)
    return found
