"""A small model package that is whole, for tests to use or to break."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clean.recipe import DEFAULT

onnx = pytest.importorskip("onnx", reason="the extra `reference` (onnx) builds the graphs of these tests")

Graph = Callable[..., bytes]
Write = Callable[..., Path]


def tiny_graph(*, side: int = 224, classes: int = 2, dtype: int = 2, gain: float = 1.0) -> bytes:
    """Return a graph whose CAM is the view's mean over 32x32 blocks, times +1 and -1; dtype 2 is uint8."""
    helper, tensor = onnx.helper, onnx.numpy_helper
    weights = gain * np.array([-1.0, 1.0, 0.5][:classes], np.float32)[:, None, None, None] / 3
    nodes = [
        helper.make_node("Transpose", ["views"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["pixels"], to=1),
        helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Conv", ["pooled", "weights"], ["cam"]),
        helper.make_node("ReduceMean", ["cam"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("views", dtype, ["N", side, side, 3])],
        [
            helper.make_tensor_value_info("logits", 1, ["N", classes]),
            helper.make_tensor_value_info("cam", 1, ["N", classes, "h", "w"]),
        ],
        [tensor.from_array(np.repeat(weights, 3, axis=1), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def write_package(tmp_path: Path) -> Write:
    """Return a function that writes a package and gives its folder; keywords replace manifest entries."""

    def write(graph: bytes | None = None, **replaced: Any) -> Path:
        content = tiny_graph() if graph is None else graph
        manifest = {
            "format": 1,
            "task": "classification",
            "name": "tiny",
            "version": "1",
            "classes": ["healthy", "ibd"],
            "positive": "ibd",
            "input": {
                "rows": 224,
                "columns": 224,
                "layout": "NHWC",
                "dtype": "uint8",
                "colour": "RGB",
                "scale": 1.0,
                "zero_point": 0,
            },
            "outputs": ["logits", "cam"],
            "calibration": {"temperature": 2.0, "offset": 0.5},
            "preprocessing": {"recipe_digest": DEFAULT.digest},
            "quantisation": {},
            "training_data": {},
            "metrics": {},
            "files": {"model.onnx": hashlib.sha256(content).hexdigest()},
            **replaced,
        }
        (tmp_path / "model.onnx").write_bytes(content)
        (tmp_path / "model.json").write_text(
            json.dumps({key: value for key, value in manifest.items() if value is not None})
        )
        return tmp_path

    return write


@pytest.fixture
def graph() -> Graph:
    """Return the maker of small graphs."""
    return tiny_graph
