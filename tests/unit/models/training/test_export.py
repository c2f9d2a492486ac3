"""From torch to an 8-bit graph: the same network, in integers throughout."""

import collections
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to export")
pytest.importorskip("onnx", reason="the extra `train` (onnx) is needed to export")

import onnx
import onnxruntime as ort
import torch

from models.training.export import last_layers, normalise, quantise, take_frames, to_onnx

ROWS, COLUMNS = 16, 24


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Return a network with all that must be folded, fused or padded."""
    torch.manual_seed(2)
    first, second = torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
    for norm in (first, second):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), first, torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1), second, torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2, mode="nearest"),
        torch.nn.Conv2d(8, 1, 1),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (32, ROWS, COLUMNS, 3)).astype(np.uint8)


def run(
    model: onnx.ModelProto, frames: NDArray[np.uint8], optimised: Path | None = None
) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"frames": frames})[0])


def test_the_float_graph_is_the_network(network: torch.nn.Module, frames: NDArray[np.uint8]) -> None:
    graph = to_onnx(network, rows=ROWS, columns=COLUMNS)
    assert {node.op_type for node in graph.graph.node}.isdisjoint({"BatchNormalization"})
    with torch.no_grad():
        expected = network(torch.from_numpy(normalise(frames))).numpy()
    np.testing.assert_allclose(
        run(take_frames(graph, rows=ROWS, columns=COLUMNS), frames), expected, atol=1e-5
    )


def test_the_int8_graph_is_all_integers_but_its_last_layer_and_says_nearly_the_same(
    network: torch.nn.Module, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    """A quantised file that the runtime falls back to float for is smaller, not faster."""
    graph = to_onnx(network, rows=ROWS, columns=COLUMNS)
    int8 = quantise(graph, frames, tail=last_layers(graph))
    expected = run(take_frames(graph, rows=ROWS, columns=COLUMNS), frames)
    found = run(int8, frames, tmp_path / "optimised.onnx")
    assert np.abs(found - expected).mean() <= 0.02 * np.ptp(expected)
    assert len(np.unique(found)) > 256, "logits were rounded to 8 bits"
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["Conv"], kinds["QuantizeLinear"]) == (2, 1, 0)


def test_padding_is_exactly_a_level_of_the_input(network: torch.nn.Module, frames: NDArray[np.uint8]) -> None:
    """With a zero point a channel, or one that is not whole, borders would differ from the float graph."""
    graph = to_onnx(network, rows=ROWS, columns=COLUMNS)
    int8 = quantise(graph, frames, tail=last_layers(graph))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    transposed = int8.graph.node[0].output[0]
    taken = next(node for node in int8.graph.node if transposed in node.input)
    scale, zero_point = (constants[name] for name in taken.input[1:])
    assert (taken.op_type, scale.shape, zero_point.dtype, int(zero_point)) == (
        "DequantizeLinear",
        (),
        np.uint8,
        128,
    )
    assert scale * (128.0 - zero_point) == 0.0
