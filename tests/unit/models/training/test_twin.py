"""The twin rounds what integer kernels round, nothing else, and can be trained so."""

import functools

import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")

import torch
from torch import nn

from models.training.mobilenet_v2 import MobileNetV2
from models.training.quantisers.affine import UniformConfig
from models.training.quantisers.pact import PactQuantiser, clips
from models.training.twin import (
    TwinError,
    build_twin,
    calibrate,
    layer_names,
    paper_choice,
    weight_quantiser,
)
from tests.quantised_networks import (
    as_batch,
    make_activation,
    make_frames,
    make_twin,
    make_weight,
    residual_network,
)


def rounded(twin: nn.Module) -> list[str]:
    return [name for name, _ in twin.activations.named_children()]


def test_a_twin_with_every_layer_in_float_is_the_network_with_its_batch_norm_folded() -> None:
    network = residual_network()
    twin = make_twin(network, keep_float=layer_names(network))
    batch = as_batch(make_frames(2))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
    assert not rounded(twin)
    with torch.no_grad():
        torch.testing.assert_close(twin(batch), network(batch), atol=1e-5, rtol=1e-5)


def test_what_is_rounded_is_what_a_convolution_or_an_addition_gives_after_its_relu() -> None:
    """The pool after the stem, and the logits, stay as they come; each stage's first block has a shortcut."""
    twin = make_twin(residual_network())
    block = ["act", "act_1", "conv3", "downsample_0", "act_2"]
    stages = [f"layer{stage}_0_{each}" for stage in range(1, 5) for each in block]
    assert sorted(rounded(twin)) == sorted(["act", *stages, "avgpool"])


def test_what_a_float_classifier_reads_is_not_rounded_again() -> None:
    assert "avgpool" not in rounded(make_twin(residual_network(), keep_float=["fc"]))


def test_a_float_layer_amid_others_is_rounded_once_for_those_that_take_it() -> None:
    """Its sum with a shortcut is then in float as well: there is nothing to add in integers."""
    twin = make_twin(residual_network(), keep_float=["layer2.0.conv3"])
    assert "layer2_0_conv3" not in rounded(twin)
    assert "layer2_0_act_2" in rounded(twin)


def test_every_rounded_tensor_lies_on_its_grid_and_zero_is_on_it() -> None:
    twin = make_twin(MobileNetV2(), keep_float=["head"])
    seen = {}
    for name, quantiser in twin.activations.named_children():
        quantiser.register_forward_hook(lambda _, __, result, name=name: seen.update({name: result}))
    with torch.no_grad():
        twin(as_batch(make_frames(2)))
    assert len(seen) == len(rounded(twin)) == 62
    for name, result in seen.items():
        grid = getattr(twin.activations, name).pack()
        levels = result / grid.scale + grid.zero_point
        assert float((levels - levels.round()).abs().max()) < 1e-2
        assert levels.round().min() >= 0
        assert levels.round().max() <= 255
        assert len(levels.round().unique()) <= 256


def test_the_network_itself_stays_as_it_was() -> None:
    network = residual_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    make_twin(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_calibration_freezes_what_training_then_leaves_alone() -> None:
    """The paper's order; torch's own recipe lets the observers run on."""
    twin = make_twin(residual_network()).train()
    grids = [quantiser.scale.clone() for quantiser in twin.activations.children()]
    frames, targets = as_batch(make_frames(4)), torch.tensor([0, 1, 0, 1])
    optimiser = torch.optim.Adam(twin.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(twin(frames), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    for before, quantiser in zip(grids, twin.activations.children(), strict=True):
        assert torch.equal(before, quantiser.scale)


def test_what_a_quantiser_learns_is_reached_by_name() -> None:
    """Learned clips need a learning rate and a decay of their own."""
    activation = functools.partial(PactQuantiser, UniformConfig(4))
    twin = build_twin(residual_network(), weight=make_weight, activation=activation, keep_float=["conv1"])
    calibrate(twin, [as_batch(make_frames(4))])
    twin(as_batch(make_frames(4))).sum().backward()
    learned = dict(twin.named_parameters())
    alphas = {name for name in learned if name.endswith(".alpha")}
    assert alphas == {f"activations.{name}.alpha" for name in rounded(twin)}
    assert len(clips(twin)) == len(alphas)
    assert learned["layer1.0.conv1.parametrizations.weight.original"].grad.abs().sum() > 0


def test_weights_are_rounded_per_output_channel_and_read_so() -> None:
    twin = make_twin(residual_network())
    layer = twin.get_submodule("layer3.0.conv2")
    original = layer.parametrizations.weight.original.detach()
    scale = original.abs().amax((1, 2, 3), keepdim=True) / 127
    torch.testing.assert_close(weight_quantiser(layer).pack().scale, scale.flatten())
    torch.testing.assert_close(layer.weight.detach(), (original / scale).round() * scale)


def test_the_papers_choice_is_the_first_convolution_and_the_classifier() -> None:
    assert paper_choice(residual_network()) == ["conv1", "fc"]


@pytest.mark.parametrize(
    ("network", "kept", "message"),
    [
        (residual_network(), ["conv9"], "conv9"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), [], "1: a convolution"),
    ],
)
def test_what_no_twin_can_be_made_of_is_refused(network: nn.Module, kept: list[str], message: str) -> None:
    with pytest.raises(TwinError, match=message):
        build_twin(network, weight=make_weight, activation=make_activation, keep_float=kept)
