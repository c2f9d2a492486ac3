"""Learned clips and steps: gradients as the papers' equations give them, one number at a time."""

import itertools
import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to quantise")

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.training.quantisers.affine import UniformConfig, UniformQuantiser, round_to
from models.training.quantisers.lsq import LEAST_STEP, LsqQuantiser, step_group, step_through
from models.training.quantisers.observers import QuantiserError, least_squares
from models.training.quantisers.pact import LEAST_ALPHA, PactQuantiser, clip_group, clip_penalty

NUMBER = 100_000
BITS = range(2, 9)
SHIFT = 1e-6


def draw(number: int = NUMBER, seed: int = 0) -> Tensor:
    return torch.randn(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pact(bits: int, seen: Tensor) -> PactQuantiser:
    quantiser = PactQuantiser(UniformConfig(bits))
    quantiser.observe(seen)
    quantiser.freeze()
    return quantiser


def lsq(config: UniformConfig, seen: Tensor) -> LsqQuantiser:
    quantiser = LsqQuantiser(config)
    quantiser.observe(seen)
    quantiser.freeze()
    return quantiser


def slope(function: Callable[[float], float], at: float) -> float:
    return (function(at + SHIFT) - function(at - SHIFT)) / (2 * SHIFT)


@pytest.mark.parametrize("bits", BITS)
def test_pact_rounds_and_teaches_as_its_equations_say(bits: int) -> None:
    """``clip(x, 0, a)`` in steps of a / (2^b - 1); to x 1[0 <= x < a], to a the sum of 1[x >= a]."""
    x, weights = draw(), draw(seed=1)
    x[:2] = torch.tensor([0.0, 1.5])
    quantiser = pact(bits, torch.tensor([0.0, 1.5], dtype=torch.float64))
    a, top = quantiser.alpha.item(), 2**bits - 1
    assert a == 1.5
    y = quantiser.quantise(x.requires_grad_())
    assert y.tolist() == [round(min(max(v, 0), a) / (a / top)) * (a / top) for v in x.tolist()]
    y.backward(weights)
    pairs = list(zip(x.tolist(), weights.tolist(), strict=True))
    assert x.grad.tolist() == [g if 0 <= v < a else 0 for v, g in pairs]
    assert float(quantiser.alpha.grad) == pytest.approx(math.fsum(g for v, g in pairs if v >= a))


def test_pact_of_a_tensor_below_zero_teaches_the_width_at_both_ends() -> None:
    """Linear bottlenecks and sums have no ReLU: clipped at zero they would lose half of what they say.

    Finite differences are of the clip with what rounding adds held constant.
    """
    quantiser = pact(4, torch.tensor([-1.0, 2.0], dtype=torch.float64))
    grid, a = quantiser.pack(), quantiser.alpha.item()
    z, top = int(grid.zero_point), 15
    assert (z, a) == (5, 3.0)
    weights, generator = draw(200, 1).tolist(), draw(200, 2) * 2
    values = [v for v in generator.tolist() if min(abs(v + a * z / top), abs(v - a * (top - z) / top)) > 1e-3]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    y = quantiser.quantise(x)
    assert torch.equal(y, round_to(x, grid))
    y.backward(torch.tensor(weights[: len(values)], dtype=torch.float64))

    def clipped(v: float, width: float) -> float:
        return min(max(v, -width * z / top), width * (top - z) / top)

    residuals = [q - clipped(v, a) for q, v in zip(y.tolist(), values, strict=True)]

    def total(width: float) -> float:
        parts = zip(values, residuals, weights, strict=False)
        return math.fsum(g * (clipped(v, width) + r) for v, r, g in parts)

    assert float(quantiser.alpha.grad) == pytest.approx(slope(total, a), abs=1e-6)
    slopes = [g * slope(lambda u: clipped(u, a), v) for v, g in zip(values, weights, strict=False)]
    assert x.grad.tolist() == pytest.approx(slopes, abs=1e-6)


def test_a_clip_stays_above_its_least_and_can_come_back() -> None:
    """At zero it would divide by zero; without a gradient there it would stay."""
    quantiser = pact(4, torch.tensor([0.0, 1.0]))
    quantiser.alpha.data.fill_(-0.5)
    y = quantiser.quantise(torch.tensor([0.0, 3.0]))
    assert y.tolist() == pytest.approx([0, LEAST_ALPHA])
    y.sum().backward()
    assert float(quantiser.alpha.grad) == 1
    assert float(quantiser.pack().scale) == pytest.approx(LEAST_ALPHA / 15)


def test_clips_are_a_group_of_their_own_that_no_weight_decay_reaches() -> None:
    """Decayed by the optimiser and by the penalty, a clip would shrink twice; the norm is squared."""
    network = nn.Sequential(nn.Linear(2, 2), pact(4, torch.ones(3)), pact(4, torch.ones(3) * 2))
    group = clip_group(network, rate=0.1)
    assert [alpha.item() for alpha in group["params"]] == [1, 2]
    assert group["weight_decay"] == 0
    penalty = clip_penalty(network, strength=0.5)
    penalty.backward()
    assert penalty.item() == 0.5 * (1 + 4)
    assert [float(alpha.grad) for alpha in group["params"]] == [1, 2]


def test_pact_is_of_activations() -> None:
    for config in (UniformConfig(symmetric=True), UniformConfig(axis=0)):
        with pytest.raises(QuantiserError, match="take another quantiser for weights"):
            PactQuantiser(config)


@pytest.mark.parametrize(("bits", "symmetric"), list(itertools.product(BITS, (False, True))))
def test_lsq_rounds_and_teaches_as_its_equations_say(bits: int, *, symmetric: bool) -> None:
    """``round(v / s) - v / s`` inside, -Qn below, Qp above, times 1 / sqrt(N Qp); to v 1 inside, else 0."""
    x, weights = draw(), draw(seed=1)
    x = x if symmetric else x.abs()
    quantiser = lsq(UniformConfig(bits, symmetric=symmetric), x)
    qp = 2 ** (bits - symmetric) - 1
    qn = qp if symmetric else 0
    s = 2 * math.fsum(map(abs, x.tolist())) / NUMBER / math.sqrt(qp)
    assert quantiser.step.item() == pytest.approx(s, rel=1e-12)
    quantiser.step.data /= bits  # so that something lies outside
    s = quantiser.step.item()
    x = x.view(10, -1).requires_grad_()
    y = quantiser.quantise(x)
    y.backward(weights.view(10, -1))
    pairs = list(zip(x.flatten().tolist(), weights.tolist(), strict=True))
    assert y.flatten().tolist() == [min(max(round(v / s), -qn), qp) * s for v, _ in pairs]
    inside = [-qn <= v / s <= qp for v, _ in pairs]
    passed = torch.tensor(inside).view(10, -1) * weights.view(10, -1)
    assert torch.allclose(x.grad, passed, rtol=1e-12, atol=0)
    terms = [
        g * (round(v / s) - v / s if kept else math.copysign(qp, v))
        for (v, g), kept in zip(pairs, inside, strict=True)
    ]
    shared = NUMBER if symmetric else NUMBER // 10
    assert 0 < sum(inside) < NUMBER
    assert float(quantiser.step.grad) == pytest.approx(math.fsum(terms) / math.sqrt(shared * qp))


@pytest.mark.parametrize("symmetric", [False, True])
def test_lsq_has_a_step_for_each_channel_and_keeps_a_zero_point(*, symmetric: bool) -> None:
    """Finite differences are of the steps with what rounding adds held constant, away from the ends."""
    x = draw(60).view(3, 20) * torch.tensor([[0.1], [1.0], [4.0]])
    quantiser = lsq(UniformConfig(3, symmetric=symmetric, axis=0), x)
    grid = quantiser.pack()
    y = quantiser.quantise(x)
    assert torch.equal(y, round_to(x, grid))
    y.sum().backward()
    rows = zip(
        x.tolist(), grid.scale.tolist(), grid.zero_point.tolist(), quantiser.step.grad.tolist(), strict=True
    )
    for row, s, z, found in rows:
        qn, qp = z - grid.low, grid.high - z
        residuals = [round(r) - r for r in (min(max(v / s, -qn), qp) for v in row)]
        above, below = (
            math.fsum((min(max(v / step, -qn), qp) + r) * step for v, r in zip(row, residuals, strict=True))
            for step in (s + SHIFT, s - SHIFT)
        )
        factor = 1 / math.sqrt(20 * max(qn, qp))
        assert found == pytest.approx((above - below) / (2 * SHIFT) * factor, abs=1e-5)


def test_steps_and_clips_can_be_differentiated_twice() -> None:
    """Training on saliency takes the gradient of a gradient; of a step, with the rounding held constant."""
    x = draw(12).requires_grad_()
    clip = pact(3, torch.tensor([-0.5, 1.0], dtype=torch.float64))
    alpha = clip.alpha.detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, a: functional_call(clip, {"alpha": a}, x), (x, alpha))

    steps = lsq(UniformConfig(3, symmetric=True), x.detach() / 2)
    assert torch.autograd.gradgradcheck(steps.quantise, x)
    step, bounds = steps.step.detach().requires_grad_(), (torch.tensor(-3.0), torch.tensor(3.0))
    ratio = (x / step).detach().clamp(*bounds)

    def smooth(x: Tensor, step: Tensor) -> Tensor:
        return step_through(x, step, bounds=bounds, residual=ratio.round() - ratio)

    assert torch.autograd.gradcheck(smooth, (x, step))
    assert torch.autograd.gradgradcheck(smooth, (x, step))
    rounded = step_through(x, step, bounds=bounds)
    assert torch.equal(rounded, smooth(x, step))
    for kept, taken in zip(
        *(torch.autograd.grad(y.square().sum(), (x, step)) for y in (rounded, smooth(x, step))), strict=True
    ):
        assert torch.equal(kept, taken)


