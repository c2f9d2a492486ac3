"""Uniform quantisers, affine and symmetric, per tensor and per channel, of 2 to 8 bits.

``q(x) = (clip(round(x / s) + Z, low, high) - Z) * s``, rounding half to even as ONNX's QuantizeLinear does.
Datres et al., BioData Mining 16:33 (2023), print no clip and a Z that need be no integer; here the clip is
there, and Z is an integer of the grid, so that zero, and with it padding, is exact. Where its text calls
the affine scheme the better one for weights, weights here are symmetric, Z = 0, without the lowest integer.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.training.quantisers.observers import QuantiserError, RangeRule, Statistics, min_max

FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """The integers of a quantised tensor and what they stand for: ``(integer - zero_point) * scale``.

    Attributes
    ----------
    scale
        ``()``, or ``(C,)`` along `axis`; above 0.
    zero_point
        As `scale`, int32; the integer that stands for 0.
    low, high
        The least and the greatest integer.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None

    def along(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Return scale and zero point as they broadcast over a tensor of `ndim` axes."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.view(shape), self.zero_point.view(shape)


def round_to(x: Tensor, grid: Packed) -> Tensor:
    """Return `x` rounded to the grid, as real numbers."""
    scale, zero_point = grid.along(x.ndim)
    return (((x / scale).round() + zero_point).clamp(grid.low, grid.high) - zero_point) * scale


def clip_to(x: Tensor, grid: Packed) -> Tensor:
    """Return `x` clipped to the grid's range: gradient 1 inside it and at its ends, 0 outside."""
    scale, zero_point = grid.along(x.ndim)
    return x.clamp((grid.low - zero_point) * scale, (grid.high - zero_point) * scale)


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded` with the gradient of `x`."""
    return x + (rounded - x).detach()


def lend_gradient(value: Tensor, source: Tensor) -> Tensor:
    """Return `value` to the bit, with the gradient of `source`."""
    return value.detach() + (source - source.detach())


@runtime_checkable
class Quantiser(Protocol):
    """A module that stands for the quantisation of one tensor: it watches values, is frozen, then rounds.

    Attributes
    ----------
    observing
        Whether a call only watches and hands its input on.
    """

    observing: bool

    def observe(self, x: Tensor) -> None:
        """Take more values into account."""

    def freeze(self) -> None:
        """Choose the grid from what was observed, and forget that."""

    def quantise(self, x: Tensor) -> Tensor:
        """Return `x` on the grid, with the gradient that training is to see."""

    def pack(self) -> Packed:
        """Return the grid."""

    def end_of_epoch(self, number: int) -> None:
        """Be told that epoch `number`, from 0, of a training is over."""


@dataclass(frozen=True, slots=True)
class UniformConfig:
    """Which grid, and how its range is chosen.

    Attributes
    ----------
    symmetric
        Integers around 0 with zero point 0 (weights); else from 0 with a zero point (activations).
    axis
        The axis of the channels with a scale each; None: one scale.
    rule
        Chooses the range (`models.training.quantisers.observers`).
    is_gradient_clipped
        Whether the gradient is 0 outside the range (the hard threshold of Datres et al.), or 1 everywhere.
    """

    bits: int = 8
    symmetric: bool = False
    axis: int | None = None
    rule: RangeRule = min_max
    is_gradient_clipped: bool = True

    def __post_init__(self) -> None:
        if not FEWEST_BITS <= self.bits <= MOST_BITS:
            raise QuantiserError(
                f"quantiser: {FEWEST_BITS} to {MOST_BITS} bits were expected, {self.bits} found; change bits"
            )

    @property
    def high(self) -> int:
        """The greatest integer: 2^b - 1, or 2^(b - 1) - 1 where symmetric."""
        return int(2 ** (self.bits - self.symmetric) - 1)

    @property
    def low(self) -> int:
        """The least integer: 0, or 1 - 2^(b - 1) where symmetric."""
        return -self.high if self.symmetric else 0

    def place(self, lowest: Tensor, highest: Tensor, *, axis: int | None) -> Packed:
        """Return the grid that covers a range, widened to hold 0; both ``()`` or both ``(C,)`` along `axis`.

        A range of nothing but zeros gets scale 1.
        """
        lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
        if self.symmetric:
            highest = torch.maximum(-lowest, highest)
            lowest = -highest
        scale = (highest - lowest) / (self.high - self.low)
        scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, 1.0)
        zero_point = (self.low - lowest / scale).round().clamp(self.low, self.high)
        zero_point = torch.zeros_like(scale) if self.symmetric else zero_point
        return Packed(scale, zero_point.to(torch.int32), self.low, self.high, axis)


class UniformQuantiser(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A grid fixed once it is frozen; it belongs to the state. A `Quantiser`."""

    observing = False

    def __init__(self, config: UniformConfig) -> None:
        super().__init__()
        self.config = config
        self.seen = Statistics(config.axis)
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` quantised or, while observing, as it is."""
        if self.observing:
            self.observe(x)
            return x
        return self.quantise(x)

    def observe(self, x: Tensor) -> None:
        """Take more values into account."""
        self.seen.add(x)

    def freeze(self) -> None:
        """Choose scale and zero point from what was observed, and forget that.

        Raises
        ------
        QuantiserError
            Nothing was observed.
        """
        if self.seen.number == 0:
            raise QuantiserError(
                "quantiser: values to choose a range from were expected, none were observed; set observing "
                "and run calibration batches first"
            )
        config = self.config
        with torch.no_grad():
            bounds = config.rule(self.seen, lambda x, low, high: round_to(x, config.place(low, high, axis=0)))
            if config.axis is None:
                bounds = bounds[0][0], bounds[1][0]
            grid = config.place(*bounds, axis=config.axis)
            self._take(grid)
        self.seen = Statistics(config.axis)

    def _take(self, grid: Packed) -> None:
        self.scale, self.zero_point = grid.scale, grid.zero_point

    def quantise(self, x: Tensor) -> Tensor:
        """Return `x` on the grid, straight through: bit for bit where the gradient is clipped.

        Without the clip, values outside the range may come a rounding error beside the grid.
        """
        grid = self.pack()
        kept = clip_to(x, grid) if self.config.is_gradient_clipped else x
        return straight_through(kept, round_to(kept, grid))

    def pack(self) -> Packed:
        """Return the grid.

        Raises
        ------
        QuantiserError
            It is not chosen yet.
        """
        if self.zero_point is None:
            raise QuantiserError("quantiser: a frozen one was expected, this one is not; call freeze first")
        config = self.config
        return Packed(self._present_scale(), self.zero_point, config.low, config.high, config.axis)

    def end_of_epoch(self, number: int) -> None:
        """Learn nothing from it."""

    def _present_scale(self) -> Tensor:
        return self.scale
