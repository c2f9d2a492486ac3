"""How far a month's distribution lies from a reference's: the population stability index, and its noise."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

REFERENCE_MONTHS = 3
"""What is measured against where nobody says otherwise: the first months, of a model or of the house."""

SHIFTED, DRIFTED = 0.1, 0.25
"""PSI from which a scorecard is looked into, and made anew (Siddiqi, Credit Risk Scorecards, 2006)."""

Months: TypeAlias = tuple[str | None, str | None]
"""First and last calendar month (UTC), ``YYYY-MM``, both included; None: no bound."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a month's distribution lies from the reference's.

    Attributes
    ----------
    model_digest
        Empty for the mix of devices, which is the house's.
    reference, found
        How many fell into each part: tenths of the probability, 0 to 9, or devices.
    psi
        Population stability index: the sum over the parts of (p - q) ln(p / q), half an exam added to each.
    by_chance
        What PSI reaches in one of twenty months in which nothing has changed.
    is_too_few
        Chance alone may reach `SHIFTED`: a month's number says little.
    """

    model_digest: str
    month: str
    reference: dict[str, int]
    found: dict[str, int]
    psi: float
    by_chance: float
    is_too_few: bool
    state: Literal["stable", "shifted", "drifted"]


def drifts(
    model_digest: str, months: Mapping[str, Counter[str]], parts: Sequence[str], reference: Months | None
) -> Iterator[Drift]:
    """Compare each month that follows the reference with it."""
    if not months:
        return
    first, last = reference or (None, sorted(months)[:REFERENCE_MONTHS][-1])
    before: Counter[str] = Counter()
    for month, found in sorted(months.items()):
        if is_within(month, (first, last)):
            before += found
        elif before and (last is None or month > last):
            yield _drift(model_digest, month, before, found, parts)


def is_within(month: str, months: Months) -> bool:
    """Tell whether a month is one of those.

    >>> is_within("2026-03", ("2025-11", None)), is_within("2026-03", (None, "2026-02"))
    (True, False)
    """
    first, last = months
    return (first is None or month >= first) and (last is None or month <= last)


def _drift(
    model_digest: str, month: str, reference: Counter[str], found: Counter[str], parts: Sequence[str]
) -> Drift:
    psi = 0.0
    for part in parts:
        p, q = ((count[part] + 0.5) / (count.total() + len(parts) / 2) for count in (reference, found))
        psi += (p - q) * math.log(p / q)
    occupied = sum(part in reference or part in found for part in parts)
    by_chance = _chi_square_95(occupied - 1) * (1 / reference.total() + 1 / found.total())
    is_drift = psi > by_chance
    return Drift(
        model_digest=model_digest,
        month=month,
        reference={part: reference[part] for part in parts},
        found={part: found[part] for part in parts},
        psi=psi,
        by_chance=by_chance,
        is_too_few=by_chance > SHIFTED,
        state="drifted"
        if is_drift and psi >= DRIFTED
        else "shifted"
        if is_drift and psi >= SHIFTED
        else "stable",
    )


def _chi_square_95(degrees: int) -> float:
    """Return the 95th percentile of chi-square: of PSI / (1/n + 1/m), where nothing has changed.

    Sources: Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020; the cube is Wilson and
    Hilferty's, PNAS 17, 1931.

    >>> round(_chi_square_95(9), 1), _chi_square_95(0)
    (16.9, 0.0)
    """
    if degrees < 1:
        return 0.0
    share = 2 / (9 * degrees)
    return float(degrees * (1 - share + 1.6449 * math.sqrt(share)) ** 3)
