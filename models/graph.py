"""The reference network's graph: a published MobileNetV2 trunk, a linear head, and its int8 twin.

The head is a 1x1 convolution whose output, the class activation map (Zhou et al. 2016), is averaged: the map
holds the very terms of the logit.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pipeline.clean.crop import VIEW_SIDE

SCALE, ZERO_POINT = 1 / 128, 128
"""(pixel - 128) / 128, as the published 8-bit network takes it; an integer zero point makes padding exact."""


def build_trunk(weights: Path) -> onnx.ModelProto:
    """Return the float graph, normalised ``(N, 3, rows, columns)`` in, with a head of zeros to be set."""
    graph = onnx.load(weights).graph
    nodes = list(graph.node)
    features = next(node.input[0] for node in nodes if "feature_map" in node.output)
    last = next(place for place, node in enumerate(nodes) if features in node.output)
    nodes = nodes[: last + 1]
    dimension = next(t.dims[0] for t in graph.initializer if t.name == nodes[-2].input[1])
    nodes += [
        helper.make_node("Conv", [features, "head_weights"], ["cam"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["cam"], ["cam_mean"]),
        helper.make_node("Flatten", ["cam_mean"], ["margins"]),
        helper.make_node("Add", ["margins", "head_bias"], ["logits"]),
        helper.make_node("GlobalAveragePool", [features], ["feature_mean"]),
        helper.make_node("Flatten", ["feature_mean"], ["embedding"]),
    ]
    for place, node in enumerate(nodes):
        node.name = f"{'trunk' if place <= last else 'head'}_{place}"
    head = {"head_weights": (2, dimension, 1, 1), "head_bias": (2,)}
    used = {name for node in nodes for name in node.input}
    outputs = {"logits": ["N", 2], "cam": ["N", 2, "h", "w"], "embedding": ["N", dimension]}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "mobilenet_v2",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, VIEW_SIDE, VIEW_SIDE])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            [tensor for tensor in graph.initializer if tensor.name in used]
            + [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in head.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def batches(views: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Cut views into runs of about eight."""
    return np.array_split(views, max(1, len(views) // 8))


def normalise(views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return views as the float graph takes them."""
    return ((views.astype(np.float32) - ZERO_POINT) * SCALE).transpose(0, 3, 1, 2)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    def __init__(self, views: NDArray[np.uint8]) -> None:
        self._inputs = ({"input": normalise(batch)} for batch in batches(views))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._inputs, None)


def quantise(trunk: onnx.ModelProto, views: NDArray[np.uint8]) -> onnx.ModelProto:
    """Return the QDQ graph, calibrated (min-max) on `views`; it takes uint8 ``(N, rows, columns, 3)`` itself.

    Activations are affine U8, weights symmetric S8 per output channel; the head stays in float.
    """
    taken = {"scale": np.array(SCALE, np.float32), "zero_point": np.array(ZERO_POINT, np.uint8)}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(trunk, source)
        quantize_static(
            source,
            target,
            _Reader(views),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[node.name for node in trunk.graph.node if node.name.startswith("head")],
            extra_options={"TensorQuantOverrides": {"input": [{**taken, "quant_type": QuantType.QUInt8}]}},
        )
        model = onnx.load(target)
    graph = model.graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "input")
    transpose = helper.make_node("Transpose", ["views"], [first.output[0]], "input", perm=[0, 3, 1, 2])
    graph.node.remove(first)
    graph.node.insert(0, transpose)
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info("views", TensorProto.UINT8, ["N", VIEW_SIDE, VIEW_SIDE, 3])
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def set_head(model: onnx.ModelProto, weights: NDArray[np.float64], bias: float) -> None:
    """Put a fitted line into the graph: the margin of the second class over the first, half on each."""
    sides = np.array([-0.5, 0.5])
    values = {"head_weights": (sides[:, None] * weights)[:, :, None, None], "head_bias": sides * bias}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))


def embed(model: onnx.ModelProto, inputs: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """Return ``(N, d)`` embeddings of batches of whatever the graph takes; one thread, so as to repeat."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = [session.run(["embedding"], {name: batch})[0] for batch in inputs]
    return np.concatenate(batches).astype(np.float64)
