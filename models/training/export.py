"""From a trained torch network to an ONNX graph that ONNX Runtime executes in 8-bit integers.

The graph takes frames as they are, uint8 ``(N, rows, columns, 3)`` RGB: normalisation is the scale and zero
point of the first quantised tensor. One integer zero point serves all channels, so that a padding of zeros is
exactly a pixel. Batch normalisation is folded; activations are affine U8, weights symmetric S8 per output
channel; the layers named as the tail stay in float, so that logits are not rounded.
"""

import io
import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import fx, nn

from models.training.qdq import Writer
from models.training.twin import INPUT_SCALE, INPUT_ZERO_POINT
from pipeline.frame import Pixels

SCALE, ZERO_POINT = INPUT_SCALE, INPUT_ZERO_POINT
"""A network here is trained on (pixel - 128) / 128."""

OPSET = 17
"""The newest of the exporter that needs no further package; ONNX Runtime's integer kernels ask for 13."""

IR_VERSION = 8
"""The one that came with `OPSET`."""

CALIBRATION_BATCH = 8


def normalise(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bring uint8 ``(N, rows, columns, 3)`` to what the float graph takes, ``(N, 3, rows, columns)``."""
    return ((frames.astype(np.float32) - ZERO_POINT) * SCALE).transpose(0, 3, 1, 2)


def to_onnx(model: nn.Module, *, rows: int, columns: int) -> onnx.ModelProto:
    """Return the float graph, batch norm folded: ``input`` as `normalise` gives it, ``logits`` out."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's newer exporter needs two more packages
        torch.onnx.export(
            model.float().eval(),
            (torch.zeros(1, 3, rows, columns),),
            written,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(written.getvalue())


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    def __init__(self, frames: Pixels) -> None:
        parts = np.array_split(frames, max(1, len(frames) // CALIBRATION_BATCH))
        self._inputs = ({"input": normalise(part)} for part in parts)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._inputs, None)


def quantise(graph: onnx.ModelProto, frames: Pixels, *, tail: Collection[str]) -> onnx.ModelProto:
    """Return the 8-bit twin of a float graph; it takes uint8 ``(N, rows, columns, 3)`` as ``frames``.

    Parameters
    ----------
    frames
        ``(N, rows, columns, 3)`` uint8: the activations on them set the ranges (min-max). Never test frames.
    tail
        Names of the nodes that stay in float.
    """
    rows, columns = frames.shape[1:3]
    taken = {"scale": np.array(SCALE, np.float32), "zero_point": np.array(ZERO_POINT, np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, source)
        quantize_static(
            source,
            target,
            _Reader(frames),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=list(tail),
            extra_options={"TensorQuantOverrides": {"input": [{**taken, "quant_type": QuantType.QUInt8}]}},
        )
        model = onnx.load(target)
    nodes = model.graph.node
    first = next(node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == "input")
    nodes.remove(first)
    nodes.insert(0, helper.make_node("Transpose", ["frames"], [first.output[0]], "input", perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(_frames(rows, columns))
    onnx.checker.check_model(model, full_check=True)
    return model


def export_twin(
    twin: fx.GraphModule, *, rows: int, columns: int, outputs: Sequence[str] = ("logits",)
) -> onnx.ModelProto:
    """Return a calibrated twin with real integers, in QDQ form; it takes uint8 ``(N, rows, columns, 3)``.

    Scales and zero points are the quantisers' own; biases are int32 at the scale of the sums they join. A
    ReLU before a quantiser is the end of its range, and padding is the convolution's own: the zero point. A
    twin with every layer kept in float gives the float graph, with the same input and outputs.

    Parameters
    ----------
    outputs
        A name for each of what the network returns, in order.

    Raises
    ------
    TwinError
        A quantiser is not of 8 bits, or the network does what is not known to `models.training.qdq`.
    """
    (taken, *computed, last) = twin.graph.nodes
    writer = Writer(twin)
    writer.nodes.append(helper.make_node("Transpose", ["frames"], [taken.name], "input", perm=[0, 3, 1, 2]))
    writer.take(taken, taken.name, scale=SCALE, zero_point=ZERO_POINT)
    for node in computed:
        writer.write(node)
    (result, *others) = last.all_input_nodes
    results = result.all_input_nodes if isinstance(result.target, type) else [result, *others]
    for name, node in zip(outputs, results, strict=True):
        writer.nodes.append(helper.make_node("Identity", [writer.real(node)], [name], name))
    with torch.no_grad():
        given = twin(torch.zeros(1, 3, rows, columns))
    shapes = [("N", *each.shape[1:]) for each in (given if isinstance(given, tuple) else (given,))]
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(outputs, shapes, strict=True)
    ]
    graph = helper.make_graph(writer.nodes, "twin", [_frames(rows, columns)], made, writer.constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def take_frames(graph: onnx.ModelProto, *, rows: int, columns: int) -> onnx.ModelProto:
    """Let the float graph take uint8 ``(N, rows, columns, 3)``, to be compared with its twin."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    constants = {"zero_point_of_input": ZERO_POINT, "scale_of_input": SCALE}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    nodes = [
        helper.make_node("Transpose", ["frames"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["levels", "zero_point_of_input"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale_of_input"], ["input"]),
    ]
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    model.graph.input[0].CopyFrom(_frames(rows, columns))
    onnx.checker.check_model(model, full_check=True)
    return model


def _frames(rows: int, columns: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", rows, columns, 3])


def last_layers(graph: onnx.ModelProto) -> list[str]:
    """Return the nodes from the last convolution or product to the logits: the tail of most networks."""
    nodes = list(graph.graph.node)
    kinds = [node.op_type for node in nodes]
    last = max(place for place, kind in enumerate(kinds) if kind in ("Conv", "Gemm", "MatMul"))
    return [node.name for node in nodes[last:]]
