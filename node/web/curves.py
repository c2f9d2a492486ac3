"""Figures by month or week as lines, as places on an SVG drawing."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node.drift import DRIFTED, SHIFTED
from node.quality import Quality

COLUMNS, LEFT, TOP, BOTTOM = 1000, 56, 10, 190
KINDS = 8
"""So many lines can be told apart: four colours, whole or dashed."""
LABELLED = 7
TOPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)


@dataclass(frozen=True, slots=True)
class Curves:
    """Named paths, and labelled places on both axes."""

    lines: tuple[tuple[str, str], ...]
    limits: tuple[tuple[float, str], ...]
    heights: tuple[tuple[float, str], ...]
    periods: tuple[tuple[float, str], ...]
    left_out: int
    """So many names more have figures: those with the fewest."""


def curves(points: Iterable[tuple[str, str, float | None]], *, limits: Sequence[float] = ()) -> Curves:
    """Draw (name, period, value); where a value is None, or a period without one, the line is broken.

    Periods stand at equal distances, in the order of their text; the axis begins at zero.

    >>> drawn = curves([("a", "2026-01", 0.0), ("a", "2026-02", 0.2)], limits=[0.1])
    >>> drawn.lines, drawn.limits
    ((('a', 'M56 190L990 46'),), ((118.0, '0.1'),))
    """
    values: defaultdict[str, dict[str, float]] = defaultdict(dict)
    named: set[str] = set()
    for name, period, value in points:
        named.add(period)
        if value is not None:
            values[name][period] = value
    periods = sorted(named)
    highest = max([*limits, *(value for found in values.values() for value in found.values())], default=1.0)
    most = next((top for top in TOPS if highest <= top), highest)
    step = (COLUMNS - 10 - LEFT) / max(1, len(periods) - 1)
    every = -(-len(periods) // LABELLED)

    def height(value: float) -> float:
        return round(BOTTOM - value / most * (BOTTOM - TOP), 1)

    def path(found: dict[str, float]) -> str:
        runs: list[list[str]] = [[]]
        for number, period in enumerate(periods):
            if period in found:
                runs[-1].append(f"{LEFT + number * step:g} {height(found[period]):g}")
            else:
                runs.append([])
        # a run of one point is a line of no length, which a round end makes a dot
        return "".join(f"M{'L'.join(run)}{'h0' if len(run) == 1 else ''}" for run in runs if run)

    shown = sorted(values, key=lambda name: (-len(values[name]), name))[:KINDS]
    return Curves(
        lines=tuple((name, path(values[name])) for name in sorted(shown)),
        limits=tuple((height(limit), f"{limit:g}") for limit in limits),
        heights=tuple((height(most * part / 5), f"{most * part / 5:g}") for part in range(6)),
        periods=tuple((round(LEFT + n * step, 1), periods[n]) for n in range(0, len(periods), every or 1)),
        left_out=len(values) - len(shown),
    )


def quality_curves(quality: Quality) -> dict[str, Curves]:
    """Draw each list of figures: a model by its digest's beginning, a device with where it sends from.

    Abstention is drawn by the month of a week's Monday: a device has few exams a week.
    """
    limits = (SHIFTED, DRIFTED)
    months: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in quality.abstention:
        monday = dt.datetime.strptime(f"{row.week}-1", "%G-W%V-%u").replace(tzinfo=dt.UTC)
        counted = months[f"{row.device_model or 'not stated'}, {row.peer}", f"{monday:%Y-%m}"]
        counted[0] += row.unpredicted
        counted[1] += row.readings
    return {
        "agreement": curves((row.model_digest[:8], row.month, row.agreement) for row in quality.agreement),
        "abstention": curves((*of, unpredicted / count) for of, (unpredicted, count) in months.items()),
        "reasons": curves((row.reason.replace("_", " "), row.month, row.rate) for row in quality.reasons),
        "score_drift": curves(
            ((row.model_digest[:8], row.month, row.psi) for row in quality.score_drift), limits=limits
        ),
        "device_drift": curves(
            (("all devices", row.month, row.psi) for row in quality.device_drift), limits=limits
        ),
    }
