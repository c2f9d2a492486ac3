"""The tables of t and k against the rule itself, cell by cell, and against confusion counted by hand."""

import csv
import io
import math
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.grid import (
    BAGS,
    THRESHOLDS,
    TOP_KS,
    Grid,
    as_rows,
    average_bags,
    choose,
    draw_bags,
    largest_of_bags,
    read_bags,
    tables,
    tabulate,
)
from models.package import VoteMode
from models.patient import FramePrediction, read_patient, vote_once
from pipeline.frame import FrameSource

CODES = {"ibd": 1, "healthy": 0, "unpredicted": -1}


class Exams(NamedTuple):
    """Frames as the functions take them, ``(N,)`` each."""

    probabilities: np.ndarray
    patients: np.ndarray
    groups: np.ndarray


@st.composite
def exams(draw: st.DrawFn) -> Exams:
    """Draw patients of 1 to 13 frames in mixed order, probabilities that often tie or lie on a threshold."""
    sizes = draw(st.lists(st.integers(1, 13), min_size=1, max_size=3))
    count = sum(sizes)
    edges = [0.0, 0.01, 0.07, 0.1, 0.1 + 1e-16, 0.3, 0.5, 0.7, 0.9, 0.93, 0.99, 1.0]
    probability = st.one_of(st.sampled_from(edges), st.floats(0, 1))
    patients = draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    return Exams(
        np.array(draw(st.lists(probability, min_size=count, max_size=count))),
        np.array(patients),
        np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))),
    )


def predictions(probabilities: np.ndarray) -> list[FramePrediction]:
    return [
        FramePrediction(FrameSource("1.2", row + 1), "", p, max(p, 1 - p))
        for row, p in enumerate(probabilities.tolist())
    ]


@settings(max_examples=60)
@given(
    drawn=exams(), bag=st.sampled_from([None, *BAGS]), vote_mode=st.sampled_from(["probabilities", "votes"])
)
@pytest.mark.parametrize("deduplicate", [True, False])
def test_every_cell_is_what_the_rule_says_of_that_bag(
    *, deduplicate: bool, drawn: Exams, bag: int | None, vote_mode: VoteMode
) -> None:
    frames = predictions(drawn.probabilities)
    bags = draw_bags(drawn.patients, bag, draws=2)
    groups = drawn.groups if deduplicate else None
    thresholds = (0.5, *THRESHOLDS)  # where the two readings of the mean differ often
    found = read_bags(drawn.probabilities, bags, groups=groups, vote_mode=vote_mode, thresholds=thresholds)
    for place in np.ndindex(bags.shape[:2]):
        rows = [row for row in bags[place].tolist() if row >= 0]
        held = [frames[row] for row in rows]
        if deduplicate:
            held = vote_once(held, [int(drawn.groups[row]) for row in rows])
        for i, threshold in enumerate(thresholds):
            for j, top_k in enumerate(TOP_KS):
                read = read_patient(held, threshold=threshold, top_k=top_k, vote_mode=vote_mode)
                assert found[(*place, i, j)] == CODES[read.reading]


@given(exams(), st.sampled_from([None, *BAGS]))
def test_a_bag_holds_each_frame_once_and_only_its_patients(drawn: Exams, bag: int | None) -> None:
    bags = draw_bags(drawn.patients, bag, draws=3)
    for patient in range(bags.shape[1]):
        own = np.flatnonzero(drawn.patients == patient).tolist()
        for held in bags[:, patient].tolist():
            rows = [row for row in held if row >= 0]
            assert rows == sorted(set(rows) & set(own))
            assert len(rows) == (len(own) if bag is None else min(bag, len(own)))
    np.testing.assert_array_equal(bags, draw_bags(drawn.patients, bag, draws=3))


@given(exams(), st.sampled_from([None, *BAGS]))
def test_mean_and_largest_are_those_of_the_frames_a_bag_holds(drawn: Exams, bag: int | None) -> None:
    bags = draw_bags(drawn.patients, bag, draws=2)
    means, largest = (read(drawn.probabilities, bags) for read in (average_bags, largest_of_bags))
    for place in np.ndindex(bags.shape[:2]):
        held = [float(drawn.probabilities[row]) for row in bags[place] if row >= 0]
        assert means[place] == pytest.approx(math.fsum(held) / len(held))
        assert largest[place] == max(held)


def test_every_frame_of_a_patient_is_drawn_equally_often() -> None:
    bags = draw_bags(np.repeat([0, 1], [12, 9]), 3, draws=4000)
    shares = np.bincount(bags[:, 0].ravel(), minlength=12) / 4000
    assert np.abs(shares - 3 / 12).max() < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert len(np.unique(draw_bags(np.zeros(12, int), 3, draws=9, seed=1), axis=0)) > 1


