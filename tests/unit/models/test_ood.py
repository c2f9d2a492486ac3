"""Scores of foreignness against plain sums, and their figures where the truth is known in closed form."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.classifier import Classifier
from models.errors import ModelError, PackageError
from models.ood import (
    COLUMNS,
    choose_threshold,
    distances,
    energy,
    foreign_figures,
    learn_rarity,
    outranked,
    rarity,
    read_foreign,
)
from models.package import load_package
from models.patient import FOREIGN, predict_frames
from models.run_folder import write_table
from pipeline.frame import FrameSource
from tests.foreign_colours import tell_foreign

Write = Callable[..., Path]

NORMAL = NormalDist()


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 4)), elements=st.floats(-50, 50)),
    st.floats(0.5, 5),
)
def test_the_energy_is_the_written_out_sum(logits: np.ndarray, temperature: float) -> None:
    expected = [-temperature * math.log(math.fsum(math.exp(z / temperature) for z in row)) for row in logits]
    assert energy(logits, temperature=temperature).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_energy_of_huge_logits_is_finite() -> None:
    assert energy(np.array([[1e30, -1e30]], np.float32)).tolist() == pytest.approx([-1e30], rel=1e-6)


def test_the_distance_is_that_to_the_kth_nearest_at_length_one() -> None:
    """Brightness stretches an embedding; what it is like is its direction."""
    generator = np.random.default_rng(0)
    embeddings, bank = generator.normal(size=(9, 5)), generator.normal(size=(11, 5))

    def unit(row: np.ndarray) -> list[float]:
        return [x / math.sqrt(math.fsum(y * y for y in row)) for x in row]

    for k in (1, 4, 11):
        expected = [sorted(math.dist(unit(one), unit(other)) for other in bank)[k - 1] for one in embeddings]
        assert distances(embeddings, bank, k=k).tolist() == pytest.approx(expected)
        assert distances(7 * embeddings, bank, k=k).tolist() == pytest.approx(expected)
    assert distances(bank, bank, k=1).tolist() == pytest.approx([0] * 11, abs=1e-7)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_the_bank_has_are_refused(k: int) -> None:
    with pytest.raises(ModelError, match="from 1 to the bank's 3"):
        distances(np.ones((1, 2)), np.eye(3, 2), k=k)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_the_threshold_keeps_the_share_and_the_next_lower_score_does_not(
    scores: list[int], share: float
) -> None:
    found = choose_threshold(np.array(scores, float), retention=share)
    assert sum(each <= found for each in scores) / len(scores) >= share
    assert sum(each < found for each in scores) / len(scores) < share


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30)
)
def test_the_auroc_counts_pairs(known: list[int], foreign: list[int]) -> None:
    won = sum((f > k) + (f == k) / 2 for f in foreign for k in known) / (len(known) * len(foreign))
    assert outranked(np.array(known, float), np.array(foreign, float)).mean() == pytest.approx(won)


def paint(generator: np.random.Generator, count: int, *, low: int, high: int) -> np.ndarray:
    return generator.integers(low, high, (count, 8, 12, 3), np.uint8)


def test_the_rarity_is_the_mean_of_what_counting_cells_one_by_one_gives() -> None:
    """Fast sums over strides and plain loops must see the same colours."""
    generator = np.random.default_rng(0)
    known, asked = paint(generator, 5, low=0, high=256), paint(generator, 4, low=0, high=256)

    def colours(view: np.ndarray) -> list[tuple[int, ...]]:
        corners = [(row, column) for row in range(0, 8, 4) for column in range(0, 12, 4)]
        cells = [view[row : row + 4, column : column + 4].reshape(16, 3).tolist() for row, column in corners]
        return [tuple(sum(plane) // 16 // 16 for plane in zip(*cell, strict=True)) for cell in cells]

    seen = Counter(colour for view in known for colour in colours(view))
    whole = sum(seen.values()) + 0.5 * 16**3
    expected = [math.fsum(-math.log((seen[c] + 0.5) / whole) for c in colours(view)) / 6 for view in asked]
    assert rarity(asked, learn_rarity(known)).tolist() == pytest.approx(expected, abs=0.01)


def test_colours_never_seen_are_rarer_than_any_seen() -> None:
    generator = np.random.default_rng(0)
    table = learn_rarity(paint(generator, 20, low=0, high=100))
    seen, unseen = (paint(generator, 20, low=low, high=low + 100) for low in (0, 150))
    assert rarity(unseen, table).min() > rarity(seen, table).max()
    assert rarity(unseen[:0], table).shape == (0,)


def test_a_package_that_tells_foreign_frames_keeps_their_probability_and_takes_their_vote(
    write_package: Write,
) -> None:
    known, other = np.full((1, 224, 224, 3), 90, np.uint8), np.full((1, 224, 224, 3), 200, np.uint8)
    views, sources = np.concatenate([known, other]), [FrameSource("1.2", number) for number in (1, 2)]
    plain = load_package(write_package())
    untold = predict_frames(Classifier(plain).score(views), sources, plain)
    package = load_package(tell_foreign(write_package(), learn_rarity(known), threshold=1.0))
    told = predict_frames(Classifier(package).score(views), sources, package)
    assert [frame.reason for frame in untold] == [None, None]
    assert [frame.reason for frame in told] == [None, FOREIGN]
    assert [frame.probability for frame in told] == [frame.probability for frame in untold]


def test_a_score_exactly_at_the_threshold_is_known(write_package: Write) -> None:
    """The threshold is a known frame's own score: that one is kept."""
    views = np.full((1, 224, 224, 3), 90, np.uint8)
    table = np.full(16**3, 2.5, np.float16)
    package = load_package(tell_foreign(write_package(), table, threshold=2.5))
    (frame,) = predict_frames(Classifier(package).score(views), [FrameSource("1.2", 1)], package)
    assert frame.reason is None


