"""Stand-ins for inpainting networks: they paint a hole in the mean colour of what their mask calls known."""

import hashlib
from pathlib import Path

import pytest

LAMA, MIGAN = "lama", "migan"


def mean_graph(kind: str, *, is_hole_one: bool | None = None, answers_to: float = 255.0) -> bytes:
    """Return an ONNX graph with the inputs of LaMa or MI-GAN.

    Parameters
    ----------
    is_hole_one
        What the graph takes its mask to mean; None for what the network of that kind does.
    answers_to
        What LaMa's graph gives for white.
    """
    onnx = pytest.importorskip("onnx", reason="the extra `reference` (onnx) builds the graphs of these tests")
    helper, tensor = onnx.helper, onnx.numpy_helper
    import numpy as np  # beside onnx, which some runs lack

    if is_hole_one is None:
        is_hole_one = kind == LAMA
    dtype, shape = (1, [512, 512]) if kind == LAMA else (2, ["rows", "columns"])
    top = answers_to if kind == LAMA else 1.0
    constants = {"one": 1.0, "full": 1.0 if kind == LAMA else 255.0, "top": top}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        helper.make_node("Cast", ["mask"], ["level"], to=1),
        helper.make_node("Div", ["level", "full"], ["marked"]),
        helper.make_node("Sub", ["one", "marked"], ["unmarked"]),
        helper.make_node("Identity", ["unmarked" if is_hole_one else "marked"], ["known"]),
        helper.make_node("Sub", ["one", "known"], ["unknown"]),
        helper.make_node("Mul", ["pixels", "known"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["known", "axes"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Mul", ["mean", "unknown"], ["painted"]),
        helper.make_node("Add", ["kept", "painted"], ["whole"]),
        helper.make_node("Mul", ["whole", "top"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["result"], to=dtype),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("image", dtype, ["batch", 3, *shape]),
            helper.make_tensor_value_info("mask", dtype, ["batch", 1, *shape]),
        ],
        [helper.make_tensor_value_info("result", dtype, ["batch", 3, *shape])],
        [
            tensor.from_array(np.array([2, 3], np.int64), "axes"),
            *(tensor.from_array(np.array(value, np.float32), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def written(folder: Path, content: bytes) -> tuple[Path, str]:
    """Write a network's file; return its path and SHA-256."""
    path = folder / "network"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()