def test_tables_average_confusion_counted_by_hand_with_unpredicted_as_wrong() -> None:
    """Datres: a prediction that the model withholds is considered wrong while t and k are tuned."""
    generator = np.random.default_rng(0)
    labels = generator.random(9) < 0.5
    readings = generator.integers(-1, 2, (4, 9, len(THRESHOLDS), len(TOP_KS))).astype(np.int8)
    readings[..., 1:] = np.where(readings[..., :1] < 0, -1, np.abs(readings[..., 1:]))
    found = tabulate(readings, labels, bag=3)
    for i, j in ((0, 0), (3, 7), (9, 9)):
        sums = np.zeros(4)
        for draw in readings[:, :, i, j].tolist():
            called = [not truth if call < 0 else bool(call) for call, truth in zip(draw, labels, strict=True)]
            pairs = [(c, bool(t)) for c, t in zip(called, labels, strict=True)]
            tp, fp, fn, tn = (
                pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))
            )
            margin = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
            mcc = (tp * tn - fp * fn) / margin if margin else 0
            sums += [mcc, (tp + tn) / 9, 2 * tp / (2 * tp + fp + fn), draw.count(-1)]
        cells = [found.mcc[i, j], found.accuracy[i, j], found.f1[i, j], found.unpredicted[i]]
        np.testing.assert_allclose(cells, sums / 4, atol=1e-12)


@given(exams(), st.sampled_from([None, *BAGS]))
def test_nobody_is_unpredicted_exactly_up_to_the_closed_form_threshold(drawn: Exams, bag: int | None) -> None:
    """Datres chose t = 0.93 as the highest that predicts every validation patient: no search is needed."""
    bags = draw_bags(drawn.patients, bag, draws=2)
    grid = tabulate(read_bags(drawn.probabilities, bags), np.arange(bags.shape[1]) % 2 == 0, bag=bag)
    sure = [[max(max(p, 1 - p) for p in drawn.probabilities[b[b >= 0]]) for b in row] for row in bags]
    highest = min(map(min, sure))
    assert ((grid.unpredicted == 0) == (np.array(THRESHOLDS) <= highest)).all()


def grid_of(bag: int | None, mcc: dict[tuple[float, int], float], unpredicted: dict[float, float]) -> Grid:
    table = np.full((len(THRESHOLDS), len(TOP_KS)), 0.5)
    for (t, k), value in mcc.items():
        table[THRESHOLDS.index(t), TOP_KS.index(k)] = value
    return Grid(bag, table, table, table, np.array([unpredicted.get(t, 0.0) for t in THRESHOLDS]))


def test_the_mean_over_bags_decides_and_whole_patients_have_no_say() -> None:
    grids = [
        grid_of(None, {(0.99, 1): 1.0}, {}),
        grid_of(3, {(0.85, 2): 0.9, (0.91, 4): 0.8}, {}),
        grid_of(5, {(0.85, 2): 0.6, (0.91, 4): 0.8}, {}),
        grid_of(10, {(0.85, 2): 0.6, (0.91, 4): 0.8}, {}),
    ]
    chosen = choose(grids)
    assert (chosen.threshold, chosen.top_k, chosen.tied) == (0.91, 4, 1)
    assert math.isclose(chosen.mcc, 0.8)


def test_ties_go_to_a_threshold_that_predicts_everybody_then_the_larger_t_then_the_smaller_k() -> None:
    tied = dict.fromkeys([(0.87, 9), (0.90, 2), (0.90, 6), (0.94, 10)], 0.9)
    chosen = choose([grid_of(bag, tied, {0.94: 0.01, 0.91: 1.0}) for bag in BAGS])
    assert (chosen.threshold, chosen.top_k, chosen.tied) == (0.90, 2, 4)
    everywhere = choose([grid_of(bag, tied, dict.fromkeys(THRESHOLDS, 1.0)) for bag in BAGS])
    assert (everywhere.threshold, everywhere.top_k) == (0.94, 10)


def test_a_table_with_several_faultless_cells_says_that_it_is_saturated() -> None:
    assert grid_of(None, {(0.85, 1): 1.0, (0.99, 2): 1.0}, {}).is_saturated
    assert not grid_of(None, {(0.85, 1): 1.0, (0.99, 2): 0.99}, {}).is_saturated


def test_the_papers_tables_of_74_patients_and_300_draws_take_seconds_and_become_csv() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(74), 15)
    labels = np.arange(74) % 2 == 0
    margins = generator.normal(np.where(labels[patients], 2.0, -2.0), 2.0)
    begun = time.perf_counter()
    grids = tables(1 / (1 + np.exp(-margins)), labels, patients)
    assert time.perf_counter() - begun < 5
    assert [grid.bag for grid in grids] == [None, 3, 5, 10]
    assert [bool((np.diff(grid.unpredicted) >= 0).all()) for grid in grids] == [True] * 4
    text = io.StringIO()
    writer = csv.DictWriter(text, as_rows(grids)[0].keys())
    writer.writeheader()
    writer.writerows(as_rows(grids))
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert len(rows) == 400
    chosen = choose(grids)
    cell = (str(chosen.threshold), str(chosen.top_k))
    of_bags = [float(row["mcc"]) for row in rows if (row["threshold"], row["top_k"]) == cell][1:]
    assert math.isclose(sum(of_bags) / 3, chosen.mcc)
