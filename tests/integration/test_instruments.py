"""The instrument network that ships: its figures, recomputed from the very file; its kernels; its card."""

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.training.instrument_card import describe
from models.training.instrument_figures import (
    TEST_COLUMNS,
    TEST_ROWS,
    composite_figures,
    free_figures,
    held_out_composites,
    pair_figures,
)
from models.training.scenery import make_scene, make_shape, read_frame, read_mask
from pipeline.adapters.instrument_network import RULES, SHIPPED, InstrumentNetwork
from pipeline.network_package import NetworkPackage, open_network_package

onnx = pytest.importorskip("onnx", reason="the extra `reference` (onnx) is needed to look into the graph")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def package() -> NetworkPackage:
    return open_network_package(SHIPPED, rules=RULES)


@pytest.fixture(scope="module")
def metrics(package: NetworkPackage) -> Any:
    return package.manifest["metrics"]


@pytest.fixture(scope="module")
def held_out(package: NetworkPackage) -> list[str]:
    return package.read("held_out.txt").decode().split()


def test_the_package_is_whole_and_small(package: NetworkPackage) -> None:
    names = {file.name for file in SHIPPED.iterdir()}
    assert names == {"model.json", *package.manifest["files"]}
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 3_000_000


def test_the_card_says_what_the_manifest_says(package: NetworkPackage) -> None:
    assert package.read("MODEL_CARD.md").decode() == describe(package.manifest)


def test_the_figures_are_what_was_asked_for(metrics: Any) -> None:
    """A network made anew that falls short must not ship unnoticed."""
    int8, floating = metrics["composites_int8"], metrics["composites_float"]
    assert int8["frames"] >= 400
    assert int8["dice_mean"] >= 0.90
    assert abs(int8["dice_mean"] - floating["dice_mean"]) <= 0.01
    free = metrics["instrument_free_int8"]
    assert free["frames"] >= 300
    assert free["masked_share_median"] == 0
    assert free["masked_share_mean"] <= 0.005
    assert free["frames_above_2_percent"] <= 0.03
    assert len(metrics["real_pairs_int8"]["pairs"]) == 13


def test_the_optimised_graph_runs_in_int8_but_for_the_last_layer(
    package: NetworkPackage, tmp_path: Path
) -> None:
    """A quantised file that the runtime falls back to float for is smaller, not faster."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that an optimised file fits this machine alone
    ort.InferenceSession(package.read("model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["QLinearConcat"], kinds["Conv"]) == (22, 4, 1)
    assert kinds["QuantizeLinear"] == 0


@pytest.mark.data
def test_dice_on_composites_held_out_is_what_the_manifest_says(
    data_dir: Path, held_out: list[str], metrics: Any, request: pytest.FixtureRequest
) -> None:
    """Reduced: every ninth mask and scene, a mean within three standard errors; full: the same figures."""
    full = bool(request.config.getoption("--full"))
    count = metrics["composites_int8"]["frames"] if full else 40
    frames = [name for name in held_out if name.endswith(".jpg")][:: 1 if full else 9]
    masks = [name for name in held_out if name.endswith(".png")][:: 1 if full else 9]
    size = {"rows": TEST_ROWS, "columns": TEST_COLUMNS}
    scenes = [make_scene(name, "test", read_frame(data_dir / name), **size) for name in frames]
    shapes = [make_shape(name, "test", read_mask(data_dir / name), **size) for name in masks]
    network = InstrumentNetwork()
    found = composite_figures(network, list(held_out_composites(scenes, shapes, count=count)))
    stated = metrics["composites_int8"]
    if full:
        assert found["dice_mean"] == pytest.approx(stated["dice_mean"], abs=0.005)
    spread = stated["dice_standard_error"] * np.sqrt(stated["frames"] / count)
    assert found["dice_mean"] == pytest.approx(stated["dice_mean"], abs=3 * spread)


@pytest.mark.data
def test_real_pairs_are_found_as_the_manifest_says(data_dir: Path, metrics: Any) -> None:
    found, stated = pair_figures(InstrumentNetwork(), data_dir), metrics["real_pairs_int8"]
    for pair, expected in zip(found["pairs"], stated["pairs"], strict=True):
        assert (pair["name"], pair["kind"]) == (expected["name"], expected["kind"])
        assert pair["dice"] == pytest.approx(expected["dice"], abs=0.05)
    assert found["dice_median"] == pytest.approx(stated["dice_median"], abs=0.02)


@pytest.mark.data
def test_frames_without_instruments_stay_as_they_are(
    data_dir: Path, held_out: list[str], metrics: Any, request: pytest.FixtureRequest
) -> None:
    full = bool(request.config.getoption("--full"))
    files = [data_dir / name for name in held_out if name.endswith(".jpg")][:: 1 if full else 4]
    found = free_figures(InstrumentNetwork(), files)
    assert found["masked_share_median"] == 0
    assert found["masked_share_mean"] <= 0.005
    assert found["frames_above_2_percent"] <= 0.03
    if full:
        stated = metrics["instrument_free_int8"]["masked_share_mean"]
        assert found["masked_share_mean"] == pytest.approx(stated, abs=0.0005)
