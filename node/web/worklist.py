"""The worklist: current exams, what needs a person first, a page at a time by key and never by count."""

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Form, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Row, Select, exists, func, or_, select, tuple_
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import QueryableAttribute
from starlette.responses import Response

from db.audit import record
from db.tables import DeliveryRow, ExamRow, PatientRow, PredictionRow
from db.tables.exams import FAILED, HEALTHY, IBD, IN_PROGRESS, UNPREDICTED
from node.house import Node
from node.web.pages import render
from node.web.rows import NOT_ARRIVED, UNREAD, Exams, arrived, read_before, stuck
from node.web.security import NO_NUL, TheNode, TheVisitor, is_live, keep_view

router = APIRouter()

PAGE = 50
MOST_FOUND = 200
FEW = 1000
PRIORITIES = {
    IBD: "IBD pattern found",
    FAILED: "Failed: a person is needed",
    UNPREDICTED: "Unpredicted: the model abstains",
    IN_PROGRESS: "On the way",
    HEALTHY: "No IBD pattern found",
}

POSSIBLE = {
    "ibd": (IBD, FAILED), "healthy": (HEALTHY, FAILED), "unpredicted": (UNPREDICTED, FAILED),
    "none": (IBD, FAILED, UNPREDICTED, IN_PROGRESS),
}  # fmt: skip
"""Priorities that an exam of a reading may have: what fails on its way out keeps its reading, and what is not
read yet stands as high as its revision before."""


def _day(value: str) -> str:
    if value and not dt.MINYEAR < dt.date.fromisoformat(value).year < dt.MAXYEAR:
        raise ValueError("a day was expected that has another before and after it")
    return value and dt.date.fromisoformat(value).isoformat()


def _place(value: str) -> str:
    """Check where a page begins: priority, instant and exam id of the last of the page before."""
    if value:
        priority, said, _exam_id = value.split("~")
        at = dt.datetime.fromisoformat(said)
        if int(priority) < 0 or at.tzinfo is None or not dt.MINYEAR < at.year < dt.MAXYEAR:
            raise ValueError("a priority, an aware instant and an exam id were expected")
    return value


Day = Annotated[str, AfterValidator(_day)]


