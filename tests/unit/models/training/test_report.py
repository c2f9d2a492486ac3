"""The report's text, made from the figures of the package that ships."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.card import caveats, tables
from models.package import load_package
from models.training.report import as_markdown

RESULTS = Path(__file__).resolve().parents[4] / "docs" / "results.md"


@pytest.fixture
def metrics() -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(load_package(None).manifest["metrics"])
    return found


@pytest.fixture
def write(metrics: dict[str, Any]) -> Callable[[], str]:
    """Return what writes the text of the figures as they then are."""
    versions = {"python": "3", "packages": dict.fromkeys(
        ("torch", "onnxruntime", "numpy", "scikit-learn", "opencv-python-headless"), "1"
    ), "machine": {"processor": "one", "cores": 2}}  # fmt: skip
    content = {
        "m": metrics, "grids": {}, "draws": 300, "examples": (), "digest": "abc", "versions": versions,
        "chosen": {"threshold": 0.9, "top_k": 3, "mcc": 0.9, "tied": 1}, "findings": None,
        "plan": SimpleNamespace(seeds=(0, 1, 2), dataset=Path("frames.csv")),
    }  # fmt: skip
    return lambda: as_markdown(
        {**content, "shown": tables(metrics), "caveats": caveats(metrics)}, lambda *_: ""
    )


def test_an_aim_that_was_missed_is_said_to_be_missed(
    metrics: dict[str, Any], write: Callable[[], str]
) -> None:
    metrics["frame_int8"]["auc"] = {"value": 0.989, "low": 0.98, "high": 0.995}
    assert "| AUC of frames | ≥ 0.99 | 0.989 (0.980 to 0.995) | **no** |" in write()
    metrics["frame_int8"]["auc"]["value"] = 0.99
    assert "| AUC of frames | ≥ 0.99 | 0.990 (0.980 to 0.995) | yes |" in write()


def test_an_upper_bar_is_reached_from_below(metrics: dict[str, Any], write: Callable[[], str]) -> None:
    metrics["frame_int8"]["ece"] = {"value": 0.051}
    assert "| ≤ 0.05 | 0.051 | **no** |" in write()


def test_a_figure_that_was_not_computed_is_said_to_be_left_out(
    metrics: dict[str, Any], write: Callable[[], str]
) -> None:
    """A section that silently is not there reads as if nothing were to be said."""
    metrics.pop("foreign", None)
    metrics.pop("chance_and_leakage", None)
    found = write()
    assert "Left out: the run's `figures.json` has no `foreign`." in found
    assert "| capsule frames rejected as foreign | ≥ 0.6 | - | not measured |" in found
    assert "**Not measured** in this run: what chance and leakage" in found


def test_a_name_from_a_table_cannot_become_markup(metrics: dict[str, Any], write: Callable[[], str]) -> None:
    metrics["recall_int8"] = {"<img src=//example.org>": {"frames": 1, "recall": 1.0}}
    found = write()
    assert "&lt;img" in found
    assert "<img" not in found


def test_the_committed_results_hold_the_tables_of_the_package_that_ships(metrics: dict[str, Any]) -> None:
    """Else `make report` was forgotten after a new training."""
    page = RESULTS.read_text(encoding="utf-8")
    for shown in (caveats(metrics), *tables(metrics).values()):
        assert shown in page
