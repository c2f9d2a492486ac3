"""Every committed event gets a place in the chain, in whatever order it was committed."""

from typing import Any

import pytest
from sqlalchemy import event, func, insert, select

from db.audit import record
from db.engine import Database, utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit import sequencer as module
from node.audit.chain import Head
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
def test_what_is_searched_with_nothing_to_do_is_one_range_of_an_index(database: Database) -> None:
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
    assert len(searches) == 1
    with database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {searches[0][0]}", searches[0][1]).all()
    said = [str(row[3]) for row in plan]
    assert "ix_audit_events_at_id" in said[0]
    assert not [line for line in said if line.startswith("SCAN") or "TEMP B-TREE" in line]
