"""Predictions as rows, without the exams' images: for what is asked of them afterwards."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from db.tables import ExamRow, ModelPackageRow, PatientRow, PredictionRow, UserRow
from db.tallies import tally

DIGESTS = {"1.0": "a1" * 32, "1.1": "a2" * 32, "2.0": "b1" * 32}
START = dt.datetime(2025, 12, 1, 12, tzinfo=dt.UTC)


def add_models(session: Session) -> None:
    """Add three packages and a user to review with."""
    for version, digest in DIGESTS.items():
        said = {"digest": digest, "version": version, "name": "network", "manifest": {}}
        session.add(ModelPackageRow(**said, registered_at=START))
    session.add(UserRow(id=1, name="reviewer", role="reviewer", created_at=START))
    session.flush()


def add_patient(session: Session, patient_id: str, issuer: str = "") -> int:
    """Return a patient's row id, made on first sight."""
    said = {"patient_id": patient_id, "issuer_of_patient_id": issuer}
    found = session.scalars(select(PatientRow.id).filter_by(**said)).first()
    if found is None:
        row = PatientRow(**said, created_at=START)
        session.add(row)
        session.flush()
        found = row.id
    return found


def add_prediction(
    session: Session, number: int, *, patient: int | None = None, version: str = "1.0", **values: Any
) -> PredictionRow:
    """Add an exam and its prediction, counted in; `values` are columns of the prediction."""
    at = values.setdefault("created_at", START)
    exam_id, probability = f"{number:012x}", values.setdefault("probability", None)
    given = {"peer_ae_title": "TOWER", "device_model": "MAKER 1"} | values
    session.add(
        ExamRow(
            id=exam_id, exam_key=exam_id, revision=1, patient_row_id=patient, state="read",
            study_instance_uid=f"1.2.{number}", opened_at=at, last_new_at=at, closes_at=at,
        )
    )  # fmt: skip
    reading = "unpredicted" if probability is None else "ibd" if probability >= 0.5 else "healthy"
    row = PredictionRow(
        exam_id=exam_id, patient_row_id=patient, model_digest=DIGESTS[version], threshold=0.8, top_k=6,
        vote_mode="probabilities", frames_kept=9, frames_rejected=1, frames_used=6,
        **({"recipe_digest": "c" * 64, "reading": reading} | given),
        confidence=None if probability is None else max(probability, 1 - probability),
    )  # fmt: skip
    session.add(row)
    session.flush()
    tally(session, row)
    return row


def plans_of(session: Session, ask: Callable[[], object]) -> list[str]:
    """Return the database's plan for each statement that `ask` runs, its lines in one."""
    asked: list[tuple[str, Any]] = []
    connection = session.connection()

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        asked.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", keep)
    ask()
    event.remove(connection, "before_cursor_execute", keep)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    plans = [connection.exec_driver_sql(f"{explain} {sql}", given) for sql, given in asked]
    return ["; ".join(str(row[-1]).strip() for row in plan) for plan in plans]
