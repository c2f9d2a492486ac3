"""What has happened to exams, told to browsers as it happens (server-sent events)."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from db.tables import AuditEventRow
from node.house import Node
from node.sessions import visitor_of_session
from node.web.security import TheNode, cookie_name

router = APIRouter()

EVERY_S = 1.0
OVERLAP = 200
"""Ids are given before events are committed: so many before the last are looked at again."""

NOT_TOLD = ("exam_viewed", "worklist_viewed", "worklist_searched")
"""What changes nothing that is shown."""


@router.get("/events")
async def listen(request: Request, node: TheNode) -> EventSourceResponse:
    """Send ``changed`` with the ids of what has changed, until the session ends."""
    token = request.cookies.get(cookie_name(node.settings), "")
    return EventSourceResponse(changes(node, token), ping=15)


async def changes(node: Node, token: str) -> AsyncIterator[ServerSentEvent]:
    """Look each second; end when who listens is no longer logged in."""
    last, seen = await run_in_threadpool(_begin, node)
    yield ServerSentEvent(event="listening", data="")
    while await run_in_threadpool(visitor_of_session, node, token, is_used=False):
        found = await run_in_threadpool(_since, node, last - OVERLAP)
        new = {row: subject for row, subject in found.items() if row not in seen}
        if new:
            last, seen = max(last, *new), set(found)
            yield ServerSentEvent(event="changed", data=" ".join(sorted(set(new.values()))))
        await asyncio.sleep(EVERY_S)


def _begin(node: Node) -> tuple[int, set[int]]:
    with node.database.reading() as session:
        last = session.scalar(select(func.max(AuditEventRow.id))) or 0
    return last, set(_since(node, last - OVERLAP))


def _since(node: Node, first: int) -> dict[int, str]:
    query = select(AuditEventRow.id, AuditEventRow.subject_id).where(
        AuditEventRow.id > first, AuditEventRow.event.not_in(NOT_TOLD)
    )
    with node.database.reading() as session:
        return {row.id: row.subject_id for row in session.execute(query)}