class Asked(BaseModel):
    """What of the worklist is asked for; an empty value asks for anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reading: Literal["", "ibd", "healthy", "unpredicted", "none"] = ""
    state: Literal["", "receiving", "closed", "reading", "read", "delivering", "delivered", "failed"] = ""
    review: Literal["open", "accepted", "rejected", "all"] = "open"
    since: Day = ""
    until: Day = ""
    peer: Annotated[str, Field(max_length=16, pattern=NO_NUL)] = ""
    sort: Literal["priority", "newest", "oldest"] = "priority"
    after: Annotated[str, Field(max_length=80, pattern=NO_NUL), AfterValidator(_place)] = ""

    def address(self, **changed: str) -> str:
        """Return the worklist's address with these values, empty ones left out."""
        values = {**self.model_dump(exclude_defaults=True), **changed}
        return "/?" + urlencode({name: value for name, value in values.items() if value})


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of exams, and where the next begins ("" where there is none)."""

    rows: Exams
    following: str


@router.get("/")
def show(request: Request, node: TheNode, visitor: TheVisitor, asked: Annotated[Asked, Query()]) -> Response:
    """Show a page of the worklist."""
    keep_view(request, "worklist_viewed", str(visitor.user_id), is_again=is_live(request))
    with node.database.reading() as session:
        listed = list_page(session, node, asked)
        return _render(request, session, node, listed, asked)


@router.post("/search")
def search(
    request: Request,
    node: TheNode,
    visitor: TheVisitor,
    q: Annotated[str, Form(max_length=64, pattern=NO_NUL)] = "",
) -> Response:
    """Show the exams of a Patient ID, Accession Number or study date; by POST: no address names a patient.

    What was found is kept by the ids of its rows.
    """
    sought = q.strip()
    with node.database.reading() as session:
        listed = Listed(find(session, sought) if sought else [], "")
    exams = [exam for exam, _, _ in listed.rows]
    patients = sorted({exam.patient_row_id for exam in exams if exam.patient_row_id is not None})
    with node.database.writing() as session:
        record(
            session, "worklist_searched", str(visitor.user_id), actor=visitor.actor,
            patients=patients, exams=[exam.id for exam in exams],
        )  # fmt: skip
    with node.database.reading() as session:
        return _render(request, session, node, listed, Asked(review="all", sort="newest"), sought=sought)


def find(session: Session, sought: str) -> Exams:
    """Return the newest current exams that are exactly of this patient, order or day."""
    day = sought.replace("-", "")
    patients = list(session.scalars(select(PatientRow.id).where(PatientRow.patient_id == sought)))
    ids: list[str] = []
    for of in (
        ExamRow.patient_row_id.in_(patients),
        ExamRow.accession_number == sought,
        ExamRow.study_date == (day if day.isdigit() and len(day) == 8 else "none"),  # noqa: PLR2004 - YYYYMMDD
    ):
        ids += session.scalars(
            select(ExamRow.id).where(of).order_by(ExamRow.opened_at.desc()).limit(MOST_FOUND)
        )
    newest = _exams(session).where(ExamRow.id.in_(ids)).order_by(ExamRow.opened_at.desc(), ExamRow.id)
    return session.execute(newest.limit(MOST_FOUND)).all()


def list_page(session: Session, node: Node, asked: Asked) -> Listed:
    """Return a page; in order of priority one priority after another, as their index has them."""
    wanted = _exams(session).where(*_conditions(session, node, asked))
    few = _few(session, asked)
    if few is not None:
        wanted = wanted.where(ExamRow.id.in_(few))
    of_priority = ExamRow.priority if few is None else func.coalesce(ExamRow.priority, 0)
    key = asked.after.split("~")
    at = dt.datetime.fromisoformat(key[1]) if asked.after else None
    is_oldest = asked.sort == "oldest"
    order = tuple_(ExamRow.opened_at, ExamRow.id)
    rows: list[Row[ExamRow, str, PredictionRow]] = []
    priorities = POSSIBLE.get(asked.reading, PRIORITIES)
    for priority in sorted(priorities) if asked.sort == "priority" else [None]:
        if len(rows) > PAGE or (priority is not None and asked.after and priority < int(key[0])):
            continue
        part = wanted if priority is None else wanted.where(of_priority == priority)
        if at is not None and priority in (None, int(key[0])):
            last = tuple_(at, key[2])
            part = part.where(order > last if is_oldest else order < last)
        ends = (ExamRow.opened_at, ExamRow.id)
        part = part.order_by(*(end if is_oldest else end.desc() for end in ends))
        rows += session.execute(part.limit(PAGE + 1 - len(rows))).all()
    following = ""
    if len(rows) > PAGE:
        last_exam = rows[PAGE - 1][0]
        following = f"{last_exam.priority}~{last_exam.opened_at.isoformat()}~{last_exam.id}"
    return Listed(rows[:PAGE], following)


def _exams(session: Session) -> Select[ExamRow, str, PredictionRow]:
    """Return the query of current exams."""
    return (
        select(ExamRow, func.coalesce(PatientRow.patient_id, ""), PredictionRow)
        .outerjoin(PatientRow, ExamRow.patient_row_id == PatientRow.id)
        .outerjoin(PredictionRow, PredictionRow.exam_id == ExamRow.id)
        .where(_is(session, ExamRow.superseded_by, ""))
    )


def _is(session: Session, column: QueryableAttribute[Any], value: str) -> ColumnElement[bool]:
    """Compare with a value, ``""`` for none.

    SQLite has no statistics and takes whatever index there is: of a wrapped column there is none. PostgreSQL
    has them, and knows nothing of a wrapped column.
    """
    if session.get_bind().dialect.name == "sqlite":
        return func.coalesce(column, "") == value
    return column == value if value else column.is_(None)


def _few(session: Session, asked: Asked) -> list[str] | None:
    """Return the ids that a filter leaves where they are few: else all exams were gone through for them.

    What is open has no verdict, or no reading at all, and then failed or is on its way; or it did not arrive.
    """
    found: list[Select[str]] = []
    if asked.review != "all":
        verdict = None if asked.review == "open" else asked.review
        found.append(select(PredictionRow.exam_id).where(PredictionRow.verdict.is_not_distinct_from(verdict)))
    if asked.review == "open" or (asked.reading == "none" and asked.review == "all"):
        found.append(select(ExamRow.id).where(ExamRow.state.in_(UNREAD)))
    if asked.review == "open":
        found.append(select(DeliveryRow.exam_id).where(NOT_ARRIVED))
    if asked.state and asked.review == "all":
        found.append(select(ExamRow.id).where(ExamRow.state == asked.state))
    ids: list[str] = []
    for query in found:
        ids += session.scalars(query.limit(FEW + 1 - len(ids)))
        if len(ids) > FEW:
            return None
    return ids if found else None


def _conditions(session: Session, node: Node, asked: Asked) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if asked.reading == "none":
        has_reading = exists().where(PredictionRow.exam_id == ExamRow.id).correlate(ExamRow)
        found += [ExamRow.state.in_(UNREAD), ~has_reading]
    elif asked.reading:
        found.append(_is(session, PredictionRow.reading, asked.reading))
    if asked.state:
        found.append(_is(session, ExamRow.state, asked.state))
    if asked.review == "open":
        is_stuck = ExamRow.id.in_(select(DeliveryRow.exam_id).where(NOT_ARRIVED))
        is_unsaid = _is(session, PredictionRow.verdict, "")
        found.append(or_(is_unsaid, _is(session, ExamRow.state, "failed"), is_stuck))
    elif asked.review != "all":
        found.append(_is(session, PredictionRow.verdict, asked.review))
    if asked.peer:
        found.append(ExamRow.peer_ae_title == asked.peer)
    zone = ZoneInfo(node.settings.timezone) if node.settings.timezone else dt.UTC
    if asked.since:
        found.append(ExamRow.opened_at >= _midnight(asked.since, zone))
    if asked.until:
        found.append(ExamRow.opened_at < _midnight(asked.until, zone) + dt.timedelta(days=1))
    return found


def _midnight(day: str, zone: dt.tzinfo) -> dt.datetime:
    return dt.datetime.combine(dt.date.fromisoformat(day), dt.time(), zone)


def _render(
    request: Request, session: Session, node: Node, listed: Listed, asked: Asked, *, sought: str | None = None
) -> Response:
    is_grouped = asked.sort == "priority"
    groups = [
        (PRIORITIES.get(priority, "") if priority is not None else "", list(rows))
        for priority, rows in groupby(listed.rows, lambda row: row[0].priority if is_grouped else None)
    ]
    unread = [exam for exam, _, prediction in listed.rows if prediction is None]
    return render(
        request, "worklist.html", groups=groups, asked=asked, sought=sought,
        arrived=arrived(session, listed.rows), before=read_before(session, unread),
        stuck=stuck(session, listed.rows),
        following=asked.address(after=listed.following) if listed.following else "",
        first=asked.address(after=""), most_found=MOST_FOUND,
        peers=[peer.ae_title for peer in node.settings.peers if peer.may_send],
        is_filtered=bool(asked.model_fields_set - {"sort", "after", "review"}) or asked.review != "open",
    )  # fmt: skip
