"""The sequencer: gives every committed event its place in the chain, whoever wrote it, in whatever order."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import Database, utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit.chain import EVENT, IS_LINKED, Head, facts, link_mac

log = structlog.get_logger()

BATCH = 500
"""Links a transaction: SQLite's write lock is held for some 10 ms."""

LATE = dt.timedelta(seconds=60)
"""How long after it was made an event may be committed and still be taken for one of ours.

Twice as long as a writer waits for SQLite's lock; an event that turns up later is one that was slipped in.
"""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""Where nothing is linked yet, everything is to be."""

SEQUENCER_LOCK = int.from_bytes(b"endochai", "big")
"""Key of the PostgreSQL advisory lock that lets one process link at a time; on SQLite the write lock does."""

_NEWEST = select(AuditLinkRow.seq, AuditLinkRow.mac, AuditLinkRow.linked_at).order_by(AuditLinkRow.seq.desc())
_IN_ORDER = AuditEventRow.at, AuditEventRow.id


class Sequencer:
    """Links what is unlinked; any number of processes may have one.

    Attributes
    ----------
    head
        The newest link that this process knows of, at first from the file of heads. Should the table hold
        less, its tail was cut: the chain goes on from here, and the gap tells.
    """

    def __init__(self, database: Database, key: bytes, head: Head) -> None:
        self.head = head
        self._database = database
        self._key = key
        with database.reading() as session:
            newest = session.execute(_NEWEST.limit(1)).first()
        self._looked_at = newest.linked_at if newest else EPOCH

    def link_pending(self) -> int:
        """Link every event that is committed by now; return how many this process linked.

        Ids are not given in the order of commits, so it is by time that what is new is found: what has no
        link and was made since a minute before the last look. With nothing to do, that is one search of an
        index. What is older and turns up now is left for `verify` to name.
        """
        linked, began, since = 0, utc_now(), self._looked_at - LATE
        while found := self._unlinked(since):
            is_ours, count = self._link([row.id for row in found])
            if not is_ours:
                return linked
            linked += count
            since = found[-1].at
        self._looked_at = began
        return linked

    def _unlinked(self, since: dt.datetime) -> Sequence[Any]:
        unlinked = select(AuditEventRow.id, AuditEventRow.at).where(AuditEventRow.at >= since, ~IS_LINKED)
        with self._database.reading() as session:
            return session.execute(unlinked.order_by(*_IN_ORDER).limit(BATCH)).all()

    def _link(self, ids: Sequence[int]) -> tuple[bool, int]:
        """Return whether it was our turn, and how many of the events were still to be linked."""
        with self._database.writing() as session:
            if self._database.dialect == "postgresql" and not session.scalar(
                select(func.pg_try_advisory_xact_lock(SEQUENCER_LOCK))
            ):
                return False, 0
            head = self._newest(session)
            unlinked = select(*EVENT).where(AuditEventRow.id.in_(ids), ~IS_LINKED).order_by(*_IN_ORDER)
            linked_at, links = utc_now(), []
            for row in session.execute(unlinked):
                seq = head.seq + 1
                mac = link_mac(self._key, head.mac, seq=seq, linked_at=linked_at, event=facts(row))
                links.append({"seq": seq, "event_id": row.id, "linked_at": linked_at, "mac": mac})
                head = Head(seq, mac)
            if links:
                session.execute(insert(AuditLinkRow), links)
        self.head = head
        return True, len(links)

    def _newest(self, session: Session) -> Head:
        newest = session.execute(_NEWEST.limit(1)).first()
        found = Head(newest.seq, newest.mac) if newest else Head()
        if found.seq >= self.head.seq:
            return found
        log.critical("audit_trail_cut", known=self.head.seq, found=found.seq)
        record(session, "audit_trail_cut", "audit", known=self.head.seq, found=found.seq)
        return self.head
