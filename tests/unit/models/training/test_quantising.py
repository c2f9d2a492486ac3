"""Settings become twins: every repair and training reached by its word does to a network what it says."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to quantise")
pytest.importorskip("onnx", reason="the extra `train` (onnx) is needed to export")

import torch
from torch import nn

from models.dataset import LabelledFrame
from models.errors import ModelError
from models.training.export import export_twin
from models.training.mobilenet_v2 import Block
from models.training.network import Network
from models.training.ptq import BATCH, FAST_RATE, round_adaptively
from models.training.qat import split
from models.training.quantisers.affine import Quantiser
from models.training.quantising import Quantising, quantise, read_int8, read_twin, spare
from models.training.quantize import join_reports, to_int8
from models.training.repair import PLACES, channel_means, equalise_all
from models.training.run import Frames
from models.training.sensitivity import read
from models.training.twin import fold, layer_names, paper_choice, weight_quantiser
from tests.quantised_networks import SIDE, as_batch, make_frames

FRAMES = make_frames(16)
LABELS = np.arange(16) % 2
FEW = Quantising(weight_bits=4, activation_bits=4, frames=16, iterations=100)


@pytest.fixture(scope="module")
def network() -> Network:
    """Return inverted residuals with a skip, a stride and a batch norm."""
    torch.manual_seed(2)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    network: Network = Network(nn.Sequential(stem, Block(8, 8, 4, 1), Block(8, 12, 4, 2)), 12, 2)
    with torch.no_grad():
        network.head.weight *= 20
    network.eval()
    return network


def test_equalised_networks_compute_what_they_did(network: Network) -> None:
    """Also where a ReLU6 is between: its end moves with the channel."""
    before, after = fold(network), fold(network)
    with torch.no_grad():
        for each in (before, after):
            each.get_submodule("trunk.1.layers.0").bias += 6  # so that ReLU6 does end something
    equalise_all(after)
    changed = [
        name
        for name in layer_names(before)
        if not torch.allclose(before.get_submodule(name).weight, after.get_submodule(name).weight)
    ]
    assert changed == [f"trunk.{stage}.layers.{at}" for stage, at in
                       ((1, 0), (1, 2), (1, 4), (2, 0), (2, 3), (2, 5))]  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(before(as_batch(FRAMES)).cam, after(as_batch(FRAMES)).cam)


def test_corrected_biases_give_every_channel_of_every_layer_its_mean(network: Network) -> None:
    twin = quantise(network, FRAMES, LABELS, replace(FEW, corrects_bias=True))
    names = layer_names(network)[:-1]  # the head stays in float
    expected = channel_means(fold(network), [as_batch(FRAMES)], names)
    found = channel_means(twin, [as_batch(FRAMES)], names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-3)


def test_adaptive_rounding_stays_on_the_grid_and_comes_nearer(network: Network) -> None:
    expected, errors = read(network, [as_batch(FRAMES)]), {}
    for rounding in ("nearest", "adaptive"):
        how = replace(FEW, weight_bits=3, activation_bits=8, rounding=rounding)
        twin = quantise(network, FRAMES, LABELS, how)
        errors[rounding] = float((read(twin, [as_batch(FRAMES)]) - expected).square().sum())
    assert errors["adaptive"] < 0.5 * errors["nearest"]
    layer = twin.get_submodule("trunk.1.layers.0")
    ratio = layer.weight / weight_quantiser(layer).pack().along(4)[0]
    torch.testing.assert_close(ratio, ratio.round(), atol=1e-4, rtol=0)


def test_adaptive_rounding_makes_up_for_the_layers_before(network: Network) -> None:
    """A layer's target is what it gives in the float network (AdaRound, eq. 25), not on its rounded input."""
    how = replace(FEW, weight_bits=3, activation_bits=8, rounding="adaptive", iterations=5)
    nearest = quantise(network, FRAMES, LABELS, replace(how, rounding="nearest"))
    twin, exact, second = quantise(network, FRAMES, LABELS, how), fold(network), "trunk.1.layers.0"
    taken, made = [], []
    twin.get_submodule(second).register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    exact.get_submodule(second).register_forward_hook(lambda _, __, output: made.append(output))
    with torch.no_grad():
        twin(as_batch(FRAMES))
        exact(as_batch(FRAMES))
    batch = min(BATCH, max(1, PLACES // made[0][0, 0].numel()))
    expected = round_adaptively(
        exact.get_submodule(second), weight_quantiser(nearest.get_submodule(second)).pack(),
        inputs=taken[0], targets=made[0], iterations=5, rate=FAST_RATE, batch=batch,
    )  # fmt: skip
    assert torch.equal(twin.get_submodule(second).weight, expected)
    assert not torch.equal(twin.get_submodule(second).weight, nearest.get_submodule(second).weight)


def test_layers_stay_in_float_until_the_budget_is_met(network: Network) -> None:
    names = layer_names(network)
    chosen, rows = spare(network, FRAMES, replace(FEW, budget=0.5))
    found = {choice: (layers.split(), divergence) for choice, layers, _, divergence in rows}
    assert found["integers"][0] == ["head"]
    assert found["paper"][0] == paper_choice(network)
    assert found["sensitive"][0] == list(chosen.keep_float)
    assert 1 < len(chosen.keep_float) < len(names)
    assert found["sensitive"][1] <= found["integers"][1] / 2
    twin = quantise(network, FRAMES, LABELS, replace(FEW, budget=0.0))
    torch.testing.assert_close(read(twin, [as_batch(FRAMES)]), read(network, [as_batch(FRAMES)]))


def test_what_stays_in_float_is_reported_beside_the_papers_choice(network: Network, tmp_path: Path) -> None:
    rows = tuple(LabelledFrame("p", "ibd", f"{at}.jpg", "g", "") for at in range(16))
    frames = Frames(rows, FRAMES, LABELS, np.zeros(16, np.int64), "digest")
    names = ["one", "other"]
    (tmp_path / "models").mkdir()
    for name in names:
        report = tmp_path / "models" / f"{name}.sensitivity.csv"
        to_int8(network, frames, LABELS == 0, replace(FEW, budget=0.5), seed=0, report=report)
    join_reports(tmp_path, names)
    with (tmp_path / "sensitivity.csv").open(newline="") as lines:
        found = list(csv.DictReader(lines))
    choices = ["integers", "paper", "sensitive"]
    assert [(row["network"], row["choice"]) for row in found] == [(n, c) for n in names for c in choices]
    assert found[1]["layers"].split() == paper_choice(network)
    assert float(found[2]["divergence"]) < float(found[0]["divergence"])


@pytest.mark.parametrize("method", ["qat", "pact", "lsq"])
def test_training_from_a_stage_leaves_those_before_as_they_were(network: Network, method: str) -> None:
    how = replace(FEW, method=method, rate=1e-3, learnt_rate=1e-3, epochs=1)
    still, trained = (
        quantise(network, FRAMES, LABELS, each)
        for each in (replace(how, epochs=0), replace(how, trained_from=2))
    )
    before = dict(still.state_dict())
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("trunk.2", "head", "bias", "activations.trunk_2")) for name in changed)
    assert any("parametrizations.weight.original" in name for name in changed)
    assert any("activations" in name for name in changed) == (method != "qat")


