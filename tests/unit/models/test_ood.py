"""Scores of foreignness against plain sums, and their figures where the truth is known in closed form."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.errors import ModelError
from models.ood import auroc, choose_threshold, distances, energy, kept_share, reduce_bank

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
    assert auroc(np.array(known, float), np.array(foreign, float)) == pytest.approx(won)


def test_figures_of_two_normal_distributions_are_those_of_theory() -> None:
    generator = np.random.default_rng(0)
    known, foreign = generator.normal(0, 1, 20_000), generator.normal(2, 1, 20_000)
    assert auroc(known, foreign) == pytest.approx(NORMAL.cdf(2 / math.sqrt(2)), abs=0.005)
    kept = kept_share(foreign, choose_threshold(known))
    assert kept == pytest.approx(NORMAL.cdf(NORMAL.inv_cdf(0.95) - 2), abs=0.02)


def draw(generator: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """Return frames about some of the centres, each at a brightness of its own."""
    frames = centres[generator.integers(0, len(centres), count)] + generator.normal(
        0, 0.3, (count, centres.shape[1])
    )
    return np.asarray(frames * generator.uniform(0.5, 2, (count, 1)))


def test_a_bank_of_a_tenth_in_8_bits_tells_foreign_frames_nearly_as_well() -> None:
    """A package holds it: 1,000 embeddings of 1,280 floats would double the package."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(10, 64))
    bank, known, mixed = (draw(generator, centres, count) for count in (1000, 500, 500))
    foreign = 0.35 * generator.normal(size=(500, 64)) + 0.65 * mixed
    small = reduce_bank(bank, 100)
    assert small.shape == (100, 64)
    assert small.dtype == np.int8
    whole = auroc(distances(known, bank, k=10), distances(foreign, bank, k=10))
    reduced = auroc(distances(known, small, k=1), distances(foreign, small, k=1))
    assert 0.9 < whole < 0.99
    assert reduced > whole - 0.02


def test_eight_bits_move_an_embedding_by_about_a_hundredth() -> None:
    embeddings = np.abs(np.random.default_rng(0).normal(size=(20, 1280)))
    assert distances(embeddings, reduce_bank(embeddings, 20), k=1).max() < 0.015


def test_a_bank_smaller_than_asked_for_is_kept_whole() -> None:
    assert len(reduce_bank(np.eye(3), 10)) == 3