def test_a_gradient_of_a_gradient_reaches_weights_through_quantised_layers() -> None:
    torch.manual_seed(0)
    layer, other, x = nn.Linear(4, 8), nn.Linear(8, 1), torch.randn(5, 4, requires_grad=True)
    weights = lsq(UniformConfig(4, symmetric=True, axis=0), layer.weight)
    clip = pact(4, torch.tensor([0.0, 1.0]))
    hidden = clip(nn.functional.linear(x, weights(layer.weight), layer.bias))
    (saliency,) = torch.autograd.grad(other(hidden.square()).sum(), x, create_graph=True)
    saliency.abs().sum().backward()
    for parameter in (layer.weight, weights.step, other.weight):
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


def test_what_is_learned_is_kept_with_the_weights_and_lies_in_a_group_of_its_own() -> None:
    one = lsq(UniformConfig(4, symmetric=True, axis=0), torch.randn(3, 50))
    other = lsq(UniformConfig(4, symmetric=True, axis=0), torch.ones(3, 2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.pack().scale, other.pack().scale)
    group = step_group(nn.Sequential(one, nn.Linear(2, 2)), rate=1e-4)
    assert [each is one.step for each in group["params"]] == [True]
    assert group["weight_decay"] == 0


def test_a_step_may_start_at_the_range_that_a_rule_chose() -> None:
    """At 4 bits the paper's start costs more than a short training wins back."""
    config, x = UniformConfig(4, symmetric=True, axis=0, rule=least_squares), draw(400).view(4, 100)
    quantisers = UniformQuantiser(config), LsqQuantiser(config, starts_at_range=True)
    for quantiser in quantisers:
        quantiser.observe(x)
        quantiser.freeze()
    assert torch.equal(*(quantiser.quantise(x) for quantiser in quantisers))


def test_a_dead_channel_has_a_step_that_divides() -> None:
    quantiser = lsq(UniformConfig(4, symmetric=True, axis=0), torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    assert float(quantiser.pack().scale[0]) == 1
    quantiser.step.data.fill_(-1.0)
    assert (quantiser.pack().scale == LEAST_STEP).all()
    assert (quantiser.quantise(torch.ones(2, 2)) == 7 * LEAST_STEP).all()
