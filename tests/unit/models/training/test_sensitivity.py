"""Which layers stay in float is measured: the one that rounding hurts most comes first."""

import math
from collections.abc import Collection

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")

import torch
from torch import nn

from models.training.sensitivity import choose_float, damage, rank_layers, read
from models.training.twin import build_twin, calibrate, layer_names, paper_choice
from tests.quantised_networks import as_batch, make_activation, make_frames, make_weight, residual_network

BATCHES = [as_batch(make_frames(6)), as_batch(make_frames(5))]
BAD = "layer2.0.conv2"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Return a network with one layer that few levels do not fit: each channel has one weight far off."""
    network = residual_network()
    with torch.no_grad():
        network.get_submodule(BAD).weight[:, 0, 0, 0] += 3
    return network


def make(network: nn.Module, keep_float: Collection[str]) -> nn.Module:
    twin = build_twin(
        network, weight=lambda: make_weight(5), activation=make_activation, keep_float=keep_float
    )
    calibrate(twin, BATCHES)
    return twin


def test_damage_is_signal_over_noise_and_the_divergence_of_the_classes() -> None:
    found, expected = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.1, 1.8], [0.4, -1.0]])
    noise = sum((a - b) ** 2 for a, b in zip(found.flat, expected.flat, strict=True))
    total = 0.0
    for row, other in zip(expected, found, strict=True):
        p, q = (np.exp(each) / np.exp(each).sum() for each in (row, other))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    done = damage(torch.from_numpy(found), torch.from_numpy(expected))
    assert done.sqnr_db == pytest.approx(10 * math.log10((expected**2).sum() / noise))
    assert done.divergence == pytest.approx(total / 2)


def test_nothing_changed_is_no_damage() -> None:
    logits = torch.randn(3, 2)
    assert damage(logits, logits) == type(damage(logits, logits))(math.inf, 0.0)


def test_the_layer_that_rounding_hurts_most_is_found(network: nn.Module) -> None:
    ranking = rank_layers(network, lambda kept: make(network, kept), batches=BATCHES, keep_float=["fc"])
    assert next(iter(ranking)) == BAD
    assert set(ranking) == set(layer_names(network)) - {"fc"}
    divergences = [each.divergence for each in ranking.values()]
    assert divergences == sorted(divergences, reverse=True)


def test_the_worst_stay_in_float_until_the_budget_is_met(network: nn.Module) -> None:
    """Beside it the paper's choice, of as many layers, which does not know this network."""
    ranking = rank_layers(network, lambda kept: make(network, kept), batches=BATCHES)
    expected = read(network, BATCHES)
    whole = damage(read(make(network, []), BATCHES), expected)
    kept, done = choose_float(
        network,
        lambda kept: make(network, kept),
        batches=BATCHES,
        ranking=ranking,
        budget=whole.divergence / 3,
    )
    assert kept == list(ranking)[: len(kept)]
    assert 0 < len(kept) < len(ranking)
    assert done.divergence <= whole.divergence / 3
    manual = damage(read(make(network, paper_choice(network)), BATCHES), expected)
    assert done.divergence < manual.divergence


def test_a_budget_of_nothing_keeps_all_in_float_and_a_wide_one_nothing(network: nn.Module) -> None:
    names = layer_names(network)
    ranking = dict.fromkeys(names[1:], damage(torch.ones(1, 2), torch.zeros(1, 2)))

    def makes(kept: Collection[str]) -> nn.Module:
        return make(network, kept)

    kept, done = choose_float(network, makes, batches=BATCHES, ranking=ranking, budget=0.0)
    assert sorted(kept) == sorted(names)
    assert done.divergence == 0
    kept, _ = choose_float(network, makes, batches=BATCHES, ranking=ranking, budget=math.inf)
    assert kept == names[:1]
