"""What is done to the trail behind the node's back is named."""

import datetime as dt
import re
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from db.engine import Database, utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit.chain import Head
from node.audit.head import WrittenHead, append_head, read_heads
from node.audit.sequencer import Sequencer
from node.audit.verify import verify
from tests.unit.node.audit.conftest import KEY, record_events

TEN = 10


def findings(database: Database, *heads: WrittenHead | None, key: bytes = KEY) -> list[str]:
    return list(verify(database, key, heads).findings)


def newest(database: Database) -> WrittenHead:
    with database.reading() as session:
        row = session.execute(
            select(AuditLinkRow.seq, AuditLinkRow.mac).order_by(AuditLinkRow.seq.desc()).limit(1)
        ).one()
    return WrittenHead(Head(row.seq, row.mac), "2026-01-01T00:00:00+00:00")


def test_an_untouched_trail_is_whole(trail: Database) -> None:
    verdict = verify(trail, KEY, [newest(trail)])
    assert (verdict.findings, verdict.head.seq, verdict.waiting) == ((), 30, 0)


def test_a_removed_event_is_named(trail: Database) -> None:
    with trail.writing() as session:
        session.execute(delete(AuditEventRow).where(AuditEventRow.id == TEN))
    assert findings(trail) == ["event 10 (link 10): removed"]


def test_an_event_removed_with_its_link_is_named(trail: Database) -> None:
    with trail.writing() as session:
        session.execute(delete(AuditEventRow).where(AuditEventRow.id.in_([10, 11])))
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.event_id.in_([10, 11])))
    assert findings(trail) == ["links 10-11: removed, with what they held"]


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "ae:OTHER"}, {"subject_id": "exam-0"}, {"event": "exam_read"}, {"detail": {"number": 8}},
        {"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_altered_event_is_named_whatever_was_altered(trail: Database, change: dict[str, object]) -> None:
    with trail.writing() as session:
        session.execute(update(AuditEventRow).where(AuditEventRow.id == TEN).values(**change))
    assert findings(trail) == ["event 10 (link 10): altered"]


def test_an_altered_link_is_named_and_those_after_it_are_not(trail: Database) -> None:
    with trail.writing() as session:
        session.execute(update(AuditLinkRow).where(AuditLinkRow.seq == TEN).values(mac="ab" * 32))
    assert findings(trail) == ["event 10 (link 10): altered"]


@pytest.mark.parametrize("other", [11, 20])
@pytest.mark.parametrize(
    ("table", "column"), [("audit_events", "id"), ("audit_links", "seq"), ("audit_links", "event_id")]
)
def test_two_swapped_events_are_named_together(trail: Database, table: str, column: str, other: int) -> None:
    with trail.writing() as session:
        for old, new in ((10, -1), (other, 10), (-1, other)):
            session.execute(
                text(f"UPDATE {table} SET {column} = :new WHERE {column} = :old"),  # noqa: S608 - our own names
                {"new": new, "old": old},
            )
    assert findings(trail) == [f"events 10 and {other} (links 10 and {other}): swapped"]


def test_an_inserted_event_is_named(trail: Database) -> None:
    then = utc_now() - dt.timedelta(hours=1)
    with trail.writing() as session:
        session.execute(
            insert(AuditEventRow).values(at=then, event="exam_read", subject_id="exam-3", actor="", detail={})
        )
    assert findings(trail) == [
        (
            f"event 31 ({then:%Y-%m-%d %H:%M:%S} UTC): inserted: no link has it, though links were made "
            f"until {newest_link_at(trail):%Y-%m-%d %H:%M:%S} UTC"
        )
    ]


def newest_link_at(database: Database) -> dt.datetime:
    with database.reading() as session:
        return session.execute(select(func.max(AuditLinkRow.linked_at))).scalar_one()


@pytest.mark.parametrize("is_started_anew", [True, False])
def test_an_inserted_event_is_not_linked_by_the_node(trail: Database, *, is_started_anew: bool) -> None:
    """Else the node itself would vouch for it."""
    sequencer = Sequencer(trail, KEY, Head())
    record_events(trail, 1)
    sequencer.link_pending()
    with trail.writing() as session:
        session.execute(delete(AuditEventRow).where(AuditEventRow.id == TEN))
        session.execute(
            insert(AuditEventRow).values(
                id=-5, at=utc_now() - dt.timedelta(hours=1), event="exam_read", subject_id="e", detail={}
            )
        )
    sequencer = Sequencer(trail, KEY, Head()) if is_started_anew else sequencer
    assert sequencer.link_pending() == 0
    assert [finding.split(":")[0].split(" (")[0] for finding in findings(trail)] == ["event 10", "event -5"]


def test_a_forged_link_for_an_inserted_event_is_named(trail: Database) -> None:
    with trail.writing() as session:
        event = session.execute(
            insert(AuditEventRow)
            .values(at=utc_now(), event="exam_read", subject_id="exam-3", actor="", detail={})
            .returning(AuditEventRow.id)
        ).scalar_one()
        session.execute(
            insert(AuditLinkRow).values(seq=31, event_id=event, linked_at=utc_now(), mac="cd" * 32)
        )
    assert findings(trail) == ["event 31 (link 31): altered"]


@pytest.mark.parametrize("with_events", [True, False])
def test_a_tail_that_was_cut_is_named_by_the_head_written_down(trail: Database, *, with_events: bool) -> None:
    head = newest(trail)
    with trail.writing() as session:
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.seq > 20))
        if with_events:
            session.execute(delete(AuditEventRow).where(AuditEventRow.id > 20))
    assert findings(trail, head) == [
        (
            "links 21-30: the tail was cut: audit_head names link 30 at 2026-01-01T00:00:00+00:00, "
            "the table ends at 20"
        )
    ]