def test_a_stem_and_the_rest_are_the_whole(network: Network) -> None:
    twin = quantise(network, FRAMES, LABELS, FEW)
    stem, rest = split(twin, 2)
    with torch.no_grad():
        expected = twin(as_batch(FRAMES)).logits
        torch.testing.assert_close(rest(stem(as_batch(FRAMES))).logits, expected, rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"trunk\.7: a stage"):
        split(twin, 7)


def test_a_twin_is_read_as_the_runtime_reads_it(network: Network) -> None:
    """In float it would not: see `models.training.kernels`."""
    twin = quantise(network, FRAMES, LABELS, FEW)
    found = read_int8(
        export_twin(twin, rows=SIDE, columns=SIDE, outputs=("logits", "cam", "embedding")), FRAMES
    )
    np.testing.assert_allclose(read_twin(twin, FRAMES), found["logits"], atol=1e-5)


def test_learnt_steps_start_where_least_squares_puts_them(network: Network) -> None:
    start = quantise(network, FRAMES, LABELS, replace(FEW, method="lsq", epochs=0))
    squares = quantise(network, FRAMES, LABELS, replace(FEW, rule="least_squares"))
    for one, other in zip(start.modules(), squares.modules(), strict=True):
        if isinstance(one, Quantiser):
            torch.testing.assert_close(one.pack().scale, other.pack().scale)


def test_unknown_words_are_named() -> None:
    with pytest.raises(ModelError, match=r"rounding: one of nearest, adaptive was expected, 'up' was found"):
        Quantising(rounding="up")
