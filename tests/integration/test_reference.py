"""The package that ships: what it promises holds of the very file that is loaded."""

import collections
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.card import describe
from models.classifier import Classifier
from models.grid import THRESHOLDS, TOP_KS
from models.package import REFERENCE, load_package
from models.patient import predict_frames, read_patient
from pipeline.frame import FrameSource

onnx = pytest.importorskip("onnx", reason="the extra `reference` (onnx) is needed to look into the graph")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def views() -> NDArray[np.uint8]:
    """Return 12 views: noise, flat colours, and smooth mucosa-like ramps; no two alike."""
    generator = np.random.default_rng(3)
    ramps = np.linspace(60, 220, 224)[None, :, None] * generator.uniform(0.3, 1.0, (4, 1, 1, 3))
    return np.concatenate(
        [
            generator.integers(0, 256, (4, 224, 224, 3)),
            np.broadcast_to(generator.integers(0, 256, (4, 1, 1, 3)), (4, 224, 224, 3)),
            np.broadcast_to(ramps, (4, 224, 224, 3)),
        ]
    ).astype(np.uint8)


def test_the_reference_package_is_whole_small_and_the_default() -> None:
    package = load_package(None)
    assert package.folder == REFERENCE
    assert (package.classes, package.positive) == (("healthy", "ibd"), "ibd")
    assert package.threshold in THRESHOLDS
    assert package.top_k in TOP_KS
    files = {"model.onnx", "model.json", "MODEL_CARD.md", "frames.sha256", "colours.npy"}
    assert {file.name for file in REFERENCE.iterdir()} == files
    assert sum(file.stat().st_size for file in REFERENCE.iterdir()) <= 5_000_000


def test_the_spatial_mean_of_the_activation_map_plus_the_bias_is_the_logit(views: NDArray[np.uint8]) -> None:
    """The map that a clinician sees must be what decided, not an illustration of it."""
    scores = Classifier(load_package(None)).score(views)
    graph = onnx.load_from_string(load_package(None).read("model.onnx")).graph
    bias = next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == "bias")
    assert scores.cam is not None
    np.testing.assert_allclose(scores.cam.mean(axis=(2, 3)) + bias, scores.logits, atol=1e-4)
    assert np.ptp(scores.logits[:, 1]) > 0.1


def test_the_embedding_is_what_the_head_reads(views: NDArray[np.uint8]) -> None:
    scores = Classifier(load_package(None)).score(views)
    graph = onnx.load_from_string(load_package(None).read("model.onnx")).graph
    head = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert scores.embedding is not None
    logits = scores.embedding @ head["head_weight"][:, :, 0, 0].T + head["bias"]
    np.testing.assert_allclose(logits, scores.logits, atol=1e-4)


def test_a_view_is_read_the_same_alone_and_in_any_batch(views: NDArray[np.uint8]) -> None:
    classifier = Classifier(load_package(None))
    together = classifier.score(views).logits
    alone = np.concatenate([classifier.score(view[None]).logits for view in views])
    np.testing.assert_array_equal(alone, together)


def test_the_optimised_graph_runs_in_int8_but_for_the_head(tmp_path: Path) -> None:
    """A quantised file that the runtime falls back to float for is smaller, not faster."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that an optimised file fits this machine alone
    ort.InferenceSession(load_package(None).read("model.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    kinds = collections.Counter(node.op_type for node in graph.node)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (52, 10)
    assert kinds["Conv"] == 1
    assert kinds["QuantizeLinear"] == 0


def test_weights_are_symmetric_per_channel_and_activations_affine_with_an_exact_zero() -> None:
    """Datres has the two schemes the wrong way round, no clip, and a zero point that is not whole."""
    graph = onnx.load_from_string(load_package(None).read("model.onnx")).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = activations = 0
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = constants[node.input[2]]
            activations += 1
            assert (zero_point.dtype, zero_point.shape) == (np.uint8, ())
        elif (
            node.op_type == "DequantizeLinear" and constants.get(node.input[0], np.zeros(0)).dtype == np.int8
        ):
            values, scale, zero_point = (constants[name] for name in node.input)
            weights += 1
            assert scale.shape == zero_point.shape == values.shape[:1]
            assert not zero_point.any()
            assert values.min() >= -127
    assert (weights, activations) == (52, 62)


def test_the_card_says_what_the_manifest_says() -> None:
    package = load_package(None)
    card = (REFERENCE / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == describe(package.manifest)
    for phrase in ("not a diagnosis", "Research use only", "Apache-2.0", "HyperKvasir", "No patients"):
        assert phrase in card


@pytest.mark.data
def test_training_frames_of_whole_patients_are_read_and_not_abstained_from(data_dir: Path) -> None:
    """With calibrated confidence the default threshold must leave a reading; these frames were trained on."""
    simplejpeg = pytest.importorskip("simplejpeg")
    from pipeline.clean.content_area import find_content_area
    from pipeline.clean.crop import crop_view

    lines = (data_dir / "pseudo_patients.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    package = load_package(None)
    classifier = Classifier(package)
    expected = {"uc": "ibd", "normal": "healthy"}
    patients = sorted({row["pseudo_patient_id"] for row in rows})[::9]
    for patient in patients:
        members = [row for row in rows if row["pseudo_patient_id"] == patient]
        views = []
        for row in members:
            pixels = simplejpeg.decode_jpeg((data_dir / row["path"]).read_bytes(), colorspace="RGB")
            area = find_content_area(pixels)
            assert area is not None
            views.append(crop_view(pixels, area.box))
        sources = [FrameSource("1.2", number + 1) for number in range(len(members))]
        frames = predict_frames(classifier.score(np.stack(views)), sources, package)
        read = read_patient(
            frames, threshold=package.threshold, top_k=package.top_k, vote_mode=package.vote_mode
        )
        assert read.reading == expected[members[0]["label"]]
