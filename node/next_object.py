"""The next object of an exam that is still open: one statement admits it where nothing has changed meanwhile.

Most objects come right after others of the same patient and study. What `node.exams.admit` found for those
holds for the next one too while the study's exams stay what they were. A single INSERT sees to that and
records the object, in place of three queries and a unit of work.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from db.tables import ExamRow, InstanceRow, ResultObjectRow
from node.settings import Settings

Values = dict[str, Any]
"""A new row of the table of instances: column -> value."""

REMEMBERED = 1024
"""Exams under way at once, and then some; who is forgotten takes the long way once more."""

_IDENTITY = (
    "patient_id", "issuer_of_patient_id", "study_instance_uid", "accession_number", "modality",
    "sop_class_uid", "calling_ae_title",
)  # fmt: skip
"""All that decides an object's exam, and whether it is read, besides the rows that the INSERT looks at."""

_COLUMNS = {
    name: column
    for name, column in InstanceRow.__table__.columns.items()
    if name not in ("id", "same_as_id", "purged_at")
}
_NEWEST = exists().where(
    ExamRow.study_instance_uid == bindparam("study_instance_uid"), ExamRow.superseded_by.is_(None)
)
_INSERT = insert(InstanceRow.__table__).from_select(  # type: ignore[arg-type]  # a Table it is
    list(_COLUMNS),
    select(*(bindparam(name, type_=column.type) for name, column in _COLUMNS.items())).where(
        _NEWEST.where(
            ExamRow.exam_key == bindparam("exam_key"),
            ExamRow.revision == bindparam("first_revision"),
            ExamRow.state == "receiving",
        ),
        ~_NEWEST.where(ExamRow.exam_key != bindparam("exam_key")),
        ~exists().where(InstanceRow.sop_instance_uid == bindparam("sop_instance_uid")),
        ~exists().where(
            or_(
                ResultObjectRow.sop_instance_uid == bindparam("sop_instance_uid"),
                ResultObjectRow.series_instance_uid == bindparam("series_instance_uid"),
            )
        ),
    ),
)
_TOUCH = (
    update(ExamRow.__table__)  # type: ignore[arg-type]
    .where(ExamRow.exam_key == bindparam("key"), ExamRow.revision == bindparam("of_revision"))
    .values(last_new_at=bindparam("now"), closes_at=bindparam("until"))
)


@dataclass(frozen=True, slots=True)
class OpenExam:
    """The revision that an object went to."""

    exam_key: str
    revision: int


class OpenExams:
    """Which exams the last objects went to; as many threads as like may ask and tell."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], OpenExam] = {}

    def admit_next(self, session: Session, settings: Settings, values: Values) -> bool:
        """Record an object where the last of its kind went; False, and nothing done, where that may differ.

        It may where that exam is closed, superseded or no longer the study's only one, where the object's UID
        is known, and where it is one of our own results. The caller holds the study's lock, and has made sure
        that the object refers to no other.
        """
        exam = self._last.get(_identity(values))
        if exam is None:
            return False
        connection = session.connection()
        given = {**values, "disposition": "accepted", "disposition_reason": None,
                 "exam_key": exam.exam_key, "first_revision": exam.revision}  # fmt: skip
        if connection.execute(_INSERT, given).rowcount != 1:
            return False
        now = values["received_at"]
        quiet_s = settings.quiet_time_s if exam.revision == 1 else settings.late_quiet_time_s
        connection.execute(
            _TOUCH,
            {"key": exam.exam_key, "of_revision": exam.revision, "now": now,
             "until": now + dt.timedelta(seconds=quiet_s)},
        )  # fmt: skip
        return True

    def remember(self, values: Values, row: InstanceRow) -> None:
        """Note where an object went; should that never be committed, the next INSERT will not find it."""
        if row.disposition != "accepted" or row.exam_key is None or row.first_revision is None:
            return
        while len(self._last) >= REMEMBERED:
            self._last.pop(next(iter(self._last)), None)
        self._last[_identity(values)] = OpenExam(row.exam_key, row.first_revision)


def _identity(values: Values) -> tuple[str, ...]:
    return tuple(values[name] for name in _IDENTITY)
