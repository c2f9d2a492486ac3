"""MobileNetV2 in torch says what the published graph says, and its map holds the terms of the logit."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from models.errors import ModelError
from models.training.mobilenet_v2 import PUBLISHED_CLASSES, MobileNetV2, load_published

WEIGHTS = "weights/mobilenet_v2_imagenet_dequant_fp32.onnx"


@pytest.mark.data
def test_its_logits_and_embedding_are_those_of_the_published_graph(data_dir: Path) -> None:
    network = MobileNetV2(PUBLISHED_CLASSES).eval()
    load_published(network, data_dir / WEIGHTS)
    session = ort.InferenceSession(data_dir / WEIGHTS, providers=["CPUExecutionProvider"])
    views = np.random.default_rng(0).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
    probabilities, embedding = session.run(["probs", "embedding"], {"input": views})
    with torch.no_grad():
        found = network(torch.from_numpy(views))
    assert np.abs(found.embedding.numpy() - embedding).max() < 1e-3
    logits = found.logits.numpy()
    assert np.abs(np.ptp(logits - np.log(probabilities), axis=1)).max() < 1e-3


def test_the_maps_mean_and_the_bias_are_the_logit() -> None:
    network = MobileNetV2()
    with torch.no_grad():
        network.bias += torch.tensor([1.0, -2.0])
        found = network(torch.zeros(1, 3, 64, 64))
    assert found.logits.shape == (1, 2)
    assert torch.allclose(found.cam.mean(dim=(2, 3)) + network.bias, found.logits)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.onnx"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="w0 of shape"):
        load_published(MobileNetV2(), file)
