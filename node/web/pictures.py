"""The pictures of evidence frames; what is not at hand is asked of the worker, and the browser asks again."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import FileResponse, Response

from db.tables import EvidenceRow, FrameRow, InstanceRow, JobRow, PredictionRow
from node.house import Node
from node.picture_cache import Layer, PictureCache
from node.web.security import ExamId, TheNode, keep_view

router = APIRouter()

AGAIN_S = 1
Position = Annotated[int, Path(ge=1, le=9999)]


@router.api_route("/exams/{exam_id}/pictures/{position}/{layer}.png", methods=["GET", "HEAD"])
def picture(request: Request, node: TheNode, exam_id: ExamId, position: Position, layer: Layer) -> Response:
    """Return a picture; 202 while it is being made, 410 where its pixels were purged, 404 without one.

    Who has not seen its exam sees it so.
    """
    with node.database.reading() as session:
        purged = session.execute(
            select(InstanceRow.purged_at)
            .join(FrameRow, FrameRow.instance_id == InstanceRow.id)
            .join(EvidenceRow, EvidenceRow.frame_id == FrameRow.id)
            .join(PredictionRow, EvidenceRow.prediction_id == PredictionRow.id)
            .where(PredictionRow.exam_id == exam_id, EvidenceRow.position == position)
        ).first()
        if purged is None:
            raise HTTPException(404)
        if purged[0] is not None:
            raise HTTPException(410)
        asked = _asked(session, exam_id)
    keep_view(request, "exam_viewed", exam_id, is_again=True)
    cache = PictureCache(node.settings)
    path = cache.path(exam_id, position, layer)
    if path.is_file():
        return FileResponse(path, media_type="image/png")
    if asked == "buried" or (asked == "done" and cache.path(exam_id, position, "frame").is_file()):
        raise HTTPException(404)  # this layer cannot be made of this frame
    if asked in (None, "done"):
        _ask(node, exam_id)
    return Response(status_code=202, headers={"Retry-After": str(AGAIN_S)})


def _asked(session: Session, exam_id: str) -> str | None:
    """Return how far the newest job for these pictures is."""
    of = JobRow.kind == "picture", JobRow.subject_id == exam_id
    return session.scalar(select(JobRow.state).where(*of).order_by(JobRow.created_at.desc()).limit(1))


def _ask(node: Node, exam_id: str) -> None:
    with node.database.writing() as session:
        if _asked(session, exam_id) not in ("queued", "running"):
            node.jobs.enqueue(session, "picture", exam_id)
