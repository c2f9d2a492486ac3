"""Repairs after training: they keep the function, or bring a quantised layer nearer to it."""

import copy
import itertools

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to quantise")

import torch
from torch import Tensor, nn

from models.training.ptq import FAST_RATE, ChannelClip, correct_bias, equalise, round_adaptively
from models.training.quantisers.affine import Packed, UniformConfig, UniformQuantiser, round_to


def weight_grid(weight: Tensor, bits: int = 4) -> Packed:
    quantiser = UniformQuantiser(UniformConfig(bits, symmetric=True, axis=0))
    quantiser.observe(weight)
    quantiser.freeze()
    return quantiser.pack()


def uneven(first: nn.Conv2d, second: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Give channels ranges a thousand times apart, as folded batch norm does, and one that is dead."""
    with torch.no_grad():
        spread = torch.logspace(-1.5, 1.5, first.out_channels, dtype=torch.float64)
        first.weight *= spread.view(-1, 1, 1, 1)
        first.bias += 0.5 * spread
        first.weight[1] = 0
    return first, second


PAIRS = {
    "plain": lambda: (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3, padding=1)),
    "grouped": lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2)),
    "depthwise": lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)),
    "from depthwise": lambda: (nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 5, 1)),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("between", ["nothing", "relu", "relu6"])
def test_equalised_layers_compute_what_they_did(kind: str, between: str) -> None:
    """With ReLU6 that is so only if each channel's clip is divided too."""
    torch.manual_seed(0)
    first, second = uneven(*(layer.double() for layer in PAIRS[kind]()))
    clip = ChannelClip(torch.full((first.out_channels,), 6.0, dtype=torch.float64))
    middle = {"nothing": nn.Identity(), "relu": nn.ReLU(), "relu6": nn.ReLU6()}[between]
    x = 10 * torch.randn(4, 3, 9, 9, dtype=torch.float64)
    before = second(middle(first(x))).detach()
    reach = (middle(first(x)) == 6).any() if between == "relu6" else True
    assert reach, "nothing was clipped: the test would prove nothing"
    scales = equalise(first, second, clip=clip if between == "relu6" else None)
    after = second((clip if between == "relu6" else middle)(first(x)))
    assert torch.allclose(after, before, rtol=1e-10, atol=1e-10 * float(before.abs().max()))
    assert float(scales[1]) == 1
    assert float(scales.max() / scales.min()) > 10


@pytest.mark.parametrize("kind", PAIRS)
def test_equalised_channels_have_the_same_range_in_both_layers(kind: str) -> None:
    torch.manual_seed(0)
    first, second = uneven(*(layer.double() for layer in PAIRS[kind]()))
    equalise(first, second)
    inputs = second.in_channels // second.groups
    for channel in range(first.out_channels):
        if channel == 1:
            continue
        group, place = divmod(channel, inputs)
        outputs = second.out_channels // second.groups
        taken = second.weight[group * outputs : (group + 1) * outputs, place]
        assert first.weight[channel].abs().max().item() == pytest.approx(taken.abs().max().item())


def test_a_corrected_bias_gives_each_channel_its_mean_back() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).double()
    inputs = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    targets = layer(inputs).detach()
    quantised = copy.deepcopy(layer)
    quantised.weight.data = round_to(layer.weight.data, weight_grid(layer.weight, 2))
    gaps = [(quantised(inputs) - targets)[:, channel].mean().item() for channel in range(4)]
    assert max(map(abs, gaps)) > 0.01
    correct_bias(quantised, inputs, targets=targets)
    assert torch.allclose(quantised.bias, layer.bias - torch.tensor(gaps, dtype=torch.float64))
    assert (quantised(inputs) - targets).mean((0, 2, 3)).abs().max() < 1e-12


def test_adaptive_rounding_starts_at_the_nearest_and_stays_on_the_grid() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    kept = layer.weight.detach().clone()
    grid = weight_grid(layer.weight)
    inputs = torch.randn(8, 3, 6, 6)
    targets = layer(inputs).detach()
    start = round_adaptively(layer, grid, inputs=inputs, targets=targets, iterations=0)
    assert torch.equal(start, round_to(layer.weight, grid))
    found = [
        round_adaptively(layer, grid, inputs=inputs, targets=targets, iterations=50, seed=3) for _ in range(2)
    ]
    assert torch.equal(*found)
    assert torch.equal(layer.weight, kept)
    steps = layer.weight / grid.scale.view(-1, 1, 1, 1)
    assert ((found[0] / grid.scale.view(-1, 1, 1, 1) - steps).abs() < 1.0001).all()
    assert torch.equal(round_to(found[0], grid), found[0])


def test_adaptive_rounding_finds_what_trying_all_ways_finds_or_nearly() -> None:
    """Rounding to the nearest is best only where inputs are independent."""
    torch.manual_seed(3)
    layer = nn.Linear(8, 1, bias=False)
    grid = weight_grid(layer.weight, 3)
    inputs = torch.randn(64, 2) @ torch.randn(2, 8) + 0.1 * torch.randn(64, 8)
    targets = layer(inputs).detach()

    def error(weight: Tensor) -> float:
        return float((inputs @ weight.T - targets).square().mean())

    floor = (layer.weight / grid.scale).detach().floor()
    ways = itertools.product((0.0, 1.0), repeat=8)
    errors = sorted(
        error(grid.scale * (floor + torch.tensor(way)).clamp(grid.low, grid.high)) for way in ways
    )
    weight = round_adaptively(layer, grid, inputs=inputs, targets=targets, iterations=1000, rate=FAST_RATE)
    assert error(weight) < error(round_to(layer.weight.detach(), grid)) / 10
    assert error(weight) <= errors[len(errors) // 50]