def test_a_tail_that_was_cut_under_a_running_node_is_named_without_a_head(trail: Database) -> None:
    """The sequencer goes on from the link it knows of, so that the gap stays."""
    sequencer = Sequencer(trail, KEY, Head())
    record_events(trail, 1)
    sequencer.link_pending()
    with trail.writing() as session:
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.seq > 21))
        session.execute(delete(AuditEventRow).where(AuditEventRow.id > 21))
    with trail.writing() as session:  # an id that no link had
        session.execute(
            insert(AuditEventRow).values(id=40, at=utc_now(), event="e", subject_id="s", detail={})
        )
    sequencer.link_pending()
    assert findings(trail) == ["links 22-31: removed, with what they held"]
    with trail.reading() as session:
        cut = session.execute(
            select(AuditEventRow.detail).where(AuditEventRow.event == "audit_trail_cut")
        ).scalar_one()
    assert cut == {"known": 31, "found": 21}


def test_a_chain_made_anew_contradicts_the_head_written_down(trail: Database) -> None:
    """Who has key and database can make another chain; what was sent and written away stays."""
    head = newest(trail)
    with trail.writing() as session:
        session.execute(update(AuditEventRow).where(AuditEventRow.id == TEN).values(actor="nobody"))
        session.execute(delete(AuditLinkRow))
    Sequencer(trail, KEY, Head()).link_pending()
    assert findings(trail, head) == [
        "link 30: not the one that audit_head names at 2026-01-01T00:00:00+00:00: the chain was made anew"
    ]


def test_a_link_of_a_tail_that_was_cut_does_not_fit_into_the_one_that_grew_in_its_place(
    trail: Database,
) -> None:
    """It was made with the key, and has the right number; but it follows another link."""
    tables = {AuditEventRow: AuditEventRow.id, AuditLinkRow: AuditLinkRow.seq}
    kept = {}
    with trail.writing() as session:
        for table, number in tables.items():
            kept[table] = session.execute(select(*table.__table__.columns).where(number == 28)).one()
            session.execute(delete(table).where(number > 20))
    record_events(trail, 10)
    Sequencer(trail, KEY, Head()).link_pending()
    assert findings(trail) == []
    with trail.writing() as session:
        event = session.execute(select(AuditLinkRow.event_id).where(AuditLinkRow.seq == 28)).scalar_one()
        session.execute(delete(AuditEventRow).where(AuditEventRow.id == event))
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.seq == 28))
        for table, row in kept.items():
            values = dict(row._mapping)
            session.execute(insert(table).values(**values))
    assert "(links 28-29): altered" in findings(trail)[0]


