"""PACT: activations clipped where training finds it best (Choi et al. 2018, arXiv 1805.06085).

``y = clip(x, 0, alpha)``, rounded to ``s = alpha / (2^b - 1)``. The gradient is exact but for the rounding,
taken as the identity, and the scale's share, dropped: of x it is 1 where 0 <= x < alpha, of alpha 1 where
x >= alpha. Tensors that calibration saw go below zero (linear bottlenecks, sums) keep their zero point Z:
alpha is the width of their range, whose ends are ``-Z s`` and ``alpha - Z s``, and both ends teach it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.training.quantisers.affine import (
    Packed,
    UniformConfig,
    UniformQuantiser,
    lend_gradient,
    round_to,
    straight_through,
)
from models.training.quantisers.observers import QuantiserError

LEAST_ALPHA = 1e-3
"""A clip stays above this, and the gradient still reaches what lies below it."""


class PactQuantiser(UniformQuantiser):
    """A clip that is learned from where calibration put it.

    Attributes
    ----------
    alpha
        ``()``, the width of the range: a parameter from `freeze` on.

    Raises
    ------
    QuantiserError
        The config is symmetric or has an axis: PACT is of activations.
    """

    def __init__(self, config: UniformConfig) -> None:
        if config.symmetric or config.axis is not None:
            raise QuantiserError(
                f"PACT: an affine config of a whole tensor was expected, {config} was found; take another "
                "quantiser for weights"
            )
        super().__init__(config)
        self.register_parameter("alpha", None)

    def quantise(self, x: Tensor) -> Tensor:
        """Return `x` clipped and on the grid, with PACT's gradients to `x` and to alpha."""
        grid = self.pack()
        alpha = lend_gradient(self.alpha.clamp(min=LEAST_ALPHA), self.alpha)
        lowest = -alpha * grid.zero_point / grid.high
        highest = alpha + lowest
        kept = torch.where(x < highest, torch.where(x >= lowest, x, lowest), highest)
        return straight_through(kept, round_to(kept, grid))

    def _take(self, grid: Packed) -> None:
        self.zero_point = grid.zero_point
        self.alpha = nn.Parameter(grid.scale * grid.high)

    def _present_scale(self) -> Tensor:
        return self.alpha.detach().clamp(min=LEAST_ALPHA) / self.config.high


def clips(model: nn.Module) -> list[nn.Parameter]:
    """Return the learned clips of all frozen PACT quantisers of a network."""
    modules = (module for module in model.modules() if isinstance(module, PactQuantiser))
    return [module.alpha for module in modules if module.alpha is not None]


def clip_group(model: nn.Module, *, rate: float) -> dict[str, Any]:
    """Return the clips as the optimiser's own group, without weight decay: `clip_penalty` decays them."""
    return {"params": clips(model), "lr": rate, "weight_decay": 0.0}


def clip_penalty(model: nn.Module, *, strength: float) -> Tensor:
    """Return ``strength * sum(alpha^2)``, to be added to the loss.

    The norm that Lavaei leaves open is the PACT paper's. That paper takes the weight decay as `strength`.
    """
    return strength * torch.stack([alpha.square() for alpha in clips(model)]).sum()
