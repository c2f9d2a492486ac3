"""The 8-bit file is no one runtime's: OpenVINO, where it is installed, reads it as ONNX Runtime does."""

import importlib

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` (torch) is needed to make a file")
pytest.importorskip("onnx", reason="the extra `train` (onnx) is needed to make a file")
pytest.importorskip("openvino", reason="OpenVINO is optional and not here: pip install openvino")

from models.training.export import export_twin
from models.training.quantising import read_int8
from tests.quantised_networks import SIDE, make_frames, make_twin, residual_network


def test_openvino_reads_the_same_file_nearly_the_same() -> None:
    """Nearly: its kernels round at other places, which grows to what quantisation itself costs."""
    model, frames = export_twin(make_twin(residual_network()), rows=SIDE, columns=SIDE), make_frames(32)
    core = importlib.import_module("openvino").Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    found, expected = compiled({"frames": frames})["logits"], read_int8(model, frames)["logits"]
    assert np.abs(found - expected).mean() <= 0.05 * np.ptp(expected)
    assert np.corrcoef(found[:, 1] - found[:, 0], expected[:, 1] - expected[:, 0])[0, 1] > 0.95
