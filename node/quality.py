"""How the readings fare over time, from the tallies alone: agreement with reviewers, abstention, drift."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import QueryableAttribute

from db.audit import record
from db.tables import TallyRow
from node.drift import Drift, Months, drifts, is_within
from node.house import Node


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a model's readings of a month: how many were reviewed, and the share of those accepted."""

    model_digest: str
    month: str
    readings: int
    accepted: int
    rejected: int
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Abstention:
    """Of a device's exams of a week, ``YYYY-Www`` (ISO 8601): how many were unpredicted."""

    peer: str
    device_model: str
    week: str
    readings: int
    unpredicted: int
    rate: float


@dataclass(frozen=True, slots=True)
class Reason:
    """How many exams of a month were unpredicted for one reason, and their share of all."""

    month: str
    reason: str
    unpredicted: int
    rate: float


@dataclass(frozen=True, slots=True)
class Quality:
    """All figures, each list in order of time within what it is of."""

    agreement: tuple[Agreement, ...]
    abstention: tuple[Abstention, ...]
    reasons: tuple[Reason, ...]
    score_drift: tuple[Drift, ...]
    device_drift: tuple[Drift, ...]


def ask_quality(
    node: Node, *, actor: str = "", months: Months = (None, None), reference: Months | None = None
) -> Quality:
    """Return all figures; that they were asked for is an audit event."""
    with node.database.writing() as session:
        record(session, "quality_queried", "quality", actor=actor, months=months, reference=reference)
    with node.database.reading() as session:
        return Quality(
            agreement=agreement(session, months),
            abstention=abstention_by_device(session, months),
            reasons=abstention_by_reason(session, months),
            score_drift=score_drift(session, months, reference),
            device_drift=device_drift(session, months, reference),
        )


def agreement(session: Session, months: Months = (None, None)) -> tuple[Agreement, ...]:
    """Return, by model and month, what reviewers said."""
    verdicts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for digest, week, verdict, count in _by(session, TallyRow.model_digest, TallyRow.week, TallyRow.verdict):
        verdicts[digest, _month(week)][verdict] += count
    return tuple(
        Agreement(
            digest,
            month,
            said.total(),
            said["accepted"],
            said["rejected"],
            said["accepted"] / reviewed if (reviewed := said["accepted"] + said["rejected"]) else None,
        )
        for (digest, month), said in sorted(verdicts.items())
        if is_within(month, months)
    )


def abstention_by_device(session: Session, months: Months = (None, None)) -> tuple[Abstention, ...]:
    """Return the rate of abstention by peer, device model and week, of the days within the months."""
    readings: Counter[tuple[str, str, str]] = Counter()
    unpredicted: Counter[tuple[str, str, str]] = Counter()
    device = TallyRow.peer_ae_title, TallyRow.device_model
    of_them = func.sum(case((TallyRow.reading == "unpredicted", TallyRow.count), else_=0))
    for peer, model, day, abstained, count in _by(session, *device, TallyRow.week, of=[of_them]):
        if is_within(_month(day), months):
            year, week, _ = day.isocalendar()
            key = peer, model, f"{year:04}-W{week:02}"
            readings[key] += count
            unpredicted[key] += abstained
    return tuple(
        Abstention(*key, count, unpredicted[key], unpredicted[key] / count)
        for key, count in sorted(readings.items())
    )


def abstention_by_reason(session: Session, months: Months = (None, None)) -> tuple[Reason, ...]:
    """Return how many were unpredicted by month and reason."""
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for week, reason, count in _by(session, TallyRow.week, TallyRow.unpredicted_reason):
        reasons[_month(week)][reason] += count
    return tuple(
        Reason(month, reason, count, count / found.total())
        for month, found in sorted(reasons.items())
        if is_within(month, months)
        for reason, count in sorted(found.items())
        if reason
    )


def score_drift(
    session: Session, months: Months = (None, None), reference: Months | None = None
) -> tuple[Drift, ...]:
    """Return, model by model, how far the distribution of the probability lies from the reference's."""
    scores: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for digest, week, decile, count in _by(session, TallyRow.model_digest, TallyRow.week, TallyRow.decile):
        if decile >= 0:
            scores[digest][_month(week)][str(decile)] += count
    parts = [str(decile) for decile in range(10)]
    found = (drifts(digest, scored, parts, reference) for digest, scored in sorted(scores.items()))
    return tuple(drift for each in found for drift in each if is_within(drift.month, months))


def device_drift(
    session: Session, months: Months = (None, None), reference: Months | None = None
) -> tuple[Drift, ...]:
    """Return how far the mix of devices, of all peers, lies from the reference's."""
    devices: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for model, week, count in _by(session, TallyRow.device_model, TallyRow.week):
        devices[_month(week)][model] += count
    parts = sorted({model for found in devices.values() for model in found})
    return tuple(drift for drift in drifts("", devices, parts, reference) if is_within(drift.month, months))


def _by(
    session: Session, *keys: QueryableAttribute[Any], of: Sequence[ColumnElement[int]] = ()
) -> Iterable[Any]:
    """Return the keys, what else is added up, and how many readings are alike in the keys."""
    count = func.sum(TallyRow.count)
    return session.execute(select(*keys, *of, count).group_by(*keys).having(count > 0))


def _month(day: dt.date) -> str:
    return f"{day.year:04}-{day.month:02}"
