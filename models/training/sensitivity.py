"""Which layers bear rounding least: each is quantised alone, and the worst stay in float.

Datres et al. 2023 keep the first convolution and the classifier in float, chosen by hand
(`models.training.twin.paper_choice`); measure both choices with `read` and `damage`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.twin import layer_names

Make = Callable[[Collection[str]], nn.Module]
"""Makes a calibrated twin that keeps the named layers in float."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What rounding did to the logits.

    Attributes
    ----------
    sqnr_db
        Signal to quantisation noise, decibels; infinite where nothing changed.
    divergence
        Kullback-Leibler divergence of the class probabilities from those of the float network, the mean over
        views, nats.
    """

    sqnr_db: float
    divergence: float


def read(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """Return the ``(N, classes)`` logits of all batches, each as the network takes them."""
    network.eval()
    with torch.no_grad():
        given = [network(batch) for batch in batches]
    return torch.cat([each[0] if isinstance(each, tuple) else each for each in given])


def damage(found: Tensor, expected: Tensor) -> Damage:
    """Compare ``(N, classes)`` logits with those of the float network."""
    found, expected = found.double(), expected.double()
    noise = (found - expected).square().sum()
    log_found, log_expected = functional.log_softmax(found, 1), functional.log_softmax(expected, 1)
    divergence = (log_expected.exp() * (log_expected - log_found)).sum(1).mean()
    return Damage(float(10 * torch.log10(expected.square().sum() / noise)), float(divergence))


def rank_layers(
    model: nn.Module, make: Make, *, batches: Sequence[Tensor], keep_float: Collection[str] = ()
) -> dict[str, Damage]:
    """Return what quantising each layer alone does, the greatest divergence first.

    Parameters
    ----------
    batches
        ``(N, 3, rows, columns)`` each; never test frames.
    keep_float
        Layers that stay in float whatever they bear.
    """
    names, expected = layer_names(model), read(model, batches)
    alone = {
        name: damage(read(make(set(names) - {name}), batches), expected)
        for name in names
        if name not in keep_float
    }
    return dict(sorted(alone.items(), key=lambda found: -found[1].divergence))


def choose_float(
    model: nn.Module,
    make: Make,
    *,
    batches: Sequence[Tensor],
    ranking: Mapping[str, Damage],
    budget: float,
) -> tuple[list[str], Damage]:
    """Return the layers to keep in float, and what rounding all others then does.

    The worst of `ranking` are kept, one more each time, until the divergence is at most `budget` nats; layers
    that are not ranked are kept from the start.
    """
    expected = read(model, batches)
    kept = [name for name in layer_names(model) if name not in ranking]
    for name in ranking:
        done = damage(read(make(kept), batches), expected)
        if done.divergence <= budget:
            return kept, done
        kept.append(name)
    return kept, damage(expected, expected)
