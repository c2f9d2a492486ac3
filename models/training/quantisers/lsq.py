"""LSQ: the step between levels is learned (Esser et al., ICLR 2020, arXiv 1902.08153).

``v^ = clip(round(v / s), -Qn, Qp) s``. Of s the gradient is ``round(v / s) - v / s`` inside the range, -Qn
below and Qp above it, times ``1 / sqrt(N Qp)``; of v it is 1 inside and 0 outside. A zero point Z that
calibration found stays as it is: Qn = Z - low, Qp = high - Z.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.training.quantisers.affine import (
    Packed,
    UniformConfig,
    UniformQuantiser,
    lend_gradient,
    straight_through,
)

LEAST_STEP = 1e-8
"""A step stays above this: it divides, and may not change its sign."""


def step_through(
    x: Tensor, step: Tensor, *, bounds: tuple[Tensor, Tensor], residual: Tensor | None = None
) -> Tensor:
    """Return `x` as whole steps within `bounds`, with LSQ's gradients to `x` and to `step`.

    Parameters
    ----------
    bounds
        ``(-Qn, Qp)``, as they broadcast over `x`.
    residual
        What rounding adds to the clipped ``x / step``, if that is to be held constant: then this is the
        smooth function whose derivatives, the second too, are those of the rounded one.
    """
    ratio = (x / step).clamp(*bounds)
    return (straight_through(ratio, ratio.round()) if residual is None else ratio + residual) * step


class LsqQuantiser(UniformQuantiser):
    """A grid whose step is learned from where calibration puts it.

    Parameters
    ----------
    starts_at_range
        Start at the scale of the range that the config's rule chose, `least_squares` above all (LSQ+, Bhalgat
        et al. 2020), not at the paper's ``2 mean|v| / sqrt(Qp)``. A small network of four convolutions, 40
        steps of Adam, steps at 1e-4, 3 seeds: loss 0.007 to 0.010 in place of 0.026 to 0.174 at 4 bits.

    Attributes
    ----------
    step
        ``()``, or ``(C,)`` along the config's axis: a parameter from `freeze` on.
    """

    def __init__(self, config: UniformConfig, *, starts_at_range: bool = False) -> None:
        super().__init__(config)
        self.starts_at_range = starts_at_range
        self.register_parameter("step", None)

    def quantise(self, x: Tensor) -> Tensor:
        """Return `x` on the grid.

        N is the number of weights that share a step or, of activations, the values of one example.
        """
        grid = self.pack()
        shared = x.numel() // self.step.numel() if self.config.symmetric else x[0].numel()
        damped = self.step * (shared * _reach(grid)).rsqrt()
        step = Packed(lend_gradient(grid.scale, damped), grid.zero_point, grid.low, grid.high, grid.axis)
        scale, zero_point = step.along(x.ndim)
        bounds = (grid.low - zero_point).to(x.dtype), (grid.high - zero_point).to(x.dtype)
        return step_through(x, scale, bounds=bounds)

    def _take(self, grid: Packed) -> None:
        magnitude = self.seen.magnitude.view(grid.scale.shape)
        start = 2 * magnitude / _reach(grid).sqrt()
        self.zero_point = grid.zero_point
        taken = self.starts_at_range | (magnitude <= LEAST_STEP)  # a dead channel has scale 1
        self.step = nn.Parameter(torch.where(taken, grid.scale, start))

    def _present_scale(self) -> Tensor:
        return self.step.detach().clamp(min=LEAST_STEP)


def _reach(grid: Packed) -> Tensor:
    """Return Qp or, where a zero point lies above the middle, Qn."""
    return torch.maximum(grid.high - grid.zero_point, grid.zero_point - grid.low).to(grid.scale.dtype)


def step_group(model: nn.Module, *, rate: float) -> dict[str, Any]:
    """Return the learned steps as the optimiser's own group, without weight decay.

    Adam undoes LSQ's factor on the gradient, so that `rate` is all that keeps a step of 0.01 from leaping.
    """
    modules = (module for module in model.modules() if isinstance(module, LsqQuantiser))
    steps = [module.step for module in modules if module.step is not None]
    return {"params": steps, "lr": rate, "weight_decay": 0.0}
