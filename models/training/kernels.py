"""A twin in the arithmetic of ONNX Runtime's integer kernels on x86-64, to the bit.

A twin in float is right to a rounding error, and its biases are no integers; rounding makes much of
either. Of two sums next to each other one may round up and one down, and fifty layers later the logits
differ by about as much as quantisation itself costs, in float32 and in float64 (docs/models.md tells how
it grows). Here biases are the runtime's integers, sums are exact and the one multiplication before each
rounding is the kernel's own, so that what the integers give, of 8 bits or fewer, can be known in torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from models.training.ptq import ChannelClip
from models.training.quantisers.affine import Packed, Quantiser
from models.training.twin import (
    ADDITIONS,
    INPUT_SCALE,
    INPUT_ZERO_POINT,
    RECTIFIERS,
    SIX,
    is_quantised,
    module_of,
    moves,
    weight_quantiser,
)

LARGEST_BIAS = 2**30
"""Half of what an int32 holds, so that the sum that a bias joins has room."""

EXACT = 2**24
"""Up to here float32 holds every integer."""


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """Integers less their zero point, of any float dtype that holds them, and what they are worth."""

    values: Tensor
    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Unrounded:
    """A result before it is rounded: as it is, and as the kernel has it on a grid, zero at 0."""

    real: Callable[[], Tensor]
    on: Callable[[Packed], Tensor]


def integer_layer(layer: nn.Module, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight's integers, ``(C,)`` scales, and the bias's integers at ``step * scale``.

    A channel whose weights are next to nothing beside its bias gets a wider scale than the quantiser's, with
    which its bias fits an int32; its weights then are nothing.

    Parameters
    ----------
    step
        Scale of what the layer takes.
    """
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    scale = torch.maximum(weight_quantiser(layer).pack().scale.detach(), bias.abs() / (step * LARGEST_BIAS))
    return (weight / along_channels(scale, weight.ndim, 0)).round(), scale, (bias / (step * scale)).round()


def ends(grid: Packed, rectifier: nn.Module | None) -> tuple[int, Tensor]:
    """Return the least and the greatest integer that a tensor reaches after a rectifier or none.

    The greatest is ``()`` or, after a clip by channel, ``(C, 1, 1)``.
    """
    zero, high = int(grid.zero_point), torch.tensor(grid.high)
    match rectifier:
        case nn.ReLU6() | ChannelClip():
            limit = (
                rectifier.limit[:, None, None] if isinstance(rectifier, ChannelClip) else torch.tensor(SIX)
            )
            return zero, high.minimum(zero + (limit / grid.scale).round().int())
        case nn.ReLU():
            return zero, high
    return grid.low, high


def along_channels(values: Tensor, ndim: int, axis: int) -> Tensor:
    """Return ``(C,)`` as it broadcasts over `ndim` axes."""
    return values.view([-1 if place == axis else 1 for place in range(ndim)])


class Kernels(fx.Interpreter):  # type: ignore[misc]  # torch is untyped here
    """Runs a calibrated twin: ``Kernels(twin).run(batch)``, the batch as the twin takes it."""

    def run(self, *batch: Tensor) -> Any:
        """Return what the twin returns."""
        with torch.no_grad():
            return super().run(*batch)

    def placeholder(self, target: str, args: Any, kwargs: Any) -> Integers:
        """Return a batch's levels."""
        values = (super().placeholder(target, args, kwargs) / INPUT_SCALE).round()
        return Integers(values, torch.tensor(INPUT_SCALE), torch.tensor(INPUT_ZERO_POINT))

    def run_node(self, node: fx.Node) -> Any:
        """Return a node's result: integers, unrounded, or in float as torch computes it."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = module_of(self.module, node)
        match module, args:
            case Quantiser(), (taken,):
                return _rounded(taken, module.pack(), module_of(self.module, node.args[0]))
            case nn.Conv2d() | nn.Linear(), (Integers() as taken,) if is_quantised(module):
                return _sums(module, taken)
            case nn.AdaptiveAvgPool2d(), (Integers() as taken,):
                return _mean(taken)
            case _, (Unrounded() as taken,) if isinstance(module, RECTIFIERS):
                return replace(taken, real=lambda: module(taken.real()))
            case None, (Integers() as one, Integers() as other) if node.target in ADDITIONS:
                return _added(one, other)
        result = getattr(self, node.op)(node.target, tuple(map(_real, args)), kwargs)
        if moves(self.module, node) and isinstance(args[0], Integers):
            result = replace(args[0], values=(result / args[0].scale).round())
        return result


def _rounded(taken: Unrounded | Tensor, grid: Packed, before: nn.Module | None) -> Integers:
    values = taken.on(grid) if isinstance(taken, Unrounded) else taken / grid.scale
    low, high = (end - int(grid.zero_point) for end in ends(grid, before))
    return Integers(values.round().clamp(min=low).minimum(high), grid.scale, grid.zero_point)


def _real(value: Any) -> Any:
    if isinstance(value, Integers):
        return value.values * value.scale
    return value.real() if isinstance(value, Unrounded) else value


def _sums(layer: nn.Module, taken: Integers) -> Unrounded:
    """Return a layer's sums: as int32 holds them, then rounded to float32."""
    weight, scale, bias = integer_layer(layer, taken.scale)
    values = taken.values
    if (255 * weight.abs().flatten(1).sum(1) + bias.abs()).max() > EXACT:
        weight, bias, values = weight.double(), bias.double(), values.double()
    if isinstance(layer, nn.Linear):
        sums = functional.linear(values, weight, bias).float()
    else:
        shape = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        sums = functional.conv2d(values, weight, bias, **shape).float()
    step = along_channels(taken.scale * scale, sums.ndim, 1)
    return Unrounded(lambda: sums * step, lambda grid: sums * (step / grid.scale))


def _mean(taken: Integers) -> Unrounded:
    count = taken.values.shape[2] * taken.values.shape[3]
    sums = taken.values.sum((2, 3), keepdim=True)
    real = sums * (taken.scale / count)
    return Unrounded(lambda: real, lambda grid: sums * (taken.scale / (grid.scale * count)))


def _added(one: Integers, other: Integers) -> Unrounded:
    """Return a sum as MLAS's AVX2 kernel has it: fused multiplications and additions, in this order."""

    def on(grid: Packed) -> Tensor:
        first, second = one.scale / grid.scale, other.scale / grid.scale
        zero = grid.zero_point - _fused(one.zero_point, first, second * other.zero_point)
        total = _fused(other.values + other.zero_point, second, zero)
        return _fused(one.values + one.zero_point, first, total).round() - grid.zero_point

    return Unrounded(lambda: _real(one) + _real(other), on)


def _fused(integers: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """Return ``integers * factor + addend`` in float32, rounded once."""
    return (integers.double() * factor.double() + addend.double()).float()