def test_another_key_is_one_finding_and_not_thirty(trail: Database) -> None:
    assert findings(trail, key=bytes(32)) == [
        "events 1 to 30 (links 1-30): altered, or linked with another key"
    ]


def test_a_line_of_the_head_file_that_says_nothing_is_named(trail: Database, tmp_path: Path) -> None:
    path = tmp_path / "head"
    path.write_text("what\n")
    append_head(path, newest(trail).head, utc_now())
    assert findings(trail, *read_heads(path)) == [
        "audit_head line 1: cannot be read: altered, or its disk was full"
    ]


def test_a_head_file_that_is_gone_is_named_once_it_should_be_there(trail: Database) -> None:
    assert findings(trail) == []
    with trail.writing() as session:
        session.execute(update(AuditLinkRow).values(linked_at=AuditLinkRow.linked_at))
        session.execute(delete(AuditLinkRow).where(AuditLinkRow.seq > 1))
        session.execute(update(AuditLinkRow).values(linked_at=utc_now() - dt.timedelta(minutes=5)))
    Sequencer(trail, KEY, Head()).link_pending()
    assert "audit_head: not there, or empty, though the chain is older: it was removed" in findings(trail)


def test_an_event_just_recorded_waits_and_is_no_finding(trail: Database) -> None:
    record_events(trail, 2)
    verdict = verify(trail, KEY, [newest(trail)])
    assert (verdict.findings, verdict.waiting) == ((), 2)


ALTERED = ["event 30 (link 30): altered"]


@pytest.mark.parametrize("database_kind", ["sqlite"])  # PostgreSQL holds every value to its type
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("audit_links SET mac = 'zz'", ALTERED),
        ("audit_links SET mac = x'ff'", ALTERED),
        ("audit_links SET linked_at = 'yesterday'", ALTERED),
        ("audit_events SET detail = 'oops'", ALTERED),
        ("audit_events SET detail = CAST(x'ff' AS TEXT)", ALTERED),
        ("audit_events SET actor = CAST(x'ff' AS TEXT)", ALTERED),
        ("audit_events SET at = 'yesterday'", ALTERED),
        ("audit_events SET at = '2026-01-02 03:04:05+05:00'", ALTERED),
        ("audit_links SET event_id = 'none'", ["event none (link 30): removed", "event 30: inserted"]),
    ],
)
def test_a_value_that_is_none_is_named_and_the_chain_goes_on(
    trail: Database, change: str, named: list[str]
) -> None:
    """Else one word in one row would end the trail, and nobody could say where."""
    where = "seq" if "links" in change else "id"
    with trail.writing() as session:
        session.execute(text(f"UPDATE {change} WHERE {where} = 30"))
    record_events(trail, 2)
    Sequencer(trail, KEY, Head()).link_pending()
    found = verify(trail, KEY, [])
    if named == ALTERED:
        assert list(found.findings) == named
        assert (found.head.seq, found.waiting) == (32, 0)
    else:
        assert found.findings[0] == named[0]


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_link_without_a_number_is_named(trail: Database) -> None:
    with trail.writing() as session:
        session.execute(text("UPDATE audit_links SET seq = 'zz' WHERE seq = 30"))
    assert findings(trail) == ["event 30: altered: its link's number is none"]


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("values", ["'yesterday', 'e', 's', '', '{}'", "'9', 'e', 's', '', '[]'"])
def test_an_event_that_no_process_of_ours_wrote_is_named_and_in_nobodys_way(
    trail: Database, values: str
) -> None:
    with trail.writing() as session:
        into = "INSERT INTO audit_events (at, event, subject_id, actor, detail)"
        session.execute(text(f"{into} VALUES ({values})"))
    record_events(trail, 2)
    sequencer = Sequencer(trail, KEY, Head())
    sequencer.link_pending()
    assert sequencer.link_pending() == 0
    (named,) = findings(trail)
    assert re.fullmatch(r"event 31( \(link 33\))?: inserted, or altered before it was linked.*", named)
    assert sequencer.head.seq in (32, 33)
