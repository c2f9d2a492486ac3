"""The audit trail."""

from contextlib import suppress

from sqlalchemy import select

from db.audit import record
from db.engine import Database, utc_now
from db.tables import AuditEventRow


def test_an_event_is_kept_with_its_change(database: Database) -> None:
    with database.writing() as session:
        record(session, "exam_closed", "exam-1", verdict="complete", missing=None, peers=["PACS"])
    with database.reading() as session:
        event = session.scalars(select(AuditEventRow)).one()
    assert (event.event, event.subject_id) == ("exam_closed", "exam-1")
    assert event.detail == {"verdict": "complete", "missing": None, "peers": ["PACS"]}
    assert abs((utc_now() - event.at).total_seconds()) < 5


def test_an_event_is_lost_with_its_change(database: Database) -> None:
    """A trail that tells of what never happened is worse than none."""
    with suppress(ZeroDivisionError), database.writing() as session:
        record(session, "exam_closed", "exam-1")
        session.flush()
        1 / 0  # noqa: B018 - the change that the event tells of fails
    with database.reading() as session:
        assert session.scalars(select(AuditEventRow)).all() == []
