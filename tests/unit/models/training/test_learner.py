"""The last stages learn from what the first have said, and come back into the whole network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.training.augment import augment
from models.training.fit import Epoch
from models.training.learner import Settings, join, margins, normalise, rate, read_frozen, train
from models.training.network import Network

SMALL = Settings(frozen=1, variants=3, epochs=6, batch=8, rate=1e-2, head_rate=5e-2, dropout=0.1)


@pytest.fixture
def network() -> Network:
    """Return a network of two stages."""
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.ReLU()),
    ]
    network = Network(nn.Sequential(*stages), 8, 2)
    network.eval()
    return network


@pytest.fixture
def views() -> np.ndarray:
    """Return 40 frames, every second redder than it is green."""
    frames = np.random.default_rng(0).integers(40, 120, (40, 48, 48, 3), dtype=np.uint8)
    frames[::2, ..., 0] += 90
    return frames


LABELS = np.arange(40) % 2


def test_what_is_learnt_is_what_the_whole_network_says(network: Network, views: np.ndarray) -> None:
    features = read_frozen(network, views, SMALL)
    assert features.shape[:2] == (3, 40)
    tail = train(network, features, LABELS, SMALL, epochs=6, seed=0)
    said = margins(tail, features[0])
    assert ((said > 0) == (LABELS == 1)).all()
    with torch.no_grad():
        read = join(network, tail, SMALL)(normalise(views))
    whole = (read.logits[:, 1] - read.logits[:, 0]).numpy()
    assert np.abs(whole - said).max() < 0.05  # the frozen stages' words are kept in half precision
    assert not any(torch.equal(a, b) for a, b in zip(tail.parameters(), network.parameters(), strict=False))


def test_resumed_training_gives_the_same_weights(network: Network, views: np.ndarray, tmp_path: Path) -> None:
    features = read_frozen(network, views, SMALL)
    whole = train(network, features, LABELS, SMALL, epochs=4, seed=3)
    train(network, features, LABELS, SMALL, epochs=2, seed=3, checkpoint=tmp_path / "half.pt")
    resumed = train(network, features, LABELS, SMALL, epochs=4, seed=3, checkpoint=tmp_path / "half.pt")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_lasso_makes_weights_small(network: Network, views: np.ndarray) -> None:
    features = read_frozen(network, views, SMALL)
    losses: list[Epoch] = []

    def size(l1: float) -> float:
        settings = replace(SMALL, l1=l1)
        tail = train(
            network, features, LABELS, settings, epochs=6, seed=0, watch=lambda _, epoch: losses.append(epoch)
        )
        return sum(float(weight.detach().abs().sum()) for weight in tail.trunk.parameters())

    assert size(0.01) < 0.8 * size(0.0)
    assert len(losses) == 12


def test_the_rate_falls_as_the_paper_says_or_as_a_cosine() -> None:
    paper = Settings(steps=20)
    assert [rate(epoch, paper) for epoch in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])
    cosine = Settings(epochs=10)
    assert [rate(epoch, cosine) for epoch in (0, 5)] == pytest.approx([1, 0.5])


def test_an_augmented_view_is_the_view_in_another_position_and_light() -> None:
    view = np.zeros((32, 32, 3), np.uint8)
    view[:4, 8:20] = (200, 100, 80)
    generator = np.random.default_rng(0)
    found = [augment(view, generator) for _ in range(60)]
    assert all(each.shape == view.shape and (each.max(axis=2) > 0).sum() == 48 for each in found)
    positions = {(each.max(axis=2) > 0).tobytes() for each in found}
    assert len(positions) == 8
    lights = [each.max(axis=(0, 1)) for each in found]
    assert np.ptp(lights, axis=0).min() > 30
