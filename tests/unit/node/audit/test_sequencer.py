"""Every committed event gets a place in the chain, in whatever order it was committed."""

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import delete, event, func, insert, select

from db.audit import record
from db.engine import Database, utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit import sequencer as module
from node.audit.chain import Head, link_mac
from node.audit.sequencer import LATE, Sequencer
from node.audit.verify import verify
from tests.unit.node.audit.conftest import KEY, record_events


def linked(database: Database) -> list[int]:
    with database.reading() as session:
        return list(session.scalars(select(AuditLinkRow.event_id).order_by(AuditLinkRow.seq)))


def test_links_are_numbered_without_gaps_over_several_batches(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 7)
    record_events(database, 30)
    sequencer = Sequencer(database, KEY, Head())
    assert (sequencer.link_pending(), sequencer.link_pending()) == (30, 0)
    with database.reading() as session:
        assert list(session.scalars(select(AuditLinkRow.seq).order_by(AuditLinkRow.seq))) == [*range(1, 31)]
    assert verify(database, KEY, []).findings == ()


def test_an_event_that_is_committed_after_a_later_one_is_linked(database: Database) -> None:
    """On PostgreSQL ids are given when a row is written, and rows are seen when they are committed."""
    record_events(database, 3)
    sequencer = Sequencer(database, KEY, Head())
    with database.writing() as session:
        session.execute(
            insert(AuditEventRow).values(id=10, at=utc_now(), event="e", subject_id="s", detail={})
        )
    sequencer.link_pending()
    a_while_ago = utc_now() - LATE / 2
    with database.writing() as session:
        session.execute(
            insert(AuditEventRow).values(id=7, at=a_while_ago, event="e", subject_id="s", detail={})
        )
    assert sequencer.link_pending() == 1
    assert linked(database) == [1, 2, 3, 10, 7]


@pytest.mark.postgres
@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_transaction_that_stays_open_holds_nobody_up(database: Database) -> None:
    sequencer = Sequencer(database, KEY, Head())
    with database.writing() as slow:
        record(slow, "slow", "s")
        slow.flush()
        record_events(database, 2)
        assert sequencer.link_pending() == 2
    assert sequencer.link_pending() == 1
    assert linked(database) == [2, 3, 1]


@pytest.mark.postgres
@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_only_one_process_links_at_a_time(database: Database) -> None:
    record_events(database, 2)
    one, other = Sequencer(database, KEY, Head()), Sequencer(database, KEY, Head())
    with database.writing() as session:
        session.execute(select(func.pg_advisory_xact_lock(module.SEQUENCER_LOCK)))
        assert one.link_pending() == 0
    assert (one.link_pending(), other.link_pending()) == (2, 0)


def test_events_recorded_while_no_process_ran_are_linked_at_the_next_start(database: Database) -> None:
    """A command leaves events behind though the node is stopped."""
    record_events(database, 2)
    Sequencer(database, KEY, Head()).link_pending()
    record_events(database, 1)
    assert Sequencer(database, KEY, Head()).link_pending() == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])  # PostgreSQL reads a table this small as a whole
def test_what_is_searched_with_nothing_to_do_is_one_range_of_an_index_and_two_links(
    database: Database,
) -> None:
    """Several times a second, for years: the cost must not grow with the trail."""
    record_events(database, 1)
    sequencer = Sequencer(database, KEY, Head())
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    sequencer.link_pending()
    asked.clear()
    sequencer.link_pending()
    event.remove(database.engine, "before_cursor_execute", note)
    searches = [one for one in asked if one[0].startswith("SELECT")]
    assert len(searches) == 2
    with database.engine.connect() as connection:
        said = [
            str(row[3])
            for search, parameters in searches
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {search}", parameters).all()
        ]
    assert any("ix_audit_events_at_id" in line for line in said)
    assert not [line for line in said if line.startswith("SCAN") or "TEMP B-TREE" in line]


def cut(database: Database, seq: int) -> None:
    """Remove the links after `seq`, with what they held."""
    with database.writing() as session:
        cut_off = select(AuditLinkRow.event_id).where(AuditLinkRow.seq > seq)
        session.execute(delete(AuditEventRow).where(AuditEventRow.id.in_(cut_off)))
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.seq > seq))


def cuts(database: Database) -> list[dict[str, int]]:
    """Return what is told of cuts, by link."""
    with database.reading() as session:
        return list(
            session.scalars(
                select(AuditEventRow.detail)
                .join(AuditLinkRow, AuditLinkRow.event_id == AuditEventRow.id)
                .where(AuditEventRow.event == "audit_trail_cut")
                .order_by(AuditLinkRow.seq)
            )
        )


@pytest.mark.parametrize("regrown", [0, 5, 15])
def test_a_tail_that_is_cut_between_two_processes_is_an_event(trail: Database, regrown: int) -> None:
    """One has not looked since, and links at the numbers that are free again: fewer than were, or more."""
    busy, idle = Sequencer(trail, KEY, Head()), Sequencer(trail, KEY, Head())
    idle.link_pending()
    record_events(trail, 12)
    busy.link_pending()
    cut(trail, 32)
    record_events(trail, regrown)
    idle.link_pending()
    assert busy.link_pending() == 1
    assert cuts(trail) == [{"known": 42, "found": 32 + regrown}]
    busy.link_pending()
    idle.link_pending()
    assert len(cuts(trail)) == 1
    assert bool(verify(trail, KEY, []).findings) == (regrown < 10)  # else there is no gap, but the event


def test_an_idle_process_learns_of_what_others_link(trail: Database) -> None:
    """Else it would take up links that were cut, and not know."""
    busy, idle = Sequencer(trail, KEY, Head()), Sequencer(trail, KEY, Head())
    record_events(trail, 12)
    busy.link_pending()
    idle.link_pending()
    cut(trail, 32)
    record_events(trail, 1)
    idle.link_pending()
    assert cuts(trail) == [{"known": 42, "found": 32}]
    assert [row.split(":")[0] for row in verify(trail, KEY, []).findings] == ["links 33-42"]


def test_a_code_is_what_it_was() -> None:
    """Whatever this program becomes: links are for years."""
    event = {"id": 7, "at": dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC), "event": "exam_closed",
             "subject_id": "e", "actor": "ae:PACS", "detail": {"verdict": "ä", "n": [1, None]}}  # fmt: skip
    linked_at = dt.datetime(2026, 1, 2, 3, 4, 6, tzinfo=dt.UTC)
    said = link_mac(KEY, "ab" * 32, seq=3, linked_at=linked_at, event=event)
    assert said == "fe53971868012c593f6e57be0814c3e46e66b59caccc6946f5393032f185a072"
