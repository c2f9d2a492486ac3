"""A trail of some events, linked."""

import pytest

from db.audit import record
from db.engine import Database
from node.audit.chain import Head
from node.audit.sequencer import Sequencer

KEY = bytes(range(32))


def record_events(database: Database, count: int) -> None:
    """Record so many events, each in a transaction of its own."""
    for number in range(count):
        with database.writing() as session:
            record(
                session, "exam_closed", f"exam-{number}", actor="ae:PACS", verdict="complete", number=number
            )


@pytest.fixture
def trail(database: Database) -> Database:
    """Return a database of each kind with thirty linked events."""
    record_events(database, 30)
    Sequencer(database, KEY, Head()).link_pending()
    return database
