"""The chain of the audit trail: each link's code covers its event and the link before it."""

import datetime as dt
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Row, exists

from db.tables import AuditEventRow, AuditLinkRow

GENESIS = "0" * 64
"""What stands for the link before the first one."""

Facts: TypeAlias = dict[str, Any]
"""An event as its link covers it."""

EVENT = (
    AuditEventRow.id, AuditEventRow.at, AuditEventRow.event,
    AuditEventRow.subject_id, AuditEventRow.actor, AuditEventRow.detail,
)  # fmt: skip
IS_LINKED = exists().where(AuditLinkRow.event_id == AuditEventRow.id)


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """A link by which all before it can be held to account: its number and its code (hex)."""

    seq: int = 0
    mac: str = GENESIS


def facts(row: Row[Any]) -> Facts:
    """Return what a link says of an event, given a row that has the columns `EVENT`."""
    return {column.key: getattr(row, column.key) for column in EVENT}


def link_mac(key: bytes, previous: str, *, seq: int, linked_at: dt.datetime, event: Facts) -> str:
    """Return the HMAC-SHA-256 (hex; RFC 2104) of the link before and of this one's number, time and event."""
    said = {**event, "at": event["at"].isoformat(), "seq": seq, "linked_at": linked_at.isoformat()}
    content = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, bytes.fromhex(previous) + content.encode(), hashlib.sha256).hex()
