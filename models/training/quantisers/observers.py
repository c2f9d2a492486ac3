"""What is remembered of the values a quantiser saw, and the rules that choose its range from that.

A rule takes the statistics and the quantiser's own rounding and returns a lowest and a highest value a row.
Every rule is a function of the values alone: the same values in the same order give the same range.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.errors import ModelError


class QuantiserError(ModelError):
    """A quantiser was asked for what it cannot do, or before it saw any value."""


HALF_BINS = 4096
"""Bins of a histogram on each side of zero. The range seen fills at least half of one side, so that 8 bits
have 8 bins a level or more: fine enough for the error within a level to be seen."""

STEPS = 100
"""How finely a search tries ranges: every hundredth of the range seen."""

ROUNDING = 1e-12
"""What a share may lack: 1 - 0.999 is not 0.001."""

Rounding = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Values ``(C, n)``, lowest and highest ``(C,)`` -> the values on the grid of that range, ``(C, n)``."""


def to_rows(x: Tensor, axis: int | None) -> Tensor:
    """Return ``(C, n)``, a row for each index of `axis`, or one row of all."""
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)


class Statistics:
    """Running statistics of all values seen, one row a channel (C = 1 where `axis` is None).

    Of a whole tensor a histogram is kept; where its limit doubles, bins are joined two and two, which moves
    no value to a wrong bin. Of channels the values themselves are kept: those are weights, seen once.

    Attributes
    ----------
    lowest, highest, magnitude
        ``(C,)``: the least and the greatest value, and the mean of the absolute values; exact.
    """

    def __init__(self, axis: int | None) -> None:
        self.axis = axis
        self.number = 0

    def add(self, x: Tensor) -> None:
        """Take more values into account.

        Raises
        ------
        QuantiserError
            A value is not finite, or there is none.
        """
        rows = to_rows(x.detach(), self.axis)
        if rows.numel() == 0 or not bool(torch.isfinite(rows).all()):
            raise QuantiserError(
                f"quantiser: finite values were expected, shape {tuple(x.shape)} with others, or none, was "
                "found; look at the batch and the weights before it"
            )
        lowest, highest = rows.amin(1), rows.amax(1)
        total = rows.abs().sum(1, dtype=torch.float64)
        if self.number == 0:
            self.lowest, self.highest, self._total = lowest, highest, total
            self._limit, self._rows = 0.0, rows[:, :0]
            self._bins = torch.zeros(2 * HALF_BINS, dtype=torch.int64, device=x.device)
        else:
            self.lowest, self.highest = self.lowest.minimum(lowest), self.highest.maximum(highest)
            self._total = self._total + total
        self.number += rows.shape[1]
        self.magnitude = (self._total / self.number).to(rows.dtype)
        if self.axis is None:
            self._count(rows[0])
        else:
            self._rows = torch.cat([self._rows, rows], 1)

    def _count(self, row: Tensor) -> None:
        reach = float(row.abs().max())
        if max(self._limit, reach) < torch.finfo(row.dtype).tiny:
            self._bins[HALF_BINS] += len(row)  # zeros tell no limit
            return
        self._limit = self._limit or reach * (1 + 1 / HALF_BINS)
        while self._limit <= reach:
            self._limit *= 2
            joined = self._bins.view(-1, 2).sum(1)
            self._bins = torch.zeros_like(self._bins)
            self._bins[HALF_BINS // 2 : -HALF_BINS // 2] = joined
        places = (row / self.width).floor().clamp(-HALF_BINS, HALF_BINS - 1).long() + HALF_BINS
        self._bins += torch.bincount(places, minlength=2 * HALF_BINS)

    @property
    def width(self) -> float:
        """Of a bin; 0 where the values themselves are kept."""
        return self._limit / HALF_BINS if self.axis is None else 0.0

    @property
    def values(self) -> Tensor:
        """``(C, n)``, ascending: the values, or the middles of the bins."""
        if self.axis is not None:
            return self._rows.sort(1).values
        places = torch.arange(-HALF_BINS, HALF_BINS, dtype=self.lowest.dtype, device=self.lowest.device)
        return ((places + 0.5) * self.width)[None]

    @property
    def counts(self) -> Tensor:
        """``(C, n)``: how often each of `values` was seen."""
        return self._bins[None] if self.axis is None else torch.ones_like(self._rows)


RangeRule = Callable[[Statistics, Rounding], tuple[Tensor, Tensor]]


def min_max(seen: Statistics, _: Rounding) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value seen."""
    return seen.lowest, seen.highest


def percentile(seen: Statistics, _: Rounding, *, share: float = 0.999) -> tuple[Tensor, Tensor]:
    """Return the values that `share` of all lie above, and below; exact to a bin's width."""
    values, reached = seen.values, seen.counts.double().cumsum(1) / seen.number
    bounds = []
    for least, edge in ((1 - share, -0.5), (share, 0.5)):
        place = (reached < least - ROUNDING).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
        bound = values.gather(1, place)[:, 0] + edge * seen.width
        bounds.append(bound.clamp(seen.lowest, seen.highest))
    return bounds[0], bounds[1]


def least_squares(seen: Statistics, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """Return the shrunken range whose rounded values differ least from the values, squared; a row on its own.

    Of equal errors the widest range is taken.
    """
    values, counts = seen.values, seen.counts
    best, kept = torch.full_like(seen.lowest, torch.inf), torch.ones_like(seen.lowest)
    for step in range(STEPS, 0, -1):
        share = step / STEPS
        rounded = rounding(values, seen.lowest * share, seen.highest * share)
        error = ((rounded - values).square() * counts).sum(1)
        kept = torch.where(error < best, share, kept)
        best = torch.minimum(error, best)
    return seen.lowest * kept, seen.highest * kept


def entropy(seen: Statistics, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """Return the shrunken range with the least Kullback-Leibler divergence of the rounded from the seen.

    As of Migacz, "8-bit inference with TensorRT" (2017): what lies outside counts at the outermost bins of
    the reference, not of the candidate, which spreads each level over those of its bins that hold
    anything. Ranges with no more bins than levels say nothing and end the search.

    Raises
    ------
    QuantiserError
        The statistics are of channels: too few values for a distribution.
    """
    if seen.axis is not None:
        raise QuantiserError(
            "quantiser: entropy needs statistics of a whole tensor, those of channels were found; choose "
            "least_squares for weights"
        )
    values, counts = seen.values, seen.counts[0].double()
    counts[HALF_BINS] = counts[HALF_BINS + 1]
    best, kept = torch.inf, 1.0
    for step in range(STEPS, 0, -1):
        lowest, highest = (bound * (step / STEPS) for bound in (seen.lowest, seen.highest))
        half = seen.width / 2
        inside = ((values + half >= lowest) & (values - half <= highest))[0]
        held, own = rounding(values, lowest, highest)[0][inside], counts[inside]
        _, level = held.unique_consecutive(return_inverse=True)
        if len(level) <= int(level[-1]) + 1 and step < STEPS:
            break
        first = int(inside.nonzero()[0])
        reference = own.clone()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[first + len(own) :].sum()
        shown = reference > 0
        spread = torch.bincount(level, own) / torch.bincount(level, shown.double()).clamp(min=1)
        spread = spread.clamp(min=1)  # a level of nothing but what was clipped counts as one value
        p, q = reference[shown] / reference.sum(), spread[level][shown] / own.sum()
        divergence = float((p * (p / q).log()).sum())
        if divergence < best:
            best, kept = divergence, step / STEPS
    return seen.lowest * kept, seen.highest * kept
