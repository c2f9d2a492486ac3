"""A package is used only if it is whole, unaltered and made for this node."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import PackageError
from models.package import load_package

Write = Callable[..., Path]


def test_a_whole_package_is_read_with_the_papers_t_and_k_where_it_names_none(write_package: Write) -> None:
    folder = write_package()
    package = load_package(folder)
    assert (package.threshold, package.top_k, package.vote_mode) == (0.93, 6, "probabilities")
    assert (package.classes, package.positive) == (("healthy", "ibd"), "ibd")
    assert (package.temperature, package.offset) == (2.0, 0.5)
    assert (package.input_rows, package.input_columns) == (224, 224)
    assert package.digest == hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    assert package.read("model.onnx") == (folder / "model.onnx").read_bytes()


def test_a_package_may_name_its_own_rule(write_package: Write) -> None:
    package = load_package(write_package(threshold=0.8, top_k=3, vote_mode="votes"))
    assert (package.threshold, package.top_k, package.vote_mode) == (0.8, 3, "votes")


def test_one_changed_byte_of_the_model_is_refused_and_named(write_package: Write) -> None:
    """The digests are all that ties a reading to the network that made it."""
    folder = write_package()
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(PackageError, match=r"model\.onnx: SHA-256 .* was expected, .* was found"):
        load_package(folder)


def test_a_model_swapped_after_the_check_is_refused_when_it_is_read(write_package: Write) -> None:
    package = load_package(write_package())
    (package.folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(PackageError, match="SHA-256"):
        package.read("model.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_missing_file_is_named(write_package: Write, name: str) -> None:
    folder = write_package()
    (folder / name).unlink()
    with pytest.raises(PackageError, match=f"lacks a readable {name}"):
        load_package(folder)


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="nowhere"):
        load_package(tmp_path / "nowhere")


VIEW = {"rows": 224, "columns": 224, "layout": "NHWC", "dtype": "uint8", "colour": "RGB"}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"format": 2}, "format: 1, .* was expected, 2 was found"),
        ({"format": None}, "format: .* None was found"),
        ({"task": "segmentation"}, "task: 'classification' was expected, 'segmentation' was found"),
        ({"name": ""}, "name: "),
        ({"version": 1}, "version: "),
        ({"classes": ["normal", "ibd"]}, "classes: .*'normal'"),
        ({"classes": ["ibd", "ibd"]}, "classes: "),
        ({"classes": ["healthy", "ibd", "polyp"]}, "classes: "),
        ({"positive": "healthy"}, "positive: "),
        ({"input": {**VIEW, "rows": 160}}, "input.rows: 224, .* was expected, 160 was found"),
        ({"input": {**VIEW, "columns": 160}}, "input.columns: "),
        ({"input": {**VIEW, "layout": "NCHW"}}, "input.layout: "),
        ({"input": {**VIEW, "dtype": "float32"}}, "input.dtype: "),
        ({"input": {**VIEW, "colour": "BGR"}}, "input.colour: "),
        ({"input": [224, 224]}, "input.rows: "),
        ({"outputs": ["cam"]}, "outputs: 'logits'"),
        ({"outputs": ["logits", "saliency"]}, "outputs: "),
        ({"preprocessing": {"recipe_digest": "0" * 64}}, "recipe_digest: .* the cleaning recipe in use"),
        ({"calibration": {"temperature": 0.0, "offset": 0.0}}, "calibration.temperature: "),
        ({"calibration": {"temperature": 1.0}}, "calibration.offset: "),
        ({"calibration": {"temperature": True, "offset": 0.0}}, "calibration.temperature: "),
        ({"threshold": 1.2}, "threshold: "),
        ({"top_k": 0}, "top_k: "),
        ({"top_k": "6"}, "top_k: "),
        ({"vote_mode": "majority"}, "vote_mode: "),
        ({"treshold": 0.8}, "treshold"),
        ({"files": {}}, "files: the SHA-256 of 'model.onnx'"),
        ({"files": {"model.onnx": "0" * 64, "../model.onnx": "0" * 64}}, "files: "),
        ({"files": {"model.onnx": None}}, "files: "),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_clear_line(
    write_package: Write, replaced: dict[str, Any], message: str
) -> None:
    """Whoever points the node at a package sees this line, not a traceback."""
    with pytest.raises(PackageError, match=message) as caught:
        load_package(write_package(**replaced))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff"])
def test_a_manifest_that_is_no_json_object_is_one_clear_line(write_package: Write, content: str) -> None:
    folder = write_package()
    (folder / "model.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(PackageError, match=r"model\.json: ") as caught:
        load_package(folder)
    assert "\n" not in str(caught.value)


def test_a_calibration_that_is_not_a_number_is_refused(write_package: Write) -> None:
    """Python's JSON reads NaN; a NaN offset would make every frame unpredicted."""
    folder = write_package(calibration={"temperature": 1.0, "offset": float("nan")})
    assert "NaN" in json.dumps(float("nan"))
    with pytest.raises(PackageError, match=r"calibration\.offset"):
        load_package(folder)
