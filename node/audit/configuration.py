"""A change of the settings since the last start is an event that names what changed, never a value."""

import hashlib
import hmac

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.audit import record
from db.tables import AuditEventRow
from node.audit.chain import document, raw
from node.settings import Settings

SUBJECT = "settings"
DIGITS = 16


def record_settings(session: Session, settings: Settings, key: bytes) -> None:
    """Record which settings differ from those of the last start of any process.

    The event keeps each value's keyed digest, by which the next start compares: without the key, no password
    can be guessed from it.
    """
    digests = {
        name: hmac.digest(key, f"{name}={value}".encode(), hashlib.sha256).hex()[:DIGITS]
        for name, value in _values(settings).items()
    }
    last = session.scalar(
        select(raw(AuditEventRow.detail))
        .where(AuditEventRow.subject_id == SUBJECT)
        .order_by(AuditEventRow.id.desc())
        .limit(1)
    )
    told = document(last)
    before = told.get("digests") if isinstance(told, dict) else None
    before = before if isinstance(before, dict) else {}
    changed = sorted(name for name in {*digests, *before} if digests.get(name) != before.get(name))
    if changed:
        record(session, "settings_changed", SUBJECT, changed=list(changed), digests=dict(digests))


def _values(settings: Settings) -> dict[str, str]:
    """Return each setting as text; each peer under its AE title."""
    values = {name: str(value) for name, value in settings.model_dump(exclude={"peers"}).items()}
    return values | {f"peers.{peer.ae_title}": str(peer.model_dump()) for peer in settings.peers}
