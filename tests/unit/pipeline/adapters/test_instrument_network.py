"""The network's adapter: whole packages only, the same answer from every thread, pieces judged as stated."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.adapters.instrument_network import SHIPPED, InstrumentNetwork
from pipeline.errors import PipelineError
from pipeline.network_package import NetworkPackageError

onnx = pytest.importorskip("onnx", reason="the extra `reference` (onnx) builds the graphs of these tests")

Write = Callable[..., Path]
SIDE = 32


def red_graph() -> bytes:
    """Return a graph whose logit is a pixel's red level less 100."""
    helper, tensor = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Transpose", ["frames"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["levels"], to=1),
        helper.make_node("Conv", ["levels", "weights", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("frames", 2, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", 1, ["N", 1, SIDE, SIDE])],
        [
            tensor.from_array(np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1), "weights"),
            tensor.from_array(np.array([-100], np.float32), "bias"),
        ],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return content


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a package of the red graph; keywords replace manifest entries."""

    def written(**replaced: Any) -> Path:
        content = red_graph()
        manifest = {
            "format": 1, "task": "segmentation", "name": "red", "version": "1", "classes": ["instrument"],
            "input": {"rows": SIDE, "columns": SIDE, "layout": "NHWC", "dtype": "uint8", "colour": "RGB"},
            "preprocessing": {"resize": "the whole frame, by area"},
            "outputs": ["logits"],
            "decision": {"logit": 0.0, "peak_logit": 50, "least_share": 0.01},
            "files": {"model.onnx": hashlib.sha256(content).hexdigest()},
            **replaced,
        }  # fmt: skip
        (tmp_path / "model.onnx").write_bytes(content)
        (tmp_path / "model.json").write_text(json.dumps(manifest))
        return tmp_path

    return written


def test_a_piece_counts_if_it_is_large_enough_and_sure_enough(write: Write) -> None:
    """One per cent of 32 x 32 is 10.2 pixels; the peak must reach 50."""
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[2:6, 2:6, 0] = 160  # 16 pixels, sure
    frame[2:5, 20:23, 0] = 160  # 9 pixels: too small
    frame[20:28, 2:10, 0] = 140  # 64 pixels, none of them sure
    expected = np.zeros((SIDE, SIDE), np.bool_)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(InstrumentNetwork(write())(frame), expected)


def test_one_changed_byte_of_the_network_is_refused(write: Write) -> None:
    folder = write()
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(PipelineError, match=r"model\.onnx: SHA-256 .* was expected, .* was found"):
        InstrumentNetwork(folder)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"task": "classification"}, "task: 'segmentation' was expected, 'classification' was found"),
        ({"classes": ["polyp"]}, "classes: "),
        ({"outputs": ["mask"]}, "outputs: "),
        ({"decision": {"logit": 0.0, "peak_logit": 2.0, "least_share": 2}}, "decision.least_share: "),
        ({"decision": {"logit": "0"}}, "decision.logit: "),
        ({"input": {"rows": 0}}, "input.rows: "),
        (
            {"input": {"rows": 64, "columns": SIDE, "layout": "NHWC", "dtype": "uint8", "colour": "RGB"}},
            "an input of .* was expected",
        ),
        ({"preprocessing": {"resize": "the centre"}}, "preprocessing.resize: "),
        ({"format": 2}, "format: "),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_package_that_does_not_fit_is_one_clear_line(
    write: Write, replaced: dict[str, Any], message: str
) -> None:
    with pytest.raises(NetworkPackageError, match=message) as caught:
        InstrumentNetwork(write(**replaced))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_one_clear_line(write: Write) -> None:
    folder = write(files={"model.onnx": hashlib.sha256(b"nothing").hexdigest()})
    (folder / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(NetworkPackageError, match="a runnable ONNX graph was expected"):
        InstrumentNetwork(folder)


def test_the_shipped_package_is_named_by_its_manifest() -> None:
    """A recipe holds this digest: another network is another cleaning."""
    assert InstrumentNetwork().digest == hashlib.sha256((SHIPPED / "model.json").read_bytes()).hexdigest()


def test_threads_that_share_a_network_find_what_one_finds() -> None:
    network = InstrumentNetwork()
    frames = np.random.default_rng(0).integers(0, 256, (8, 120, 150, 3)).astype(np.uint8)
    frames = np.ascontiguousarray(frames // 4 + np.array([150, 60, 40], np.uint8))
    frames[:, 60:, 60:90] = (200, 210, 230)
    alone = [network(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(network, frames))
    np.testing.assert_array_equal(together, alone)
