"""Does the trail still say what it said? Walks the chain and names what was done to it."""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, product

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import Database
from db.tables import AuditEventRow, AuditLinkRow
from node.audit.chain import EVENT, IS_LINKED, Facts, Head, facts, instant, is_readable, link_mac, raw, text
from node.audit.head import WrittenHead
from node.audit.sequencer import LATE

HEAD_EVERY = dt.timedelta(seconds=60)
"""How often the head is written down."""

COMPARED = 64
"""Links that do not fit are held against each other, to tell swapped ones from altered, up to this many."""

PAGE = 1000

UNREADABLE = "inserted, or altered before it was linked: its time or detail is none"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: one line a finding, and how far the chain reaches.

    Attributes
    ----------
    waiting
        Events that are not linked and need not be yet.
    """

    findings: tuple[str, ...]
    head: Head
    waiting: int


@dataclass(frozen=True, slots=True)
class _Misfit:
    """A link whose code is not that of its event and of the link before."""

    seq: int
    mac: str
    linked_at: dt.datetime | str
    previous: str
    event: Facts


@dataclass(slots=True)
class _Walk:
    """What a walk along the chain has seen."""

    head: Head
    first_at: dt.datetime | None
    newest_at: dt.datetime | None
    findings: list[str]
    misfits: list[_Misfit]


def verify(database: Database, key: bytes, heads: Iterable[WrittenHead | None]) -> Verdict:
    """Hold every link against its event, the link before and the heads that were written down.

    One link's event is removed, altered or another's; links are missing; an event is in the table that the
    sequencer never saw; a head was written down that the table does not reach, or that it contradicts.
    """
    with database.reading() as session:
        written = list(heads)
        walk = _walk(session, key, {line.head.seq: line for line in written if line is not None})
        walk.findings += _name(key, walk.misfits)
        waiting = 0
        for row in session.execute(select(*EVENT).where(~IS_LINKED).order_by(AuditEventRow.id)):
            event = facts(row)
            if not is_readable(event):
                walk.findings.append(f"event {row.id}: {UNREADABLE}")
            elif walk.newest_at is not None and event["at"] < walk.newest_at - LATE:
                walk.findings.append(
                    f"event {row.id} ({event['at']:%Y-%m-%d %H:%M:%S} UTC): inserted: no link has it, "
                    f"though links were made until {walk.newest_at:%Y-%m-%d %H:%M:%S} UTC"
                )
            else:
                waiting += 1
    walk.findings += _judge_heads(written, walk)
    return Verdict(tuple(walk.findings), walk.head, waiting)


def _walk(session: Session, key: bytes, written: dict[int, WrittenHead]) -> _Walk:
    walk = _Walk(Head(), None, None, [], [])
    links = (
        select(
            AuditLinkRow.seq,
            raw(AuditLinkRow.mac),
            raw(AuditLinkRow.linked_at),
            AuditLinkRow.event_id,
            *EVENT,
        )
        .outerjoin(AuditEventRow, AuditEventRow.id == AuditLinkRow.event_id)
        .order_by(AuditLinkRow.seq)
        .execution_options(yield_per=PAGE)
    )
    candidates: tuple[str, ...] = (walk.head.mac,)
    for row in session.execute(links):
        if not isinstance(row.seq, int):
            walk.findings.append(f"event {row.event_id}: altered: its link's number is none")
            continue
        mac, linked_at = text(row.mac), instant(row.linked_at)
        is_after_gap = row.seq != walk.head.seq + 1
        if is_after_gap:
            walk.findings.append(
                f"links {_span(walk.head.seq + 1, row.seq - 1)}: removed, with what they held"
            )
        if row.id is None:
            walk.findings.append(f"event {row.event_id} (link {row.seq}): removed")
        computed = mac
        if row.id is not None and not is_after_gap:
            event = facts(row)
            codes = [
                link_mac(key, previous, seq=row.seq, linked_at=linked_at, event=event)
                for previous in candidates
            ]
            if mac not in codes:
                walk.misfits.append(_Misfit(row.seq, mac, linked_at, candidates[0], event))
            elif not is_readable(event):
                walk.findings.append(f"event {row.id} (link {row.seq}): {UNREADABLE}")
            computed = codes[0]
        line = written.get(row.seq)
        if line is not None and line.head.mac != mac:
            walk.findings.append(
                f"link {row.seq}: not the one that audit_head names at {line.at}: the chain was made anew"
            )
        candidates = (mac,) if computed == mac else (mac, computed)
        walk.head = Head(row.seq, mac)
        if isinstance(linked_at, dt.datetime):
            walk.first_at, walk.newest_at = walk.first_at or linked_at, linked_at
    return walk


def _name(key: bytes, misfits: list[_Misfit]) -> Iterator[str]:
    """Say what became of links that do not fit: swapped with each other, or altered."""
    explained: set[int] = set()
    if len(misfits) <= COMPARED:
        for one, other in product(misfits, misfits):
            if one.seq == other.seq:
                continue
            found = _explain(key, one, other)
            if found == "swapped" and not {one.seq, other.seq} <= explained:
                numbers = sorted((one.event["id"], other.event["id"]))
                places = sorted((one.seq, other.seq))
                yield f"events {numbers[0]} and {numbers[1]} (links {places[0]} and {places[1]}): swapped"
                explained |= {one.seq, other.seq}
            elif found == "follows":
                explained.add(one.seq)
    altered = [misfit for misfit in misfits if misfit.seq not in explained]
    for _, run in groupby(enumerate(altered), lambda item: item[1].seq - item[0]):
        members = [misfit for _, misfit in run]
        first, last = members[0], members[-1]
        yield (
            f"event {first.event['id']} (link {first.seq}): altered"
            if first is last
            else f"events {first.event['id']} to {last.event['id']} (links {_span(first.seq, last.seq)}): "
            "altered, or linked with another key"
        )


def _explain(key: bytes, one: _Misfit, other: _Misfit) -> str | None:
    """Tell whether `other` holds what belongs at the place of `one`, or only makes it look wrong."""
    events = (one.event, other.event, {**other.event, "id": one.event["id"]})
    for previous, event, linked_at, mac in product(
        (one.previous, other.mac), events, (one.linked_at, other.linked_at), (one.mac, other.mac)
    ):
        if link_mac(key, previous, seq=one.seq, linked_at=linked_at, event=event) == mac:
            is_itself = event is one.event and mac == one.mac and linked_at == one.linked_at
            return "follows" if is_itself else "swapped"
    return None


def _judge_heads(written: list[WrittenHead | None], walk: _Walk) -> Iterator[str]:
    for number, line in enumerate(written, start=1):
        if line is None:
            yield f"audit_head line {number}: cannot be read: altered, or its disk was full"
    newest = max((line for line in written if line), key=lambda line: line.head.seq, default=None)
    if newest is not None and newest.head.seq > walk.head.seq:
        yield (
            f"links {_span(walk.head.seq + 1, newest.head.seq)}: the tail was cut: audit_head names link "
            f"{newest.head.seq} at {newest.at}, the table ends at {walk.head.seq}"
        )
    if (
        newest is None
        and walk.first_at
        and walk.newest_at
        and walk.newest_at > walk.first_at + 2 * HEAD_EVERY
    ):
        yield "audit_head: not there, or empty, though the chain is older: it was removed"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