@pytest.mark.parametrize(
    "table", [np.zeros(16**3), np.zeros(9, np.float16), np.full(16**3, np.nan, np.float16)],
    ids=["float64", "too few", "not finite"],
)  # fmt: skip
def test_a_file_of_anything_else_is_refused(write_package: Write, table: np.ndarray) -> None:
    package = load_package(tell_foreign(write_package(), table, threshold=1.0))
    with pytest.raises(PackageError, match=r"colours\.npy: 4096 finite float16"):
        Classifier(package)


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ({"score": "colours", "file": "none.npy", "threshold": 1.0}, "a digest of 'none.npy' was expected"),
        ({"score": "energy", "file": "model.onnx", "threshold": 1.0}, "foreign: a 'score' 'colours'"),
        ({"score": "colours", "file": "model.onnx"}, "foreign: "),
        ({"score": "colours", "file": "model.onnx", "threshold": "1"}, "foreign: "),
        ([], "foreign: "),
    ],
)
def test_a_manifest_that_half_tells_of_foreign_frames_is_refused(
    write_package: Write, foreign: object, message: str
) -> None:
    with pytest.raises(PackageError, match=message):
        load_package(write_package(foreign=foreign))


def drawn(generator: np.random.Generator, mean: float, name: str, count: int) -> list[dict[str, str]]:
    """Return rows of one seed and five folds; foreign frames are read by every fold's network."""
    folds = [[number % 5] if name == "known" else range(5) for number in range(count)]
    scores = generator.normal(mean, 1, count)
    return [
        {
            "seed": "0", "fold": f"{fold}", "set": name, "path": f"{name}/{number}",
            "score": f"{scores[number]}", "energy": "0", "neighbours": "0",
            "probability": f"{0.99 if number % 4 else 0.5}", "threshold": "0.9",
        }
        for number in range(count) for fold in folds[number]
    ]  # fmt: skip


def test_figures_of_normal_distributions_are_those_of_theory() -> None:
    generator = np.random.default_rng(0)
    table = drawn(generator, 0, "known", 4000) + drawn(generator, 2, "capsule", 4000)
    found = foreign_figures(table)
    kept = NORMAL.cdf(NORMAL.inv_cdf(0.95) - 2)
    assert list(found) == ["known", "capsule"]
    assert [each["frames"] for each in found.values()] == [4000, 4000]
    expected = {
        "auroc": NORMAL.cdf(2 / math.sqrt(2)),
        "fpr95": kept,
        "rejected": 1 - kept,
        "still_confident": 0.75 * kept,
    }
    for name, value in expected.items():
        figure = found["capsule"][name]
        assert figure["value"] == pytest.approx(value, abs=0.03)
        assert figure["low"] < figure["value"] < figure["high"]
    assert found["known"]["rejected"]["value"] == pytest.approx(0.05, abs=0.003)
    assert found["known"].keys() == {"frames", "rejected", "still_confident"}
    assert foreign_figures(table, score="energy")["capsule"]["auroc"]["value"] == 0.5


def test_each_fold_is_held_against_what_its_own_network_said_and_the_others_decide() -> None:
    """Of two networks one scores everything ten higher; pooled, its known frames would look foreign."""
    rows = [
        {**dict.fromkeys(COLUMNS, "0"), "fold": str(fold), "set": name, "path": f"{name}{fold}{number}",
         "score": str(number + shift + 10 * fold), "probability": "0.9", "threshold": "0.8"}
        for fold in (0, 1)
        for name, shift in (("known", 0), ("capsule", 0.5))
        for number in range(10)
    ]  # fmt: skip
    found = foreign_figures(rows)
    assert found["capsule"]["auroc"]["value"] == 0.55  # over all folds it would be 0.525
    # The threshold on fold 0 is fold 1's 19, which nothing reaches; that on fold 1 is fold 0's 9, below all.
    assert found["known"]["rejected"]["value"] == 0.5
    assert found["capsule"]["rejected"]["value"] == 0.5
    # A score that is the threshold is kept.
    ties = [{**row, "score": "1"} for row in rows]
    assert foreign_figures(ties)["capsule"]["fpr95"]["value"] == 1


def test_the_colours_of_a_package_stand_red_first() -> None:
    """Packages are made and read at different times: their order is part of the format."""
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert int(np.argmin(learn_rarity(red))) == 15 * 256


def test_no_rejected_frame_of_ten_does_not_bound_the_share_at_none() -> None:
    """A bootstrap of ten frames that all pass would say that every such frame does."""
    generator = np.random.default_rng(0)
    found = foreign_figures(drawn(generator, 0, "known", 400) + drawn(generator, -3, "stool", 10))
    assert (found["stool"]["rejected"]["value"], found["stool"]["rejected"]["low"]) == (0, 0)
    assert found["stool"]["rejected"]["high"] == pytest.approx(0.3085, abs=1e-4)


def test_a_table_is_read_back_and_one_without_known_frames_is_refused(tmp_path: Path) -> None:
    rows = drawn(np.random.default_rng(0), 0, "known", 5)
    write_table(tmp_path / "foreign.csv", COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    assert read_foreign(tmp_path / "foreign.csv") == rows
    write_table(tmp_path / "foreign.csv", COLUMNS, [])
    with pytest.raises(ModelError, match="known frames and the columns seed, fold"):
        read_foreign(tmp_path / "foreign.csv")
