"""Stored predictions handed out: every question is an audit event; JSON, CSV and Parquet of the answer."""

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from itertools import chain, islice
from typing import Any, BinaryIO, get_args, get_type_hints

from db.audit import JsonValue, record
from db.filters import PredictionFilters, PredictionQuery
from db.predictions import Prediction, count_predictions, find_predictions, patient_rows
from node.house import Node

EXPORTED_AT_ONCE = 5000
OF_PATIENTS = frozenset({"patient_id", "issuer_of_patient_id"})
"""Filters whose values never go into the trail: the patient's row id stands for them."""


def query_page(node: Node, query: PredictionQuery, *, actor: str = "") -> dict[str, Any]:
    """Return a page as JSON's values: its predictions, how many there are in all, and `next`."""
    _record_query(node, query, actor=actor, form="json")
    with node.database.reading() as session:
        skip = (query.page - 1) * query.limit
        page = find_predictions(session, query, after=query.after, skip=skip, limit=query.limit)
        total = count_predictions(session, query)
    return {"total": total, "next": page.next, "predictions": [as_json(each) for each in page.predictions]}


def export(node: Node, filters: PredictionFilters, *, form: str, actor: str = "") -> Iterator[Prediction]:
    """Yield all that the filters name, newest first; the question is recorded before the first is read.

    Each part is read in a transaction of its own: none is open while a file is written or sent.
    """
    _record_query(node, filters, actor=actor, form=form)
    return _all(node, filters)


def _all(node: Node, filters: PredictionFilters) -> Iterator[Prediction]:
    after: str | None = None
    while True:
        with node.database.reading() as session:
            page = find_predictions(session, filters, after=after, limit=EXPORTED_AT_ONCE)
        yield from page.predictions
        if (after := page.next) is None:
            return


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction in JSON's values; times are ISO 8601 in UTC."""
    return {**asdict(prediction), "created_at": prediction.created_at.isoformat()}


def csv_lines(predictions: Iterable[Prediction]) -> Iterator[str]:
    """Yield RFC 4180's lines, names first; an apostrophe stands before what a spreadsheet would run."""
    line = io.StringIO()
    writer = csv.writer(line)
    rows = (list(as_json(prediction).values()) for prediction in predictions)
    for row in chain([[field.name for field in fields(Prediction)]], rows):
        is_run = (isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
        writer.writerow([f"'{cell}" if run else cell for cell, run in zip(row, is_run, strict=True)])
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def write_parquet(file: BinaryIO, predictions: Iterable[Prediction]) -> None:
    """Write Parquet with typed columns, a row group for each part that is read at once."""
    import pyarrow as pa  # late, with its files: they cost every start more than the rest of this module
    import pyarrow.parquet as pq

    types = {
        int: pa.int64(),
        str: pa.string(),
        float: pa.float64(),
        dt.datetime: pa.timestamp("us", tz="UTC"),
    }
    hints = {name: (get_args(hint) or (hint,))[0] for name, hint in get_type_hints(Prediction).items()}
    schema = pa.schema([(name, types[hint]) for name, hint in hints.items()])
    left = iter(predictions)
    with pq.ParquetWriter(file, schema) as writer:
        while part := list(islice(left, EXPORTED_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist([asdict(each) for each in part], schema=schema))


def _record_query(node: Node, filters: PredictionFilters, *, actor: str, form: str) -> None:
    given = filters.model_dump(mode="json", exclude_none=True, include=set(PredictionFilters.model_fields))
    said: dict[str, JsonValue] = {name: given[name] for name in given.keys() - OF_PATIENTS}
    with node.database.writing() as session:
        if filters.patient_id is not None:
            said["patients"] = patient_rows(session, filters)
        record(
            session, "predictions_queried", "predictions", actor=actor,
            form=form, filters=sorted(given), **said,
        )  # fmt: skip
