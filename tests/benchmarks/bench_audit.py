"""What audit queries over a million stored predictions cost, on SQLite and on PostgreSQL: a JSON line each.

Predictions of five years are generated: three hospitals of three devices each, four model packages one after
the other, one reading in six unpredicted, four in ten reviewed. Each query is asked warm, as its callers ask
it; PostgreSQL is analysed and vacuumed once, which its own service does in a node that has grown to this.
"""

import argparse
import datetime as dt
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from db.engine import Database, open_database
from db.filters import PredictionFilters
from db.predictions import count_predictions, find_predictions
from db.schema import ensure_schema
from db.tables import (
    Base,
    ExamRow,
    ModelPackageRow,
    PatientRow,
    PredictionRow,
    ReviewRow,
    TallyRow,
    UserRow,
)
from db.tallies import tally_key
from node.quality import abstention_by_device, agreement
from tests.benchmarks.databases import KINDS, empty_database
from tests.predicted import plans_of

FIRST_DAY, DAYS = dt.datetime(2021, 1, 1, tzinfo=dt.UTC), 1826
DIGESTS = [f"{number:x}" * 64 for number in range(1, 5)]
DEVICES = [(f"SITE{site}", f"MAKER CV-{site}{kind}") for site in "ABC" for kind in (170, 190, 290)]
REASONS = ["below_threshold", "no_frames", "out_of_distribution", "rests_on_filled", "not_lower_gi"]
AT_ONCE = 20_000
TIMES, BAR_MS, PAGE = 20, 200, 50


