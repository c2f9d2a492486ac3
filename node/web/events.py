"""What has happened to exams, told to browsers as it happens (server-sent events)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from db.tables import AuditEventRow
from node.house import Node
from node.sessions import visitor_of_session
from node.web.security import NO_NUL, TheNode, cookie_name

router = APIRouter()

EVERY_S = 1.0
OVERLAP = 200
"""Ids are given before events are committed: so many before the last are looked at again."""

NOT_TOLD = ("exam_viewed", "worklist_viewed", "worklist_searched")
"""What changes nothing that is shown."""

Shown = Annotated[str, Query(max_length=16, pattern=NO_NUL)]


@router.get("/events")
async def listen(request: Request, node: TheNode, exam: Shown = "", told: int = 0) -> EventSourceResponse:
    """Send ``changed`` with the ids of what has changed, until the session ends.

    A page that shows an exam says of how many events it has told: what came since is told at once, so that
    nothing is missed at the start or after a break. A worklist asks anew at each ``listening``.
    """
    token = request.cookies.get(cookie_name(node.settings), "")
    return EventSourceResponse(changes(node, token, exam=exam, told=told), ping=15)


async def changes(node: Node, token: str, *, exam: str = "", told: int = 0) -> AsyncIterator[ServerSentEvent]:
    """Look each second; end when who listens is no longer logged in."""
    last, seen, now_told = await run_in_threadpool(_begin, node, exam)
    yield ServerSentEvent(event="listening", data="")
    if exam and now_told != told:
        yield ServerSentEvent(event="changed", data=exam)
    while await run_in_threadpool(visitor_of_session, node, token, is_used=False):
        found = await run_in_threadpool(_since, node, last - OVERLAP)
        new = {row: subject for row, subject in found.items() if row not in seen}
        if new:
            last, seen = max(last, *new), set(found)
            yield ServerSentEvent(event="changed", data=" ".join(sorted(set(new.values()))))
        await asyncio.sleep(EVERY_S)


def count_told(session: Session, exam_id: str) -> int:
    """Return how many events of an exam there are that listeners are told of."""
    of = AuditEventRow.subject_id == exam_id, AuditEventRow.event.not_in(NOT_TOLD)
    return session.scalar(select(func.count()).where(*of)) or 0


def _begin(node: Node, exam: str) -> tuple[int, set[int], int]:
    with node.database.reading() as session:
        last = session.scalar(select(func.max(AuditEventRow.id))) or 0
    seen = set(_since(node, last - OVERLAP))
    with node.database.reading() as session:
        return last, seen, count_told(session, exam) if exam else 0


def _since(node: Node, first: int) -> dict[int, str]:
    query = select(AuditEventRow.id, AuditEventRow.subject_id).where(
        AuditEventRow.id > first, AuditEventRow.event.not_in(NOT_TOLD)
    )
    with node.database.reading() as session:
        return {row.id: row.subject_id for row in session.execute(query)}
