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
from node.audit.chain import EVENT, IS_LINKED, Head, facts, instant, link_mac, raw, text

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

_NEWEST = select(func.max(AuditLinkRow.seq)).scalar_subquery()
_IN_ORDER = AuditEventRow.at, AuditEventRow.id


class Sequencer:
    """Links what is unlinked; any number of processes may have one.

    Attributes
    ----------
    head
        The newest link that this process knows of, at first from the file of heads, then of its last look.
        Should the table not have it any more, its tail was cut: that is an event. Where the table holds less,
        the chain goes on from here, and the gap tells too.
    """

    def __init__(self, database: Database, key: bytes, head: Head) -> None:
        self.head = head
        self._database = database
        self._key = key
        newest = select(raw(AuditLinkRow.linked_at)).where(AuditLinkRow.seq == _NEWEST)
        with database.reading() as session:
            linked_at = session.scalar(newest)
        looked_at = instant(linked_at) if linked_at is not None else EPOCH
        self._looked_at = looked_at if isinstance(looked_at, dt.datetime) else utc_now()

    def link_pending(self) -> int:
        """Link every event that is committed by now; return how many this process linked.

        Ids are not given in the order of commits, so it is by time that what is new is found: what has no
        link and was made since a minute before the last look. With nothing to do, that is a search of two
        indexes. What is older and turns up now is left for `verify` to name.
        """
        linked, began, since = 0, utc_now(), self._looked_at - LATE
        while True:
            is_whole, found = self._look(since)
            if is_whole and not found:
                break
            is_ours, count = self._link([row.id for row in found])
            if not is_ours:
                return linked
            linked += count
            last = instant(found[-1].at) if found else since
            since = last if isinstance(last, dt.datetime) else since
        self._looked_at = began
        return linked

    def _look(self, since: dt.datetime) -> tuple[bool, Sequence[Any]]:
        """Return whether what was linked is there, and what has no link; others may have linked more."""
        columns = AuditEventRow.id, raw(AuditEventRow.at)
        unlinked = select(*columns).where(AuditEventRow.at >= since, ~IS_LINKED)
        with self._database.reading() as session:
            newest, is_whole = self._newest(session)
            found = session.execute(unlinked.order_by(*_IN_ORDER).limit(BATCH)).all()
        if is_whole:
            self.head = newest
        return is_whole, found

    def _link(self, ids: Sequence[int]) -> tuple[bool, int]:
        """Return whether it was our turn, and how many of the events were still to be linked."""
        with self._database.writing() as session:
            if self._database.dialect == "postgresql" and not session.scalar(
                select(func.pg_try_advisory_xact_lock(SEQUENCER_LOCK))
            ):
                return False, 0
            head, is_whole = self._newest(session)
            if not is_whole:
                log.critical("audit_trail_cut", known=self.head.seq, found=head.seq)
                cut = record(session, "audit_trail_cut", "audit", known=self.head.seq, found=head.seq)
                session.flush()
                ids = [*ids, cut.id]
                head = head if head.seq >= self.head.seq else self.head
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

    def _newest(self, session: Session) -> tuple[Head, bool]:
        """Return the newest link, and whether the one that was it at the last look is there as it was."""
        links = select(AuditLinkRow.seq, raw(AuditLinkRow.mac)).where(
            AuditLinkRow.seq.in_([self.head.seq, _NEWEST])
        )
        heads = {Head(), *(Head(row.seq, text(row.mac)) for row in session.execute(links))}
        return max(heads), self.head in heads
