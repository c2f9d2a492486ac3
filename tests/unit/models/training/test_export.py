"""From torch to an 8-bit graph: the same network, in integers throughout."""

import collections
import functools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to export")
pytest.importorskip("onnx", reason="the extra `train` (onnx) is needed to export")

import onnx
import onnxruntime as ort
import torch

from models.training.export import export_twin, last_layers, normalise, quantise, take_frames, to_onnx
from models.training.kernels import Kernels
from models.training.mobilenet_v2 import MobileNetV2
from models.training.quantisers.affine import UniformConfig
from models.training.quantisers.lsq import LsqQuantiser
from models.training.quantisers.pact import PactQuantiser
from models.training.twin import TwinError, build_twin, calibrate, layer_names, weight_quantiser
from tests.quantised_networks import (
    SIDE,
    as_batch,
    make_activation,
    make_frames,
    make_twin,
    make_weight,
    residual_network,
)

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


OUTPUTS = ("logits", "cam", "embedding")
MAKERS = (make_weight, make_activation)


def optimised_kinds(model: onnx.ModelProto, folder: Path) -> collections.Counter[str]:
    """Return how many nodes of each kind the runtime makes of a graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_a_twin_runs_in_integer_kernels_throughout_and_in_the_layout_they_take(tmp_path: Path) -> None:
    """The stem, a bottleneck of three and a shortcut a stage; one transposition for the three channels."""
    graph = export_twin(make_twin(residual_network()), rows=SIDE, columns=SIDE)
    assert optimised_kinds(graph, tmp_path) == {
        "Transpose": 1, "QLinearConv": 1 + 4 * 4, "NhwcMaxPool": 1, "QLinearAdd": 4,
        "QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1,
    }  # fmt: skip


def test_the_edge_network_is_in_integers_up_to_its_head(tmp_path: Path) -> None:
    twin = make_twin(MobileNetV2().eval(), keep_float=["head"])
    graph = export_twin(twin, rows=SIDE, columns=SIDE, outputs=OUTPUTS)
    kinds = optimised_kinds(graph, tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QuantizeLinear"]) == (52, 10, 0)
    assert kinds["Conv"] == 1
    assert kinds.keys().isdisjoint({"Pad", "Clip", "FusedConv"})
    assert [each.name for each in graph.graph.output] == list(OUTPUTS)


def test_what_is_kept_in_float_is_all_that_is_in_float(tmp_path: Path) -> None:
    """Left to itself the runtime rounds a float weight that stands between integers, and tells nobody."""
    twin = make_twin(residual_network(), keep_float=["conv1", "fc"])
    kinds = optimised_kinds(export_twin(twin, rows=SIDE, columns=SIDE), tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (16, 4)
    assert kinds["Conv"] == kinds["Gemm"] == kinds["QuantizeLinear"] == 1


def test_a_twin_with_all_in_float_gives_the_float_graph() -> None:
    network, frames = residual_network(), make_frames(3)
    twin = make_twin(network, keep_float=layer_names(network))
    with torch.no_grad():
        expected = network(as_batch(frames)).numpy()
    found = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_file_holds_the_quantisers_integers_and_no_float_copy_of_them() -> None:
    twin = make_twin(residual_network())
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in export_twin(twin, rows=SIDE, columns=SIDE).graph.initializer
    }
    for name in layer_names(twin):
        layer, node = twin.get_submodule(name), name.replace(".", "_")
        integers, scales = constants[f"{node}_weight"], constants[f"{node}_scales"]
        assert (integers.dtype, constants[f"{node}_bias"].dtype) == (np.int8, np.int32)
        np.testing.assert_array_equal(scales, weight_quantiser(layer).pack().scale.numpy())
        real = integers * scales.reshape(-1, *[1] * (integers.ndim - 1))
        np.testing.assert_allclose(real, layer.weight.detach().numpy(), atol=1e-6)
    assert not any(value.dtype == np.float32 and value.ndim > 1 for value in constants.values())


def test_learned_grids_are_exported_as_learned() -> None:
    twin = build_twin(
        residual_network(),
        weight=lambda: LsqQuantiser(UniformConfig(symmetric=True, axis=0)),
        activation=lambda: PactQuantiser(UniformConfig()),
        keep_float=[],
    )
    calibrate(twin, [as_batch(make_frames(4))])
    with torch.no_grad():
        twin.activations.act.alpha *= 0.5
    graph, frames = export_twin(twin, rows=SIDE, columns=SIDE), make_frames(5)
    scale = next(each for each in graph.graph.initializer if each.name == "activations_act_scale")
    assert float(onnx.numpy_helper.to_array(scale)) == pytest.approx(twin.activations.act.alpha.item() / 255)
    found = run(graph, frames)
    with torch.no_grad():
        expected = twin(as_batch(frames)).numpy()
    assert np.abs(found - expected).max() <= 0.1 * np.ptp(expected)


@pytest.mark.parametrize("bits", [(4, 8), (8, 4), (4, 4), (2, 3)])
def test_fewer_bits_run_in_the_same_kernels_to_the_bit(bits: tuple[int, int]) -> None:
    """Their integers end earlier: nothing is faster, but what they cost is what the runtime says."""
    weight, activation = (functools.partial(make, b) for make, b in zip(MAKERS, bits, strict=True))
    twin = build_twin(residual_network(), weight=weight, activation=activation, keep_float=[])
    calibrate(twin, [as_batch(make_frames(4))])
    frames = make_frames(6)
    found = run(export_twin(twin, rows=SIDE, columns=SIDE), frames)
    np.testing.assert_array_equal(Kernels(twin).run(as_batch(frames)).numpy(), found)


def test_grids_that_no_kernel_takes_are_refused() -> None:
    twin = make_twin(residual_network())
    twin.get_submodule("activations.act").config = UniformConfig(symmetric=True)
    with pytest.raises(TwinError, match=r"^activations.act: integers from 0 to 255"):
        export_twin(twin, rows=SIDE, columns=SIDE)


def test_what_cannot_be_written_is_named() -> None:
    twin = make_twin(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Softplus()).eval())
    with pytest.raises(TwinError, match=r"_1: .* Softplus"):
        export_twin(twin, rows=SIDE, columns=SIDE)
