"""Filters and pages against plain Python over the same rows; the plans that keep them fast."""

import datetime as dt
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from db.engine import Database
from db.errors import DatabaseError
from db.filters import PredictionFilters
from db.predictions import Prediction, count_predictions, find_predictions
from tests.predicted import DIGESTS, START, add_models, add_patient, add_prediction, plans_of

PATIENTS = [("P1", ""), ("P1", "HOSPITAL"), ("P%", ""), ("P_", "X")]
PROBABILITIES = [None, 0.0, 0.25, 0.5, 0.75, 1.0]
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
DAYS = [START.date() + dt.timedelta(days=day) for day in range(-1, 5)]
REASONS = ["below_threshold", "no_frames"]
ASKED: dict[str, list[Any]] = {
    "patient_id": ["P1", "P%", "P", "nobody"],
    "since": DAYS,
    "until": [*DAYS, dt.date.max],
    "model_version": [*DIGESTS, "9"],
    "model_digest": ["a", "a2a2", DIGESTS["2.0"], "%"],
    "recipe_digest": ["c", "dd", "_"],
    "reading": ["ibd", "healthy", "unpredicted"],
    "unpredicted_reason": REASONS,
    "min_probability": SHARES, "max_probability": SHARES, "min_confidence": SHARES, "max_confidence": SHARES,
    "verdict": ["accepted", "rejected", "none"],
    "peer": ["TOWER", "OTHER"],
    "device_model": ["MAKER 1", "MAKER 2"],
}  # fmt: skip
SINGLE = [{name: value} for name, values in ASKED.items() for value in values]
SINGLE += [{"patient_id": "P1", "issuer_of_patient_id": issuer} for issuer in ("HOSPITAL", "X")]
# of more than three, nothing is left to find
COMBINED = st.lists(st.sampled_from(SINGLE), max_size=3).map(
    lambda some: {k: v for each in some for k, v in each.items()}
)


@pytest.fixture
def filled(database: Database) -> Database:
    """Return a database of 90 predictions, alike in much and of few instants."""
    draw = random.Random(3)
    with database.writing() as session:
        add_models(session)
        patients = [add_patient(session, *named) for named in PATIENTS]
        for number in range(90):
            probability = draw.choice(PROBABILITIES)
            at = draw.choice([dt.time(), dt.time(23, 59, 59, 999999), dt.time(12)])
            day = START.date() + dt.timedelta(days=draw.randrange(4))
            add_prediction(
                session,
                number,
                patient=draw.choice([None, *patients]),
                version=draw.choice(list(DIGESTS)),
                created_at=dt.datetime.combine(day, at, dt.UTC),
                probability=probability,
                unpredicted_reason=draw.choice(REASONS) if probability is None else None,
                recipe_digest=draw.choice("cd") * 64,
                verdict=draw.choice([None, "accepted", "rejected"]),
                peer_ae_title=draw.choice(["TOWER", "OTHER"]),
                device_model=draw.choice(["MAKER 1", "MAKER 2"]),
            )
    return database


def is_wanted(row: Prediction, filters: PredictionFilters) -> bool:
    """Say of one prediction what the filters say of all."""
    day, wanted = row.created_at.date(), filters.model_dump(exclude_none=True)

    def within(value: float | None, of: str) -> bool:
        least, most = wanted.get(f"min_{of}"), wanted.get(f"max_{of}")
        if value is None:
            return least is None and most is None
        return (least is None or value >= least) and (most is None or value <= most)

    equal = {
        "patient_id": row.patient_id, "issuer_of_patient_id": row.issuer_of_patient_id,
        "model_version": row.model_version, "reading": row.reading, "verdict": row.verdict or "none",
        "unpredicted_reason": row.unpredicted_reason, "peer": row.peer, "device_model": row.device_model,
    }  # fmt: skip
    return (
        all(wanted.get(name, value) == value for name, value in equal.items())
        and row.model_digest.startswith(wanted.get("model_digest", ""))
        and row.recipe_digest.startswith(wanted.get("recipe_digest", ""))
        and wanted.get("since", day) <= day <= wanted.get("until", day)
        and within(row.probability, "probability")
        and within(row.confidence, "confidence")
    )


