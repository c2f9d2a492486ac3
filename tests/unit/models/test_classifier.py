"""The network's runtime: what it takes, what it gives, what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.classifier import Classifier
from models.errors import InferenceError, PackageError
from models.package import load_package

Graph = Callable[..., bytes]
Write = Callable[..., Path]


def views(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 19])
def test_every_view_has_its_row(write_package: Write, count: int) -> None:
    """A row lost or swapped would give a frame another's reading."""
    scores = Classifier(load_package(write_package())).score(views(count))
    means = views(count).mean(axis=(1, 2, 3))
    assert scores.logits.shape == (count, 2)
    np.testing.assert_allclose(scores.logits, np.stack([-means, means], axis=1), rtol=1e-4)
    assert scores.cam is not None
    assert scores.cam.shape == (count, 2, 7, 7)
    np.testing.assert_allclose(scores.cam.mean(axis=(2, 3)), scores.logits, rtol=1e-4)
    assert scores.embedding is None


def test_an_output_that_the_manifest_does_not_promise_is_not_computed(write_package: Write) -> None:
    assert Classifier(load_package(write_package(outputs=["logits"]))).score(views(1)).cam is None


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 224, 224), np.uint8),
        np.zeros((1, 200, 224, 3), np.uint8),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
    ],
)
def test_views_of_another_shape_or_dtype_are_refused(
    write_package: Write, wrong: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    with pytest.raises(ValueError, match=r"views: \(N, 224, 224, 3\) uint8 was expected"):
        Classifier(load_package(write_package())).score(wrong)  # type: ignore[arg-type]


def test_a_file_that_is_no_graph_is_a_package_error(write_package: Write) -> None:
    package = load_package(write_package(b"no graph"))
    with pytest.raises(PackageError, match="a runnable ONNX graph was expected"):
        Classifier(package)


def test_a_graph_for_another_input_is_a_package_error(write_package: Write, graph: Graph) -> None:
    with pytest.raises(PackageError, match=r"uint8 input \(N, 224, 224, 3\) was expected.*160"):
        Classifier(load_package(write_package(graph(side=160))))


def test_a_graph_that_takes_floats_is_a_package_error(write_package: Write, graph: Graph) -> None:
    with pytest.raises(PackageError, match=r"was expected, tensor\(float\)"):
        Classifier(load_package(write_package(graph(dtype=1))))


def test_a_graph_of_three_classes_is_a_package_error(write_package: Write, graph: Graph) -> None:
    """A third logit would silently be left out of the margin."""
    with pytest.raises(PackageError, match="not in the graph as stated"):
        Classifier(load_package(write_package(graph(classes=3))))


def test_a_promised_output_that_the_graph_lacks_is_a_package_error(write_package: Write) -> None:
    with pytest.raises(PackageError, match="'embedding' is not in the graph"):
        Classifier(load_package(write_package(outputs=["logits", "embedding"])))


def test_logits_that_are_not_finite_are_an_error_and_not_an_abstention(
    write_package: Write, graph: Graph
) -> None:
    """NaN is below every threshold: unchecked, a broken network would look like a cautious one."""
    with pytest.raises(InferenceError, match="not finite"):
        Classifier(load_package(write_package(graph(gain=float("nan"))))).score(views(1))