def predictions(count: int) -> Iterator[list[PredictionRow]]:
    """Yield predictions in the order in which they would have been made."""
    generator = np.random.default_rng(5)
    instants = np.sort(generator.integers(0, DAYS * 86_400_000_000, count))
    patients = generator.integers(1, count // 3 + 2, count)
    patients[19::20] = patients[18::20][: len(patients[19::20])]
    devices = generator.choice(len(DEVICES), count, p=[0.25, 0.15, 0.1, 0.2, 0.1, 0.05, 0.1, 0.03, 0.02])
    # a package serves a year and a quarter; for its last weeks the next one reads part of the exams
    models = np.clip((instants / (DAYS * 86_400_000_000) * 4 + generator.normal(0, 0.03, count)), 0, 3.99)
    is_ibd = generator.random(count) < 0.3
    probability = np.where(is_ibd, generator.beta(9, 1, count), generator.beta(1, 9, count))
    is_unpredicted = generator.random(count) < 1 / 6
    reasons = generator.choice(len(REASONS), count, p=[0.6, 0.1, 0.15, 0.1, 0.05])
    reviewed = generator.random(count)
    for start in range(0, count, AT_ONCE):
        yield [
            PredictionRow(
                id=n + 1,
                exam_id=f"{n:012x}",
                patient_row_id=int(patients[n]),
                peer_ae_title=DEVICES[devices[n]][0],
                device_model=DEVICES[devices[n]][1],
                model_digest=DIGESTS[int(models[n])],
                recipe_digest="r" * 64,
                reading="unpredicted" if is_unpredicted[n] else "ibd" if probability[n] >= 0.5 else "healthy",
                unpredicted_reason=REASONS[reasons[n]] if is_unpredicted[n] else None,
                probability=None if is_unpredicted[n] else float(probability[n]),
                confidence=None if is_unpredicted[n] else float(max(probability[n], 1 - probability[n])),
                threshold=0.8,
                top_k=6,
                vote_mode="probabilities",
                frames_kept=30,
                frames_rejected=4,
                frames_used=6,
                created_at=FIRST_DAY + dt.timedelta(microseconds=int(instants[n])),
                verdict="rejected" if reviewed[n] < 0.04 else "accepted" if reviewed[n] < 0.4 else None,
            )
            for n in range(start, min(start + AT_ONCE, count))
        ]


def generate(database: Database, count: int) -> None:
    """Fill an empty database."""
    tallies: Counter[tuple[Any, ...]] = Counter()
    day = FIRST_DAY
    with database.writing() as session:
        session.add(UserRow(id=1, name="reviewer", role="reviewer", created_at=day))
        for number, digest in enumerate(DIGESTS):
            said = {"name": "bench", "version": f"1.{number}", "manifest": {}}
            session.add(ModelPackageRow(digest=digest, registered_at=day, **said))
        session.flush()
        patients = [{"patient_id": f"P{n:07}", "created_at": day} for n in range(1, count // 3 + 2)]
        _insert(session, PatientRow, patients)
    for batch in predictions(count):
        with database.writing() as session:
            _insert(session, ExamRow, [_exam_of(row) for row in batch])
            _insert(session, PredictionRow, [_values_of(row) for row in batch])
            reviews = [
                {"prediction_id": row.id, "user_id": 1, "verdict": row.verdict, "created_at": row.created_at}
                for row in batch
                if row.verdict
            ]
            _insert(session, ReviewRow, reviews)
        tallies.update(tuple(tally_key(row).values()) for row in batch)
    names = [column.name for column in TallyRow.__table__.columns]
    with database.writing() as session:
        values = [dict(zip(names, (*key, n), strict=True)) for key, n in tallies.items()]
        _insert(session, TallyRow, values)


def _insert(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), AT_ONCE):
        session.execute(insert(table), rows[start : start + AT_ONCE])


def _exam_of(row: PredictionRow) -> dict[str, Any]:
    at = row.created_at
    of = row.id - (row.id % 20 == 0)  # one in twenty is the second revision of the exam before
    return {
        "id": row.exam_id, "exam_key": f"{of}", "revision": 1 + row.id - of, "state": "delivered",
        "patient_row_id": row.patient_row_id, "study_instance_uid": f"1.2.{of}", "study_date": f"{at:%Y%m%d}",
        "peer_ae_title": row.peer_ae_title, "device_model": row.device_model, "opened_at": at,
        "last_new_at": at, "closes_at": at, "step_seconds": {},
    }  # fmt: skip


def _values_of(row: PredictionRow) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in PredictionRow.__table__.columns}


def page_of(filters: dict[str, Any], number: int = 1) -> Callable[[Session], object]:
    """Return what the API does for one page: the rows of it, and how many there are in all."""
    asked = PredictionFilters.model_validate(filters)

    def ask(session: Session) -> object:
        found = find_predictions(session, asked, skip=(number - 1) * PAGE, limit=PAGE)
        return found, count_predictions(session, asked)

    return ask


def rest_of(filters: dict[str, Any]) -> Callable[[Session], object]:
    """Return what an export does for a part in the middle: the next rows behind the 100th page."""
    asked = PredictionFilters.model_validate(filters)
    after: list[str | None] = []

    def ask(session: Session) -> object:
        if not after:
            after.append(find_predictions(session, asked, limit=100 * PAGE).next)
        return find_predictions(session, asked, after=after[0], limit=PAGE)

    return ask


UNPREDICTED = {
    "reading": "unpredicted", "unpredicted_reason": "below_threshold",
    "since": "2022-01-01", "until": "2025-06-30",
}  # fmt: skip
BAND = {"model_digest": DIGESTS[0], "min_probability": 0.8, "max_probability": 0.9}
QUERIES: dict[str, Callable[[Session], object]] = {
    "1 one patient's readings, all revisions": page_of({"patient_id": "P0000100"}),
    "2 unpredicted by reason in a date range, page 1": page_of(UNPREDICTED),
    "2 the same, page 500": page_of(UNPREDICTED, 500),
    "3 one model digest in a probability band, with verdicts, and their number": page_of(BAND),
    "3 the same, behind page 100 by its end": rest_of(BAND),
    "3 the same, those rejected": page_of({**BAND, "verdict": "rejected"}),
    "4 reviewer disagreement by model and month": agreement,
    "5 abstention rate by peer and device model per week": abstention_by_device,
}


def measure(database: Database, ask: Callable[[Session], object]) -> dict[str, Any]:
    """Ask warm, each time in a transaction of its own; return milliseconds, and how the rows were found."""
    times = []
    for _ in range(TIMES + 2):
        with database.reading() as session:
            started = time.perf_counter()
            ask(session)
            times.append(1000 * (time.perf_counter() - started))
    with database.reading() as session:
        plans = plans_of(session, lambda: ask(session))
    warm = sorted(times[2:])
    return {
        "median_ms": round(statistics.median(warm), 1),
        "p95_ms": round(warm[int(0.95 * TIMES) - 1], 1),
        "plan": [
            step for plan in plans for step in plan.split("; ") if re.search("predictions|tallies", step)
        ],
    }


def main() -> int:
    """Generate, ask, print a line for each database; 1 where a median misses the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    count = parser.parse_args().count
    holds = True
    for kind in KINDS:
        with (
            tempfile.TemporaryDirectory() as folder,
            empty_database(kind, Path(folder)) as url,
            closing(open_database(url)) as database,
        ):
            ensure_schema(database)
            generate(database, count)
            if kind == "postgresql":
                with database.engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
            measured = {name: measure(database, ask) for name, ask in QUERIES.items()}
            holds &= all(found["median_ms"] < BAR_MS for found in measured.values())
            print(json.dumps({"database": kind, "predictions": count, "bar_ms": BAR_MS, "queries": measured}))  # noqa: T201 - the result
    return not holds


if __name__ == "__main__":
    sys.exit(main())
