"""What a person says of a reading: accepted, rejected, or a comment; always added, never changed."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from db.tables import ExamRow, PredictionRow
from node.reviews import LONGEST_COMMENT, review
from node.web.pages import render
from node.web.security import ExamId, TheNode, TheVisitor, needs

router = APIRouter()


@router.post("/exams/{exam_id}/reviews", dependencies=[Depends(needs("reviewer"))])
def add(
    request: Request,
    node: TheNode,
    visitor: TheVisitor,
    exam_id: ExamId,
    verdict: Annotated[Literal["accepted", "rejected", ""], Form()] = "",
    reason: Annotated[str, Form(max_length=32)] = "",
    comment: Annotated[str, Form(max_length=LONGEST_COMMENT)] = "",
) -> Response:
    """Keep a review of the exam's reading and show the exam again; a superseded one leads to the newest."""
    with node.database.reading() as session:
        found = session.scalar(select(PredictionRow.id).where(PredictionRow.exam_id == exam_id))
        if found is None:
            raise HTTPException(404)
        newest = session.get_one(ExamRow, exam_id)
        while newest.superseded_by is not None:
            newest = session.get_one(ExamRow, newest.superseded_by)
    if newest.id != exam_id:
        return render(
            request, "error.html", status=409, said="A later revision has taken this one's place.",
            detail="Nothing was kept; review the newest revision", newest=newest.id,
        )  # fmt: skip
    review(
        node,
        user_id=visitor.user_id,
        prediction_id=found,
        verdict=verdict or None,
        reason=(reason or None) if verdict == "rejected" else None,
        comment=comment,
    )
    return RedirectResponse(f"/exams/{exam_id}#review", 303)