def test_filters_and_pages_agree_with_plain_python(filled: Database) -> None:
    """A row that a page leaves out, or shows twice, is a reading that an audit never sees."""
    with filled.reading() as session:
        every = find_predictions(session, PredictionFilters(), limit=500).predictions
    assert len(every) == 90

    def agree(asked: dict[str, Any], limit: int, skip: int) -> None:
        filters = PredictionFilters.model_validate(asked)
        wanted = [row for row in every if is_wanted(row, filters)]
        wanted.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        with filled.reading() as session:
            assert count_predictions(session, filters) == len(wanted)
            page = find_predictions(session, filters, skip=skip, limit=limit)
            found = list(page.predictions)
            while page.next is not None:
                page = find_predictions(session, filters, after=page.next, limit=limit)
                found += page.predictions
                assert len(found) <= len(wanted), "a page repeats what another has shown"
        assert found == wanted[skip:]

    for single in SINGLE:
        agree(single, 40, 0)
    together = given(asked=COMBINED, limit=st.integers(3, 40), skip=st.integers(0, 5))
    settings(max_examples=60, suppress_health_check=list(HealthCheck))(together(agree))()


def test_what_is_read_meanwhile_moves_no_page(filled: Database) -> None:
    """By number a page would repeat a row for each newer one; from where the last one ended it does not."""
    with filled.writing() as session:
        first = find_predictions(session, PredictionFilters(), limit=10)
        before = find_predictions(session, PredictionFilters(), after=first.next, limit=10)
        add_prediction(session, 100, created_at=START + dt.timedelta(days=30))
        assert find_predictions(session, PredictionFilters(), after=first.next, limit=10) == before


@pytest.mark.parametrize("after", ["", "x", "1-", "1-2-3", "9" * 30 + "-1", "-1-1"])
def test_an_end_that_no_page_gave_is_refused(database: Database, after: str) -> None:
    with database.reading() as session, pytest.raises(DatabaseError, match="no end of a page"):
        find_predictions(session, PredictionFilters(), after=after)


@pytest.mark.parametrize(
    "wrong",
    [{"patient_id": "\0"}, {"min_probability": 1.5}, {"issuer_of_patient_id": "A"}, {"reading": "cancer"},
     {"patient": "P1"}, {"peer": ""}],
)  # fmt: skip
def test_a_filter_that_is_wrong_is_refused_and_not_quoted(wrong: dict[str, Any]) -> None:
    """Left aside, it would answer with everybody's readings; quoted, it would put a Patient ID into a log."""
    with pytest.raises(ValidationError) as error:
        PredictionFilters.model_validate(wrong)
    assert "input_value" not in str(error.value)


PLANS = {
    "ix_predictions_patient": {"patient_id": "P1"},
    "ix_predictions_reading_reason": {"reading": "unpredicted", "unpredicted_reason": "no_frames"},
    "ix_predictions_model": {"model_digest": DIGESTS["1.0"], "min_probability": 0.9},
    "ix_predictions_created_at_id": {"verdict": "rejected"},
}


@pytest.mark.parametrize("index", PLANS)
def test_a_question_is_answered_in_the_order_of_its_index(filled: Database, index: str) -> None:
    """Of a million predictions none may be sorted; `make bench-audit` holds both databases to times."""
    if filled.dialect == "postgresql":
        pytest.skip("its planner rightly scans a table as small as this one")
    filters = PredictionFilters.model_validate(PLANS[index])
    with filled.reading() as session:
        plan = plans_of(session, lambda: find_predictions(session, filters, limit=5))[-1]
    assert f"INDEX {index}" in plan
    is_patient = index == "ix_predictions_patient"  # found under two issuers, and few
    assert ("TEMP B-TREE" in plan.partition("SEARCH predictions USING INTEGER")[0]) == is_patient
