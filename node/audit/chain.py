"""The chain of the audit trail: each link's code covers its event and the link before it."""

import datetime as dt
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Label, LargeBinary, Row, cast, exists
from sqlalchemy.orm import InstrumentedAttribute

from db.tables import AuditEventRow, AuditLinkRow

GENESIS = "0" * 64
"""What stands for the link before the first one."""

Facts: TypeAlias = dict[str, Any]
"""An event as its link covers it."""


def raw(column: InstrumentedAttribute[Any]) -> Label[Any]:
    """Return a column; on SQLite, which holds nobody to a type, its bytes: it may have been altered."""
    return cast(column, column.type.with_variant(LargeBinary(), "sqlite")).label(column.key)


FIELDS = ("at", "event", "subject_id", "actor", "detail")
EVENT = (AuditEventRow.id, *(raw(getattr(AuditEventRow, name)) for name in FIELDS))
IS_LINKED = exists().where(AuditLinkRow.event_id == AuditEventRow.id)


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """A link by which all before it can be held to account: its number and its code (hex)."""

    seq: int = 0
    mac: str = GENESIS


def facts(row: Row[Any]) -> Facts:
    """Return what a link says of an event, given a row that has the columns `EVENT`.

    A time or detail that is none stays the text that it is: the chain goes on over it.
    """
    said = {name: text(getattr(row, name)) for name in ("id", *FIELDS)}
    return said | {"at": instant(row.at), "detail": document(row.detail)}


def text(value: Any) -> Any:
    """Return the text of a `raw` column."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def instant(value: Any) -> dt.datetime | str:
    """Return the time of a `raw` column, which SQLite keeps in UTC; its text where it is none."""
    try:
        found = dt.datetime.fromisoformat(text(value)) if isinstance(value, bytes) else value
    except ValueError:
        return str(text(value))
    return found.replace(tzinfo=found.tzinfo or dt.UTC)


def document(value: Any) -> Any:
    """Return the JSON of a `raw` column; its text where it is none."""
    try:
        return json.loads(text(value)) if isinstance(value, bytes) else value
    except (ValueError, RecursionError):
        return text(value)


def stamp(time: dt.datetime | str) -> str:
    """Return a time as ISO 8601; what is none, as it stands."""
    return time.isoformat() if isinstance(time, dt.datetime) else time


def is_readable(event: Facts) -> bool:
    """Tell whether an event's time and detail are what `db.audit.record` writes."""
    return isinstance(event["at"], dt.datetime) and isinstance(event["detail"], dict)


def link_mac(key: bytes, previous: str, *, seq: int, linked_at: dt.datetime | str, event: Facts) -> str:
    """Return the HMAC-SHA-256 (hex; RFC 2104) of the link before and of this one's number, time and event."""
    said = {**event, "at": stamp(event["at"]), "seq": seq, "linked_at": stamp(linked_at)}
    content = json.dumps(said, sort_keys=True, separators=(",", ":"))
    try:
        before = bytes.fromhex(previous)
    except ValueError:  # altered; the link that has it is named
        before = previous.encode()
    return hmac.digest(key, before + content.encode(), hashlib.sha256).hex()
