"""The audit trail: what happened, to what, when, by whom."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sqlalchemy.orm import Session

from db.engine import utc_now
from db.tables import AuditEventRow

JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None


def record(
    session: Session, event: str, subject_id: str, *, actor: str = "", **detail: JsonValue
) -> AuditEventRow:
    """Add an event to the transaction of the change that it tells of: both are kept or neither.

    `event` is a static past-tense name, `subject_id` an exam, instance or job id, `actor` as
    `db.tables.AuditEventRow` says. No patient's name, birth date or recognised text goes into `detail`.
    """
    actor = actor or session.info.get("actor", "")
    row = AuditEventRow(at=utc_now(), event=event, subject_id=subject_id, actor=actor, detail=detail)
    session.add(row)
    return row


def caused_by(session: Session, actor: str) -> None:
    """Let every event of this transaction that names no actor of its own have this one."""
    session.info["actor"] = actor
