"""The confidence of every frame along an exam, as places on an SVG drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS, ROWS = 1000, 220
LEFT, TOP, BOTTOM = 44, 10, 190
LEAST = 0.5
"""A two-class confidence is never less."""


@dataclass(frozen=True, slots=True)
class PlotFrame:
    """A frame to draw: its number along the exam is its place in the sequence."""

    label: str | None
    confidence: float | None
    reason: str | None
    position: int | None
    """Among the evidence; None where it is not shown."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where and as what a frame is drawn."""

    x: float
    y: float
    kind: str
    """``ibd``, ``healthy``, ``mute`` (read, may not vote) or ``rejected``."""
    says: str
    position: int | None


@dataclass(frozen=True, slots=True)
class Plot:
    """Marks, the threshold's height, and labelled heights of the axis."""

    marks: tuple[Mark, ...]
    threshold_y: float | None
    ticks: tuple[tuple[float, str], ...]
    summary: str


def height(confidence: float) -> float:
    """Return a confidence's y.

    >>> height(1.0), height(0.5)
    (10.0, 190.0)
    """
    return round(BOTTOM - (min(max(confidence, LEAST), 1.0) - LEAST) / (1 - LEAST) * (BOTTOM - TOP), 1)


def draw(frames: Sequence[PlotFrame], threshold: float | None) -> Plot:
    """Return the drawing of an exam's frames, in their order."""
    step = (COLUMNS - LEFT - 10) / max(1, len(frames) - 1)
    marks = []
    for number, frame in enumerate(frames):
        x = round(LEFT + number * step, 1)
        if frame.confidence is None:
            says = f"frame {number + 1}: not read, {(frame.reason or 'no reason kept').replace('_', ' ')}"
            marks.append(Mark(x, BOTTOM + 14, "rejected", says, frame.position))
            continue
        kind = "mute" if frame.reason else frame.label or "mute"
        pattern = "IBD pattern" if frame.label == "ibd" else "no IBD pattern"
        says = f"frame {number + 1}: {pattern}, confidence {frame.confidence:.3f}"
        says += f", {frame.reason.replace('_', ' ')}" if frame.reason else ""
        marks.append(Mark(x, height(frame.confidence), kind, says, frame.position))
    read = [frame.confidence for frame in frames if frame.confidence is not None]
    reach = sum(value >= threshold for value in read) if threshold is not None else 0
    summary = f"{len(frames)} frames, {len(read)} read"
    summary += f", {reach} at or above t = {threshold:g}" if threshold is not None else ""
    ticks = tuple((height(value), f"{value:.1f}") for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    return Plot(tuple(marks), None if threshold is None else height(threshold), ticks, summary)
