"""Better than rounding what is there: three repairs of a trained network that need no labels.

Each takes the modules and values it works on, and knows nothing of the network they are of. Batch norm is
folded before any of them.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.training.quantisers.affine import Packed

GAMMA, ZETA = -0.1, 1.1
"""How far the sigmoid is stretched, so that it reaches 0 and 1 (AdaRound, Nagel et al. 2020, eq. 23)."""

RATE, BATCH, PUSH = 1e-3, 32, 0.01
"""Adam's learning rate, examples a step, and the weight of the push to 0 or 1 (BRECQ's code for AdaRound)."""

FAST_RATE = 1e-2
"""For some 1,000 iterations. A product of 64 by 32, 4 bits, 256 inputs, two seeds: error 0.0277 and 0.0260
rounded to the nearest; 0.0128 and 0.0125 after 1,000 iterations at 1e-3, 0.0080 and 0.0074 after 10,000;
0.0079 and 0.0075 after 1,000 at 1e-2."""

STEEPEST, FLATTEST = 20.0, 2.0
"""The exponent of that push, falling linearly (BRECQ's code for AdaRound)."""


def correct_bias(layer: nn.Module, inputs: Tensor, *, targets: Tensor) -> None:
    """Shift the bias so that each output channel keeps its mean (Nagel et al. 2019, section 4.2, empirical).

    ``b <- b - E[Wq x - W x]``.

    Parameters
    ----------
    layer
        Computes with its quantised weight; has a bias.
    inputs
        ``(N, ...)``, cached: what the layer takes.
    targets
        ``(N, C, ...)``: what the float layer gave, before any activation function.
    """
    with torch.no_grad():
        gap = targets - layer(inputs)
        layer.bias += gap.transpose(0, 1).flatten(1).mean(1)


class ChannelClip(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """``min(max(x, 0), limit)`` with a limit for each channel, axis 1: ReLU6 once channels are rescaled."""

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, rows, columns)`` clipped."""
        return torch.minimum(x.relu(), self.limit.view(1, -1, 1, 1))


def equalise(first: nn.Conv2d, second: nn.Conv2d, *, clip: ChannelClip | None = None) -> Tensor:
    """Rescale, in place, the channels between two convolutions so that both weights have equal ranges.

    ``s_i = sqrt(max|W1[i]| / max|W2[:, i]|)``; W1 and its bias are divided by it, W2 multiplied (Nagel et al.
    2019, section 4.1). With a ReLU between the two, or nothing, the function stays as it is; so it does
    with a `clip`, whose limits are divided. A channel that either weight leaves out keeps its scale.

    Parameters
    ----------
    first
        Its output goes to `second` alone.
    second
        May be grouped or depthwise.

    Returns
    -------
    Tensor
        ``(C,)``, the scales.
    """
    with torch.no_grad():
        groups, weight = second.groups, second.weight
        grouped = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
        r1, r2 = first.weight.abs().amax((1, 2, 3)), grouped.abs().amax((1, 3, 4)).flatten()
        scales = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), 1.0)
        first.weight /= scales.view(-1, 1, 1, 1)
        if first.bias is not None:
            first.bias /= scales
        grouped *= scales.view(groups, 1, -1, 1, 1)
        if clip is not None:
            clip.limit /= scales
    return scales


def round_adaptively(
    layer: nn.Module,
    grid: Packed,
    *,
    inputs: Tensor,
    targets: Tensor,
    iterations: int = 20_000,
    rate: float = RATE,
    batch: int = BATCH,
    seed: int = 0,
) -> Tensor:
    """Return the layer's weight rounded up or down as its output asks for, not each to the nearest.

    AdaRound (Nagel et al. 2020): ``W = s clip(floor(W / s) + h(V), low, high)`` with
    ``h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)`` starting at the fraction of W / s, learned on
    ``||out - target||^2 + 0.01 sum(1 - |2 h - 1|^beta)``.

    Parameters
    ----------
    layer
        A convolution or product that computes with its float `weight` as it is; unchanged.
    grid
        Of the weight; symmetric.
    inputs, targets
        ``(N, ...)``: what the layer is to take, and to give before any activation function.
    rate
        Adam's; `FAST_RATE` where iterations are few.
    batch
        Examples a step.
    """
    generator = torch.Generator().manual_seed(seed)
    scale, _ = grid.along(layer.weight.ndim)
    with torch.no_grad():
        floor = (layer.weight / scale).floor()
        fraction = layer.weight / scale - floor
        start = -((ZETA - GAMMA) / (fraction - GAMMA) - 1).log()
    v = start.requires_grad_()
    optimiser = torch.optim.Adam([v], lr=rate)
    for number in range(iterations):
        chosen = torch.randint(len(inputs), (min(batch, len(inputs)),), generator=generator)
        h = (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        weight = scale * (floor + h).clamp(grid.low, grid.high)
        outputs = functional_call(layer, {"weight": weight}, (inputs[chosen],))
        beta = STEEPEST + (FLATTEST - STEEPEST) * number / iterations
        push = (1 - (2 * h - 1).abs().pow(beta)).sum()
        loss = (outputs - targets[chosen]).square().sum(1).mean() + PUSH * push
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return scale * (floor + (v.detach() >= 0)).clamp(grid.low, grid.high)
