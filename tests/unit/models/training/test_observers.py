"""The rules that choose a range: equal to what a plain search over the values finds."""

import math
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to quantise")

import numpy as np
import torch

from models.training.quantisers.affine import UniformConfig, UniformQuantiser, round_to
from models.training.quantisers.observers import (
    HALF_BINS,
    STEPS,
    QuantiserError,
    RangeRule,
    Statistics,
    entropy,
    least_squares,
    min_max,
    percentile,
)

RULES = [min_max, percentile, partial(percentile, share=0.9999), least_squares, entropy]


def seen(x: torch.Tensor, parts: int = 1, axis: int | None = None) -> Statistics:
    statistics = Statistics(axis)
    for part in x.chunk(parts):
        statistics.add(part)
    return statistics


def rounding(config: UniformConfig) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, lowest, highest: round_to(x, config.place(lowest, highest, axis=0))


def draw(kind: str, number: int = 20_000) -> torch.Tensor:
    x = torch.randn(number, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return {"signed": x, "rectified": x.relu(), "tailed": x.abs() ** 3}[kind]


def scalar_round(value: float, lowest: float, highest: float, bits: int) -> float:
    a, b, high = min(lowest, 0.0), max(highest, 0.0), (1 << bits) - 1
    scale = (b - a) / high
    zero = min(max(round(-a / scale), 0), high)
    return (min(max(round(value / scale) + zero, 0), high) - zero) * scale


@settings(max_examples=25)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.integers(1, 5))
def test_batches_tell_what_the_whole_would(values: list[float], parts: int) -> None:
    """Every value is in the one bin that spans it, however often the limit had to double on the way."""
    x = torch.tensor(values, dtype=torch.float64)
    statistics = seen(x, parts)
    assert float(statistics.lowest) == min(values)
    assert float(statistics.highest) == max(values)
    assert float(statistics.magnitude) == pytest.approx(math.fsum(map(abs, values)) / len(values))
    if max(map(abs, values)) == 0:
        return
    places = [math.floor(value / statistics.width) for value in values]
    assert max(map(abs, places)) >= HALF_BINS // 2 - 1
    expected = np.bincount(np.array(places) + HALF_BINS, minlength=2 * HALF_BINS)
    assert statistics.counts[0].tolist() == expected.tolist()


@pytest.mark.parametrize("share", [0.999, 0.9999])
@pytest.mark.parametrize("kind", ["signed", "rectified", "tailed"])
def test_a_percentile_is_within_a_bin_of_the_sorted_values_own(kind: str, share: float) -> None:
    x = draw(kind)
    statistics = seen(x, 7)
    lowest, highest = percentile(statistics, rounding(UniformConfig()), share=share)
    ordered = sorted(x.tolist())
    above = ordered[round(share * len(ordered)) - 1]
    below = ordered[round((1 - share) * len(ordered)) - 1]
    assert 0 <= float(highest) - above <= statistics.width
    assert 0 <= below - float(lowest) <= statistics.width


