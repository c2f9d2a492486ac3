"""ONNX Runtime computes what the twin says: to the bit, where the twin reads in the kernels' arithmetic."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to train")
pytest.importorskip("onnx", reason="the extra `train` (onnx) is needed to export")

import onnx
import onnxruntime as ort
import torch
from torch import nn

from models.training.backbones import resnet50
from models.training.export import export_twin
from models.training.kernels import Kernels
from models.training.mobilenet_v2 import MobileNetV2
from tests.quantised_networks import SIDE, as_batch, make_frames, make_twin, residual_network

pytestmark = pytest.mark.skipif(
    "vnni" not in Path("/proc/cpuinfo").read_text(), reason="without VNNI the runtime's sums saturate"
)

OUTPUTS = ("logits", "cam", "embedding")


def run(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, {"frames": frames})]


def lively_resnet50() -> nn.Module:
    """Return ResNet50 with random weights and batch norms that know its activations."""
    torch.manual_seed(0)
    network = resnet50(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(as_batch(make_frames(8)))
    return network.eval()


@pytest.mark.parametrize("make", [residual_network, lively_resnet50])
def test_a_residual_network_gives_the_very_logits(make: Callable[[], nn.Module]) -> None:
    """Not nearly: a last bit that rounds the other way grows to what quantisation costs, layer by layer."""
    twin, frames = make_twin(make()), make_frames(6)
    (found,) = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    np.testing.assert_array_equal(Kernels(twin).run(as_batch(frames)).numpy(), found)


def test_a_twin_in_float_and_the_integers_are_both_near_the_network() -> None:
    network = residual_network()
    twin, frames = make_twin(network), make_frames(32)
    (found,) = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    with torch.no_grad():
        beside, floating = twin(as_batch(frames)).numpy(), network(as_batch(frames)).numpy()
    for each in (found, beside):
        assert np.abs(each - floating).mean() <= 0.05 * np.ptp(floating)


def test_the_edge_network_gives_the_very_maps_and_embeddings() -> None:
    """Their means and the head are in float, where the order of a sum is the runtime's own."""
    torch.manual_seed(1)
    twin, frames = make_twin(MobileNetV2().eval(), keep_float=["head"]), make_frames(6)
    found = run(export_twin(twin, rows=SIDE, columns=SIDE, outputs=OUTPUTS), frames)
    for expected, each in zip(Kernels(twin).run(as_batch(frames)), found, strict=True):
        np.testing.assert_allclose(expected.numpy(), each, rtol=1e-5, atol=1e-6)


class Padded(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A tensor that goes below zero, padded on one side by itself and on all by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), nn.Conv2d(4, 16, 3, 2, padding=1))
        self.last = nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a map as large as the second convolution's."""
        return self.last(self.second(self.first(x)))


def integers(values: torch.Tensor, scale: torch.Tensor) -> NDArray[np.int64]:
    shape = (-1, *[1] * (values.ndim - 1))
    return np.asarray((values.detach() / scale.view(shape)).round().long().numpy())


def test_padding_is_exactly_zero_at_every_border() -> None:
    """An independent reckoning in plain integers, border by border, of a zero point that is not 0."""
    torch.manual_seed(5)
    twin, frames = make_twin(Padded().eval(), keep_float=["last"]), make_frames(2, rows=7, columns=8)
    first, second = twin.get_submodule("first"), twin.get_submodule("second.1")
    (found,) = run(export_twin(twin, rows=7, columns=8), frames)
    grids = [quantiser.pack() for quantiser in twin.activations.children()]
    assert 0 < int(grids[0].zero_point) < 255
    levels, step = frames.astype(np.int64).transpose(0, 3, 1, 2) - 128, np.float32(1 / 128)
    for layer, grid, pads, stride in (
        (first, grids[0], ((0, 0), (0, 0)), 1),
        (second, grids[1], ((3, 2), (1, 2)), 2),
    ):
        scale = layer.parametrizations.weight[0].pack().scale
        weight, steps = integers(layer.weight, scale), step * scale.numpy()
        bias = np.rint(layer.bias.detach().numpy() / steps).astype(np.int64)
        padded = np.pad(levels, ((0, 0), (0, 0), *pads))
        size = weight.shape[2]
        rows, columns = ((extent - size) // stride + 1 for extent in padded.shape[2:])
        sums = np.empty((len(frames), len(weight), rows, columns), np.int64)
        for row in range(rows):
            for column in range(columns):
                top, left = stride * row, stride * column
                window = padded[:, None, :, top : top + size, left : left + size]
                sums[:, :, row, column] = (window * weight[None]).sum((2, 3, 4)) + bias
        zero, step_out = int(grid.zero_point), grid.scale.numpy()
        shares = (steps / step_out)[:, None, None]
        levels = np.clip(np.rint(sums.astype(np.float32) * shares), -zero, 255 - zero).astype(np.int64)
        step = step_out
    last = twin.get_submodule("last")
    expected = nn.functional.conv2d(torch.from_numpy(levels * step).float(), last.weight, last.bias)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_learned_range_beyond_six_ends_at_six_all_the_same() -> None:
    """ReLU6 is no node of its own: where the range ends elsewhere, integers are clipped."""
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 16, 1))
    with torch.no_grad():
        network[0].weight *= 20
    twin, frames = make_twin(network.eval()), make_frames(2)
    twin.get_submodule("activations._1").scale *= 1.5
    kernels = Kernels(twin)
    (found,) = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    expected = kernels.run(as_batch(frames)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(twin(as_batch(frames)).numpy(), expected, rtol=1e-4, atol=2e-2)


def test_a_channel_of_nothing_but_its_bias_keeps_it() -> None:
    """At the scale of weights of 1e-20 the bias would be no int32; published networks have such channels."""
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    with torch.no_grad():
        network[0].weight[3] = 1e-20
        network[0].bias[3] = 0.7
    twin, frames = make_twin(network.eval()), make_frames(2)
    (found,) = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    with torch.no_grad():
        np.testing.assert_allclose(twin(as_batch(frames)).numpy(), found, atol=0.02)
