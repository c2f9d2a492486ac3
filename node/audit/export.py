"""The trail as a file: one event a line, with its place in the chain."""

import csv
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from sqlalchemy import Row, select, tuple_
from sqlalchemy.orm import aliased

from db.audit import record
from db.engine import Database
from db.tables import AuditEventRow, AuditLinkRow
from node.audit.chain import EVENT, facts, raw, stamp, text

PAGE = 1000
COLUMNS = ("id", "at", "event", "subject_id", "actor", "detail", "seq", "mac")


def export(
    database: Database, out: TextIO, *, since: dt.datetime | None, until: dt.datetime | None, form: str
) -> None:
    """Write the events of a time, oldest first, as ``jsonl`` or ``csv``; that it was done is an event too."""
    with database.writing() as session:
        record(
            session, "audit_exported", "audit", format=form,
            since=since.isoformat() if since else None, until=until.isoformat() if until else None,
        )  # fmt: skip
    table = csv.writer(out)
    if form == "csv":
        table.writerow(COLUMNS)
    for row in _rows(database, since, until):
        event = facts(row)
        said = {**event, "at": stamp(event["at"]), "seq": row.seq, "mac": text(row.mac)}
        if form == "csv":
            table.writerow([json.dumps(said[name]) if name == "detail" else said[name] for name in COLUMNS])
        else:
            out.write(json.dumps(said) + "\n")


def _rows(database: Database, since: dt.datetime | None, until: dt.datetime | None) -> Iterator[Row[Any]]:
    """Yield page by page: no transaction stays open while the reader of the output takes its time."""
    place = tuple_(AuditEventRow.at, AuditEventRow.id)
    query = (
        select(*EVENT, AuditLinkRow.seq, raw(AuditLinkRow.mac))
        .outerjoin(AuditLinkRow, AuditLinkRow.event_id == AuditEventRow.id)
        .order_by(AuditEventRow.at, AuditEventRow.id)
        .limit(PAGE)
    )
    if since is not None:
        query = query.where(AuditEventRow.at >= since)
    if until is not None:
        query = query.where(AuditEventRow.at < until)
    page, last = query, aliased(AuditEventRow)
    while True:
        with database.reading() as session:
            rows: Sequence[Any] = session.execute(page).all()
        yield from rows
        if len(rows) < PAGE:
            return
        at = select(last.at).where(last.id == rows[-1].id).scalar_subquery()
        page = query.where(place > tuple_(at, rows[-1].id))
