"""The tallies: counts of like predictions, moved in the transaction of each prediction and each review."""

import datetime as dt
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.tables import PredictionRow, TallyRow

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def tally_key(prediction: PredictionRow) -> dict[str, Any]:
    """Return the primary key of the tally that a prediction counts in, as it stands now."""
    probability = prediction.probability
    day = prediction.created_at.astimezone(dt.UTC).date()
    return {
        "week": max(day.replace(day=1), day - dt.timedelta(days=day.weekday())),
        "model_digest": prediction.model_digest,
        "peer_ae_title": prediction.peer_ae_title,
        "device_model": prediction.device_model,
        "reading": prediction.reading,
        "unpredicted_reason": prediction.unpredicted_reason or "",
        "decile": -1 if probability is None else min(int(10 * probability), 9),
        "verdict": prediction.verdict or "",
    }


def tally(session: Session, prediction: PredictionRow) -> None:
    """Count a new prediction in."""
    _change(session, tally_key(prediction), 1)


def give_verdict(session: Session, prediction: PredictionRow, verdict: str) -> None:
    """Give a prediction its newest verdict; it leaves one tally for another.

    The caller holds the prediction's row lock.
    """
    before = tally_key(prediction)
    prediction.verdict = verdict
    moves = [(before, -1), (tally_key(prediction), 1)]
    # always in one order: of two reviewers whose predictions change places none waits for the other for ever
    for key, by in sorted(moves, key=lambda move: str(move[0]["verdict"])):
        _change(session, key, by)


def _change(session: Session, key: dict[str, Any], by: int) -> None:
    insert = _INSERTS[session.get_bind().dialect.name]
    counted = insert(TallyRow).values(**key, count=by)
    session.execute(
        counted.on_conflict_do_update(index_elements=list(key), set_={"count": TallyRow.count + by})
    )
