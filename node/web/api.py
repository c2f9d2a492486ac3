"""Stored predictions and figures over them, for programs: JSON, CSV and Parquet, described by OpenAPI."""

import datetime as dt
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from db.errors import DatabaseError
from db.filters import PredictionQuery
from db.predictions import Prediction
from node.predictions import csv_lines, export, query_page, write_parquet
from node.quality import Quality, ask_quality
from node.web.curves import quality_curves
from node.web.pages import render
from node.web.security import TheNode, TheVisitor, scoped

PARQUET = "application/vnd.apache.parquet"
PART_BYTES = 1 << 20
SHOWN_MONTHS = 24


class Refused(BaseModel):
    """Why a request was not answered; nothing of it is repeated."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refused, "description": "No token, or none that is in force."},
    403: {"model": Refused, "description": "The token's scopes do not hold this."},
    405: {"model": Refused, "description": "Not by this method."},
    422: {"model": Refused, "description": "A filter is unknown, or its value is none that it may have."},
}
router = APIRouter(prefix="/api", responses=REFUSALS, dependencies=[Depends(HTTPBearer(auto_error=False))])
shown = APIRouter()

Month = Annotated[str | None, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", description="YYYY-MM, included.")]


class Asked(PredictionQuery):
    """The filters, the page, and the form of the answer."""

    form: Literal["json", "csv", "parquet"] = Field(
        default="json", description="A page as JSON; all that are found as CSV or Parquet."
    )


class Found(BaseModel):
    """A page of stored predictions."""

    total: int = Field(description="How many are found in all, exactly.")
    next: str | None = Field(description="`after` of the next page; null at the end.")
    predictions: list[Prediction]


FOUND: dict[int | str, dict[str, Any]] = {
    200: {"model": Found, "content": {"text/csv": {"schema": {"type": "string"}}, PARQUET: {}}}
}
BODY: dict[int | str, dict[str, Any]] = {
    400: {"model": Refused, "description": "The body is no JSON."},
    413: {"description": "The body is longer than any question.", "content": {"text/plain": {}}},
}


@router.get("/predictions", dependencies=[Depends(scoped("predictions"))], responses=FOUND)
def predictions(node: TheNode, visitor: TheVisitor, asked: Annotated[Asked, Query()]) -> Response:
    """Return stored predictions, newest first; that they were asked for is kept.

    A page begins behind `after`, which is `next` of the page before, whatever is read meanwhile.
    """
    if asked.form == "json":
        try:
            return JSONResponse(query_page(node, asked, actor=visitor.actor))
        except DatabaseError as error:  # what is left to refuse of a query that fits its model is `after`
            raise HTTPException(422) from error
    found = export(node, asked, form=asked.form, actor=visitor.actor)
    said = {"Content-Disposition": f'attachment; filename="predictions.{asked.form}"'}
    if asked.form == "csv":
        return StreamingResponse(csv_lines(found), media_type="text/csv; charset=utf-8", headers=said)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed once it is sent
    write_parquet(file, found)

    def parts() -> Iterator[bytes]:
        with file:
            file.seek(0)
            while part := file.read(PART_BYTES):
                yield part

    return StreamingResponse(parts(), media_type=PARQUET, headers=said)


@router.post("/predictions/search", dependencies=[Depends(scoped("predictions"))], responses=FOUND | BODY)
def search_predictions(node: TheNode, visitor: TheVisitor, asked: Asked) -> Response:
    """Return the same, asked by a JSON object: no address holds a Patient ID, and no log of a proxy."""
    return predictions(node, visitor, asked)


@router.get("/quality", dependencies=[Depends(scoped("quality"))])
def quality(node: TheNode, visitor: TheVisitor, since: Month = None, until: Month = None) -> Quality:
    """Return agreement with reviewers, abstention, and drift of scores and devices."""
    return ask_quality(node, actor=visitor.actor, months=(since, until))


@shown.get("/quality")
def show_quality(request: Request, node: TheNode, visitor: TheVisitor) -> Response:
    """Show a person the same figures, of the last months only."""
    first = dt.datetime.now(dt.UTC).date().replace(day=1)
    for _ in range(SHOWN_MONTHS - 1):
        first = (first - dt.timedelta(days=1)).replace(day=1)
    found = ask_quality(node, actor=visitor.actor, months=(f"{first:%Y-%m}", None))
    return render(request, "quality.html", quality=found, curves=quality_curves(found), months=SHOWN_MONTHS)


@router.get("/openapi.json")
def description() -> dict[str, Any]:
    """Return the OpenAPI document of what stands here."""
    return get_openapi(title="endonode", version="1", routes=router.routes)
