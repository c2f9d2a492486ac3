"""Batch norm for networks that were published without: put in to train with, folded away when that is done.

A convolution into which its batch norm was folded no longer holds its signal at one size while the weights
move: MobileNetV2 so trains unsteadily, and only at a third of the rate.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class AddedNorm(nn.BatchNorm2d):  # type: ignore[misc]  # torch is untyped here
    """A batch norm that the network was not published with."""


def add_norms(stages: nn.Sequential, features: Tensor) -> nn.Sequential:
    """Return the stages, in evaluation, with a norm behind every convolution of a chain that has a bias.

    Each begins by changing nothing: its statistics, and as scale and shift the same, are those of what its
    convolution makes of `features`, ``(N, channels, h, w)``.
    """
    normed = copy.deepcopy(stages).eval()
    for chain in _chains(normed):
        for place in reversed(range(len(chain))):
            if isinstance(chain[place], nn.Conv2d) and chain[place].bias is not None:
                chain.insert(place + 1, AddedNorm(chain[place].out_channels).eval())
    norms = [module for module in normed.modules() if isinstance(module, AddedNorm)]
    hooks = [norm.register_forward_pre_hook(_settle) for norm in norms]
    if norms:
        with torch.no_grad():
            normed(features)
    for hook in hooks:
        hook.remove()
    return normed


def settle_norms(stages: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give the norms that were added the statistics of these ``(N, channels, h, w)``; they end in evaluation.

    Those of training are of windows, which hold more of a map's rim than a whole frame does, and of weights
    that the mean of all steps is not.
    """
    norms = [module for module in stages.modules() if isinstance(module, AddedNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts alike
        norm.train()
    with torch.no_grad():
        for batch in batches if norms else ():
            stages(batch)
    for norm in norms:
        norm.eval()


def fold_norms(stages: nn.Sequential) -> nn.Sequential:
    """Return the stages without the norms that were added, to the same effect as these have in evaluation."""
    folded = copy.deepcopy(stages).eval()
    for chain in _chains(folded):
        for place in reversed(range(len(chain))):
            if isinstance(chain[place], AddedNorm):
                chain[place - 1] = fuse_conv_bn_eval(chain[place - 1], chain[place])
                del chain[place]
    return folded


def _chains(stages: nn.Module) -> list[nn.Sequential]:
    return [module for module in stages.modules() if isinstance(module, nn.Sequential)]


def _settle(norm: AddedNorm, given: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(given[0], dim=(0, 2, 3), correction=0)  # as a batch's own
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean)