def test_a_percentile_of_channels_is_one_of_their_values() -> None:
    x = torch.arange(2000.0).flip(0).view(1, -1) * torch.tensor([[1.0], [-2.0]])
    lowest, highest = percentile(seen(x, axis=0), rounding(UniformConfig(axis=0)), share=0.999)
    assert lowest.tolist() == [1.0, -3996.0]
    assert highest.tolist() == [1997.0, -4.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_squares_range_of_channels_is_what_trying_all_finds(bits: int) -> None:
    x = draw("signed", 240).view(3, 80) * torch.tensor([[0.1], [1.0], [9.0]])
    found = least_squares(seen(x, axis=0), rounding(UniformConfig(bits, axis=0)))
    for row, lowest, highest in zip(x.tolist(), *(bound.tolist() for bound in found), strict=True):
        errors = {}
        for step in range(STEPS, 0, -1):
            a, b = min(row) * (step / STEPS), max(row) * (step / STEPS)
            errors[a, b] = math.fsum((scalar_round(v, a, b, bits) - v) ** 2 for v in row)
        assert (lowest, highest) == pytest.approx(min(errors, key=lambda pair: errors[pair]))


@pytest.mark.parametrize("kind", ["signed", "rectified", "tailed"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_least_squares_range_of_a_histogram_is_as_good_as_of_the_values(kind: str, bits: int) -> None:
    x = draw(kind, 5000)
    config = UniformConfig(bits)

    def error(bounds: tuple[torch.Tensor, torch.Tensor]) -> float:
        return float((rounding(config)(x[None], *bounds) - x).square().sum())

    ends = torch.stack([x.min(), x.max()])[:, None]
    best = min(error(tuple(ends * (step / STEPS))) for step in range(1, STEPS + 1))
    found = error(least_squares(seen(x, 5), rounding(config)))
    assert found <= best * 1.01
    if (kind, bits) == ("tailed", 4):
        assert found < 0.75 * error((ends[0], ends[1]))


def scalar_entropy(statistics: Statistics, bits: int) -> float:
    """Return the share of the range that entropy is to choose, one bin and one level at a time."""
    values, counts = statistics.values[0].tolist(), statistics.counts[0].tolist()
    counts[HALF_BINS] = counts[HALF_BINS + 1]
    half = statistics.width / 2
    divergences = {}
    for step in range(STEPS, 0, -1):
        a, b = (float(bound) * (step / STEPS) for bound in (statistics.lowest, statistics.highest))
        inside = [i for i, v in enumerate(values) if v + half >= a and v - half <= b]
        p = {i: float(counts[i]) for i in inside}
        p[inside[0]] += sum(counts[: inside[0]])
        p[inside[-1]] += sum(counts[inside[-1] + 1 :])
        levels: dict[float, list[int]] = {}
        for i in inside:
            levels.setdefault(scalar_round(values[i], a, b, bits), []).append(i)
        if len(levels) >= len(inside) and step < STEPS:
            break
        total, own, divergence = sum(p.values()), sum(counts[i] for i in inside), 0.0
        for members in levels.values():
            shown = [i for i in members if p[i] > 0]
            level = sum(counts[i] for i in members)
            for i in shown:
                q = max(level / len(shown), 1) / own
                divergence += p[i] / total * math.log(p[i] / total / q)
        divergences[step] = divergence
    return min(divergences, key=lambda step: divergences[step]) / STEPS


@pytest.mark.parametrize("kind", ["signed", "tailed"])
def test_the_entropy_range_is_what_a_loop_over_bins_and_levels_finds(kind: str) -> None:
    statistics = seen(draw(kind, 200_000), 3)
    lowest, highest = entropy(statistics, rounding(UniformConfig(4)))
    share = scalar_entropy(statistics, 4)
    assert float(highest) == pytest.approx(share * float(statistics.highest))
    assert float(lowest) == pytest.approx(share * float(statistics.lowest))
    assert share < 1


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_gives_the_same_range_each_time_and_none_wider_than_what_was_seen(rule: RangeRule) -> None:
    x = draw("signed")
    first, second = (rule(seen(x, 4), rounding(UniformConfig())) for _ in range(2))
    assert first == second
    assert float(x.min()) <= float(first[0]) <= float(first[1]) <= float(x.max())


@pytest.mark.parametrize("rule", RULES)
def test_a_dead_tensor_gets_scale_one(rule: RangeRule) -> None:
    """A channel that never fires is no reason to stop, and zero stays zero."""
    quantiser = UniformQuantiser(UniformConfig(rule=rule))
    quantiser.observe(torch.zeros(4, 4))
    quantiser.freeze()
    assert float(quantiser.pack().scale) == 1
    assert quantiser.quantise(torch.zeros(3)).tolist() == [0, 0, 0]


def test_entropy_leaves_out_what_lies_far_off_and_alone() -> None:
    x = torch.cat([draw("rectified", 50_000), torch.full((1,), 100.0)])
    _, highest = entropy(seen(x), rounding(UniformConfig(8)))
    assert 3 < float(highest) < 10


def test_entropy_of_channels_is_refused() -> None:
    with pytest.raises(QuantiserError, match="choose least_squares for weights"):
        entropy(seen(torch.ones(2, 2), axis=0), rounding(UniformConfig()))
