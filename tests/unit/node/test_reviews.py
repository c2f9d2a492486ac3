"""Reviews are appended, and the tallies stay what a recount would make them."""

import datetime as dt
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import Database
from db.tables import AuditEventRow, PredictionRow, ReviewRow, TallyRow
from db.tallies import tally_key
from node.errors import NodeError, NotFoundError
from node.files import FileStore
from node.house import Node
from node.reviews import LONGEST_COMMENT, review, reviews_of
from node.settings import Settings
from tests.predicted import START, add_models, add_prediction
from tests.unit.node.conftest import RowJobs


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    """Return a node on each kind of database, with models and a reviewer."""
    with database.writing() as session:
        add_models(session)
    return Node(Settings(), database, FileStore(tmp_path, min_free_bytes=0), RowJobs(), "installation")


def recount(session: Session) -> Counter[tuple[Any, ...]]:
    """Count all predictions as they stand now."""
    return Counter(tuple(tally_key(row).values()) for row in session.scalars(select(PredictionRow)))


def counted(session: Session) -> Counter[tuple[Any, ...]]:
    """Return the tallies that are not empty."""
    names = [column.name for column in TallyRow.__table__.primary_key]
    rows = session.scalars(
        select(TallyRow).where(TallyRow.count != 0).execution_options(populate_existing=True)
    )
    return Counter({tuple(getattr(row, name) for name in names): row.count for row in rows})


def say(node: Node, prediction_id: int, verdict: Any = "accepted", reason: str | None = None) -> None:
    """Review as the one user there is; a rejection has some reason."""
    reason = reason or ("wrong_frames" if verdict == "rejected" else None)
    review(node, user_id=1, prediction_id=prediction_id, verdict=verdict, reason=reason, comment="seen")


def test_after_any_predictions_and_reviews_the_tallies_are_what_a_recount_says(node: Node) -> None:
    """Rates are told from them for years: one that is lost once stays lost."""
    numbers, ids = count(1), list[int]()
    read = st.tuples(
        st.sampled_from([None, 0.0, 0.0999, 0.1, 0.5, 0.99, 1.0]), st.integers(0, 45), st.sampled_from("AB")
    )
    reviewed = st.tuples(st.integers(0), st.sampled_from(["accepted", "rejected", None]))

    @given(steps=st.lists(read | reviewed, max_size=12))
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    def stay(steps: list[Any]) -> None:
        for step in steps:
            if len(step) == 2 and ids:
                say(node, ids[step[0] % len(ids)], step[1])
            elif len(step) == 3:
                probability, day, peer = step
                with node.database.writing() as session:
                    row = add_prediction(
                        session, next(numbers), probability=probability, peer_ae_title=peer,
                        unpredicted_reason=None if probability is not None else "no_frames",
                        created_at=START + dt.timedelta(days=day),
                    )  # fmt: skip
                    ids.append(row.id)
        with node.database.reading() as session:
            assert counted(session) == recount(session)

    stay()


def test_the_newest_verdict_stands_and_none_is_forgotten(node: Node) -> None:
    """A changed mind is a new review; what was thought before is what an audit asks for."""
    with node.database.writing() as session:
        row = add_prediction(session, 1, probability=0.9)
    say(node, row.id)
    say(node, row.id, "rejected", "false_positive")
    say(node, row.id, None)
    with node.database.reading() as session:
        assert session.get_one(PredictionRow, row.id).verdict == "rejected"
        said = [(each.user, each.verdict, each.reason, each.comment) for each in reviews_of(session, row.id)]
        assert said == [
            ("reviewer", "accepted", None, "seen"),
            ("reviewer", "rejected", "false_positive", "seen"),
            ("reviewer", None, None, "seen"),
        ]
        events = session.scalars(select(AuditEventRow).order_by(AuditEventRow.id)).all()
        assert [(event.event, event.actor, event.subject_id) for event in events] == [
            ("reading_reviewed", "reviewer", row.exam_id)
        ] * 3
        assert events[1].detail == {
            "prediction": row.id, "verdict": "rejected", "reason": "false_positive",
            "comment_sha256": hashlib.sha256(b"seen").hexdigest(),
        }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "reason", "comment"),
    [("rejected", None, "no"), ("accepted", "because", ""), (None, None, " "), ("rejected", "other", ""),
     ("accepted", None, "x" * (LONGEST_COMMENT + 1)), ("accepted", None, "\0")],
)  # fmt: skip
def test_a_review_that_says_too_little_or_too_much_leaves_nothing(
    node: Node, verdict: Any, reason: str | None, comment: str
) -> None:
    with node.database.writing() as session:
        row = add_prediction(session, 1, probability=0.9)
    with pytest.raises(NodeError):
        review(node, user_id=1, prediction_id=row.id, verdict=verdict, reason=reason, comment=comment)
    with node.database.reading() as session:
        assert session.scalars(select(ReviewRow)).all() == []
        assert session.get_one(PredictionRow, row.id).verdict is None


def test_a_reading_or_a_reviewer_that_is_not_there_is_named(node: Node) -> None:
    with pytest.raises(NotFoundError, match="prediction 77"):
        say(node, 77)
    with node.database.writing() as session:
        row = add_prediction(session, 1, probability=0.9)
    with pytest.raises(NotFoundError, match="user 9"):
        review(node, user_id=9, prediction_id=row.id, verdict="accepted", reason=None, comment="")


def test_reviewers_at_work_at_once_wait_for_each_other_and_not_for_ever(node: Node) -> None:
    """Two predictions that change places between the same two tallies lock both, from either end."""
    with node.database.writing() as session:
        ids = [add_prediction(session, number, probability=0.9).id for number in (1, 2)]
    say(node, ids[0], "accepted")
    say(node, ids[1], "rejected")

    def change_mind(at: int) -> None:
        for turn in range(10):
            say(node, ids[at], ("accepted", "rejected")[(turn + at + 1) % 2])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(change_mind, (0, 1)))
    with node.database.reading() as session:
        assert counted(session) == recount(session)
