"""Figures against a count over the predictions themselves, and what drift does and does not say."""

import datetime as dt
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.engine import Database
from db.tables import AuditEventRow
from node.drift import drifts
from node.files import FileStore
from node.house import Node
from node.quality import Quality, ask_quality
from node.settings import Settings
from tests.predicted import DIGESTS, add_models, add_prediction
from tests.unit.node.conftest import RowJobs

FIRST = dt.datetime(2025, 11, 20, 23, 30, tzinfo=dt.UTC)


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> tuple[list[dict[str, Any]], Node]:
    """Return predictions of four months as values, and the node that holds them."""
    draw = random.Random(4)
    values = []
    with database.writing() as session:
        add_models(session)
        for number in range(300):
            probability = draw.choice([None, 0.05, 0.35, 0.65, 0.95, 1.0])
            value: dict[str, Any] = {
                "version": draw.choice(["1.0", "1.1"]),
                "created_at": FIRST + dt.timedelta(hours=draw.randrange(24 * 110)),
                "probability": probability,
                "unpredicted_reason": None if probability else draw.choice(["no_frames", "below_threshold"]),
                "peer_ae_title": draw.choice(["TOWER", "OTHER"]),
                "device_model": draw.choice(["MAKER 1", "MAKER 2"]),
                "verdict": draw.choice([None, None, "accepted", "rejected"]),
            }
            add_prediction(session, number, **value)
            values.append(value)
    files = FileStore(tmp_path, min_free_bytes=0)
    return values, Node(Settings(), database, files, RowJobs(), "installation")


def test_the_figures_are_those_of_a_count(asked: tuple[list[dict[str, Any]], Node]) -> None:
    """The years' ends are where weeks and months are lost: 29 December 2025 is of week 1 of 2026."""
    values, node = asked
    for months in ((None, None), ("2025-12", "2026-01")):
        since, until = months
        found = ask_quality(node, months=months, actor="token:x")
        within = [
            value for value in values if (since or "") <= f"{value['created_at']:%Y-%m}" <= (until or "9999")
        ]
        agreed, abstained, reasons, totals = Counter[Any](), Counter[Any](), Counter[Any](), Counter[Any]()
        for value in within:
            month, week = f"{value['created_at']:%Y-%m}", f"{value['created_at']:%G-W%V}"
            agreed[DIGESTS[value["version"]], month, value["verdict"]] += 1
            abstained[value["peer_ae_title"], value["device_model"], week, value["probability"] is None] += 1
            reasons[month, value["unpredicted_reason"]] += 1
            totals[month] += 1
        assert sum(each.readings for each in found.agreement) == len(within)
        assert {
            (each.model_digest, each.month, each.accepted, each.rejected) for each in found.agreement
        } == {
            (*key[:2], agreed[*key[:2], "accepted"], agreed[*key[:2], "rejected"]) for key in agreed
        }  # fmt: skip
        assert {
            (each.peer, each.device_model, each.week, each.unpredicted, each.readings)
            for each in found.abstention
        } == {
            (*key[:3], abstained[*key[:3], True], abstained[*key[:3], True] + abstained[*key[:3], False])
            for key in abstained
        }
        assert {(each.month, each.reason, each.unpredicted, each.rate) for each in found.reasons} == {
            (*key, number, number / totals[key[0]]) for key, number in reasons.items() if key[1]
        }
    with node.database.reading() as session:
        events = session.scalars(select(AuditEventRow)).all()
        assert [(event.event, event.actor) for event in events] == [("quality_queried", "token:x")] * 2


def test_drift_is_told_of_the_months_after_the_reference(asked: tuple[list[dict[str, Any]], Node]) -> None:
    values, node = asked
    found = ask_quality(node, reference=("2025-11", "2025-12"))
    assert [each.month for each in found.device_drift] == ["2026-01", "2026-02", "2026-03"]
    january = [value for value in values if f"{value['created_at']:%Y-%m}" == "2026-01"]
    assert found.device_drift[0].found == Counter(value["device_model"] for value in january)
    scores = [each for each in found.score_drift if each.model_digest == DIGESTS["1.0"]]
    of_model = [value for value in january if value["version"] == "1.0" and value["probability"] is not None]
    tenths = Counter(str(min(int(10 * value["probability"]), 9)) for value in of_model)
    assert {part: n for part, n in scores[0].found.items() if n} == tenths
    assert all(each.is_too_few and each.state == "stable" for each in scores)
    assert Quality((), (), (), (), ()) == ask_quality(node, months=("2030-01", None))


def months(*counts: list[int]) -> dict[str, Counter[str]]:
    """Return months of so many in parts a, b, ..."""
    return {
        f"2026-{month:02}": Counter(dict(zip("abcdefghij", found, strict=False)))
        for month, found in enumerate(counts, start=1)
    }


def test_psi_is_that_of_its_formula_and_known_to_be_noise_where_few_were_read() -> None:
    """The same shares: of a thousand exams a shift, of ten nothing that chance would not do."""
    many, few = ([500, 500], [700, 300]), ([5, 5], [7, 3])
    reference = ("2026-01", "2026-01")
    (large,) = drifts("", months(*many), "ab", reference)
    (small,) = drifts("", months(*few), "ab", reference)
    p, q = 500.5 / 1001, 700.5 / 1001
    assert large.psi == pytest.approx((p - q) * math.log(p / q) + (q - p) * math.log((1 - p) / (1 - q)))
    assert (large.state, large.is_too_few) == ("shifted", False)
    assert (small.state, small.is_too_few) == ("stable", True)
    assert small.psi < small.by_chance


def test_a_part_that_was_never_there_is_drift_and_no_error() -> None:
    """A new endoscope: the logarithm of nothing must not end the page."""
    (found,) = drifts("", months([400, 0], [0, 400]), "ab", ("2026-01", "2026-01"))
    assert found.state == "drifted"
    assert math.isfinite(found.psi)


def test_what_changes_by_chance_alone_is_seldom_called_a_change() -> None:
    """One month of twenty exceeds the limit, that is its meaning: of a hundred drawn here at most twelve."""
    draw = random.Random(1)
    weights = [30, 20, 10, 5, 3, 2, 3, 7, 10, 10]
    reference = Counter(draw.choices("abcdefghij", weights, k=2000))
    exceeded = 0
    for _ in range(100):
        month = Counter(draw.choices("abcdefghij", weights, k=300))
        (found,) = drifts("", {"2026-01": reference, "2026-02": month}, "abcdefghij", ("2026-01", "2026-01"))
        exceeded += found.psi > found.by_chance
    assert 0 < exceeded <= 12
