"""What `keep_days` takes, and what it never may."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from db.engine import utc_now
from db.tables import AuditEventRow, ExamRow, InstanceRow
from node.exams import open_revision
from node.house import Node
from node.purge import purge_delivered
from node.settings import Settings
from tests.unit.node.conftest import Sender, digest_of, wait_for_lock


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings that keep delivered exams for ten days."""
    return settings.model_copy(update={"keep_days": 10})


def _deliver(node: Node, *, days_ago: int, state: str = "delivered") -> None:
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow).where(ExamRow.superseded_by.is_(None))).one()
        exam.state, exam.delivered_at = state, utc_now() - dt.timedelta(days=days_ago)


def test_pixels_of_an_old_delivered_exam_go_and_the_trail_says_so(node: Node, send: Sender) -> None:
    """The record of the reading outlives the pixels."""
    row = send("1.2.1", content=b"pixels")
    _deliver(node, days_ago=11)
    assert purge_delivered(node) == 1
    assert not node.files.path(digest_of(b"pixels")).exists()
    with node.database.reading() as session:
        said = select(AuditEventRow).where(AuditEventRow.event.in_(("instance_purged", "study_purged")))
        events = [(event.event, event.subject_id) for event in session.scalars(said)]
        exam = session.scalars(select(ExamRow)).one()
    assert events == [("instance_purged", str(row.id)), ("study_purged", exam.id)]
    assert purge_delivered(node) == 0


@pytest.mark.parametrize(
    ("days_ago", "state"), [(9, "delivered"), (11, "read"), (11, "failed"), (11, "receiving")]
)
def test_nothing_young_unread_or_unsent_is_purged(
    node: Node, send: Sender, days_ago: int, state: str
) -> None:
    """Room on the disk is never worth an exam that has not been answered."""
    send("1.2.1", content=b"pixels")
    _deliver(node, days_ago=days_ago, state=state)
    assert purge_delivered(node) == 0
    assert node.files.path(digest_of(b"pixels")).exists()


def test_bytes_that_are_quarantined_elsewhere_stay(node: Node, send: Sender) -> None:
    """The same bytes may wait for a person under another name."""
    send("1.2.1", content=b"pixels")
    send("1.2.2", content=b"pixels", patient_id="P2")
    _deliver(node, days_ago=11)
    assert purge_delivered(node) == 1
    assert node.files.path(digest_of(b"pixels")).exists()


@pytest.mark.parametrize("disposition", ["header_revision", "duplicate"])
def test_settled_copies_go_with_the_image_they_are_the_same_as(
    node: Node, send: Sender, disposition: str
) -> None:
    """A patient's pixels must not outlive `keep_days` in a copy, nor when they are sent once more."""
    row = send("1.2.1", content=b"pixels")
    copy = send("1.2.1", content=b"the same pixels")
    with node.database.writing() as session:
        session.get_one(InstanceRow, copy.id).disposition = disposition
    _deliver(node, days_ago=11)
    assert purge_delivered(node) == 2
    paths = [node.files.path(digest_of(content)) for content in (b"pixels", b"the same pixels")]
    assert not any(path.exists() for path in paths)
    assert send("1.2.1", content=b"pixels").same_as_id == row.id
    purge_delivered(node)
    assert not any(path.exists() for path in paths)


@pytest.mark.postgres
def test_a_late_image_saves_the_exam_it_joins(postgres_node: Node) -> None:
    """It came between the search and the purge: its exam's next revision needs the earlier pixels."""
    node = postgres_node
    send = Sender(node)
    send("1.2.1", content=b"pixels")
    _deliver(node, days_ago=11)
    with ThreadPoolExecutor(1) as pool:
        with node.database.writing() as session:
            node.database.lock_study(session, "1.2.3")
            purged = pool.submit(purge_delivered, node)
            wait_for_lock(node)
            previous = session.scalars(select(ExamRow)).one()
            open_revision(
                session, node, key=previous.exam_key, previous=previous, patient=previous.patient_row_id,
                study_instance_uid="1.2.3", accession_number="", peer_ae_title="PACS",
            )  # fmt: skip
        assert purged.result(20) == 0
    assert node.files.path(digest_of(b"pixels")).exists()
