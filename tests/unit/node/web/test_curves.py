"""Figures over time as lines."""

import re

from node.quality import Abstention, Quality
from node.web.curves import BOTTOM, KINDS, curves, quality_curves


def test_a_line_is_broken_where_there_is_no_figure() -> None:
    """A line drawn through a month that nobody reviewed would say what nobody found."""
    drawn = curves([("a", f"2026-0{month}", value) for month, value in enumerate([0.1, 0.2, None, 0.4], 1)])
    ((_, path),) = drawn.lines
    assert re.findall("[MLh]", path) == ["M", "L", "M", "h"]


def test_a_name_without_a_figure_in_a_period_is_broken_there_too() -> None:
    drawn = dict(curves([("a", "1", 1), ("a", "3", 1), ("b", "2", 0)]).lines)
    assert drawn["a"].count("M") == 2
    assert drawn["b"].endswith(f" {BOTTOM}h0")


def test_the_axis_holds_what_is_drawn_and_the_limits() -> None:
    """Every place lies within the drawing, also what is above all round numbers."""
    for highest in (0.01, 0.3, 7.0, 99.0):
        drawn = curves([("a", "1", highest), ("a", "2", 0.0)], limits=[0.25])
        places = [y for y, _ in (*drawn.limits, *drawn.heights)]
        places += [float(y) for y in re.findall(r" ([\d.]+)", drawn.lines[0][1])]
        assert all(10 <= y <= BOTTOM for y in places)


def test_more_names_than_can_be_told_apart_are_counted() -> None:
    drawn = curves((f"{name}", "1", 0.5) for name in range(KINDS + 3))
    assert (len(drawn.lines), drawn.left_out) == (KINDS, 3)


def test_weeks_are_added_up_to_months_for_the_drawing() -> None:
    """One in ten and three in ten are two in ten, not the mean of what two weeks of unlike size say."""
    rows = (
        Abstention("PACS", "X", "2026-W02", 2, 2, 1.0),
        Abstention("PACS", "X", "2026-W03", 6, 0, 0.0),
        Abstention("PACS", "X", "2026-W06", 4, 1, 0.25),
    )
    drawn = quality_curves(Quality((), rows, (), (), ()))["abstention"]
    assert drawn.heights[-1][1] == "0.25"
    ((name, path),) = drawn.lines
    assert name == "X, PACS"
    assert {float(y) for y in re.findall(r" ([\d.]+)", path)} == {10.0}


def test_nothing_is_drawn_of_nothing() -> None:
    assert curves([]).lines == ()
