"""Every training verb in turn on painted frames: from a table to a package that a node loads."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from models.classifier import Classifier
from models.errors import ModelError
from models.package import load_package
from models.training.calibrate import app as calibrate
from models.training.package import app as package
from models.training.quantize import app as quantize
from models.training.report import app as report
from models.training.train import app as train
from tests.painted_dataset import read_rows, write_dataset, write_rows

pytestmark = pytest.mark.data

WEIGHTS = "weights/mobilenet_v2_imagenet_dequant_fp32.onnx"
SETTINGS = "frozen = 18\nvariants = 2\nepochs = 4\nbatch = 8\nrate = 1e-3\nhead_rate = 1e-2\ndropout = 0.0\n"


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder after train, quantize and calibrate on 12 patients in three folds."""
    folder = tmp_path_factory.mktemp("run")
    table = write_dataset(folder / "data", patients=12, frames=3)
    rows = read_rows(table)
    folds = [str(int(row["patient"][1:]) // 2 % 3) for row in rows]
    write_rows(
        table, [[*rows[0]], *([*[*row.values()][:-1], fold] for row, fold in zip(rows, folds, strict=True))]
    )
    (folder / "train.toml").write_text(SETTINGS)
    (folder / "quantise.toml").write_text("frames = 8\n")
    invoke(train, "--dataset", table, "--root", folder / "data", "--out", folder / "run",
           "--settings", folder / "train.toml", "--seeds", 1, "--weights", data_dir / WEIGHTS)  # fmt: skip
    invoke(quantize, "--run", folder / "run", "--settings", folder / "quantise.toml")
    invoke(calibrate, "--run", folder / "run")
    return folder / "run"


def invoke(app: Typer, *arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_ends_in_a_package_that_loads_and_reads(run: Path, tmp_path: Path) -> None:
    invoke(package, "--run", run, "--out", tmp_path, "--name", "painted")
    opened = load_package(tmp_path)
    views = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), np.uint8)
    scores = Classifier(opened).score(views)
    assert scores.cam is not None
    bias = scores.logits - scores.cam.mean(axis=(2, 3))
    assert np.abs(bias - bias[0]).max() < 1e-4
    assert len(opened.read("frames.sha256").split()) == 36
    assert opened.manifest["metrics"]["frame_int8"]["auc"]["value"] > 0.8  # 0.90; chance is 0.5
    assert "Small samples" in (tmp_path / "MODEL_CARD.md").read_text()


def test_no_frame_is_scored_or_calibrated_by_a_network_that_has_seen_its_fold(run: Path) -> None:
    """Every figure would be too good."""
    fold_of = {row["path"]: row["fold"] for row in read_rows(run.parent / "data" / "frames.csv")}
    for row in read_rows(run / "int8.csv"):
        expected = row["fold"] if row["part"] == "outer" else str((int(row["fold"]) + 1) % 3)
        assert fold_of[row["path"]] == expected
    out_of_fold = read_rows(run / "oof_int8.csv")
    assert sorted(row["path"] for row in out_of_fold) == sorted(fold_of)
    choices = {(row["fold"], row["temperature"], row["threshold"]) for row in out_of_fold}
    assert len(choices) == 3


def test_integers_read_nearly_as_the_float_network_does(run: Path) -> None:
    floats, integers = (
        np.array([float(row["margin"]) for row in read_rows(run / f"{side}.csv")])
        for side in ("float", "int8")
    )
    assert np.abs(floats - integers).max() < 0.25 * np.ptp(floats)
    assert not (floats == integers).all()


class Page(HTMLParser):
    """A page's open elements, links and sources, headings and pictures' words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.links: list[str] = []
        self.heads: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element names; a picture without words gives an empty one."""
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        self.words += [dict(attrs)["alt"] or ""] if tag == "img" else []
        self.opened += [tag] if tag not in {"meta", "img"} else []

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element, which must be of that name."""
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a heading."""
        self.heads += [data] if self.opened and self.opened[-1] in {"h1", "h2"} else []


def test_the_report_is_one_page_that_loads_nothing_and_names_no_patient(run: Path, tmp_path: Path) -> None:
    """It is opened where there is no network, and handed on by people who do not look at its source."""
    (tmp_path / "findings.md").write_text("The *sun* was tried.\n")
    invoke(report, "--run", run, "--findings", tmp_path / "findings.md", "--results", tmp_path / "results.md")
    text, tables = (run / "report.html").read_text(), (tmp_path / "results.md").read_text()
    page = Page(text)
    assert page.opened == []
    assert all(link.startswith(("#part-", "data:image/png;base64,")) for link in page.links)
    assert all(page.words)
    assert len(page.words) == len([*(run / "plots").iterdir()]) >= 12
    assert page.heads[:3] == ["How well the classifier reads", "What the figures cannot say",
                              "What was aimed at, and what was found"]  # fmt: skip
    assert [*page.heads[:-2], page.heads[-1]] == re.findall(r"^##? (.*)", tables, re.MULTILINE)
    assert page.heads[-2] == "Examples"  # frames stay out of what may be published
    assert "<em>sun</em>" in text
    for said in (re.sub(r"base64,[^\"]*", "", text), tables):
        assert not re.search(r"\bP\d+\b|scene-|\.jpg|https?:|//", said)


def test_a_finished_run_trains_nothing_again(run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (run / "models").glob("*.pt")}
    plan = json.loads((run / "plan.json").read_text())
    invoke(train, "--dataset", plan["dataset"], "--root", plan["root"], "--out", run,
           "--settings", run.parent / "train.toml", "--seeds", 1, "--weights", plan["weights"])  # fmt: skip
    assert {file: file.stat().st_mtime_ns for file in (run / "models").glob("*.pt")} == before


def test_a_run_of_another_plan_is_left_alone(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    with pytest.raises(ModelError, match=r"plan\.json: the same settings were expected"):
        invoke(train, "--dataset", plan["dataset"], "--root", plan["root"], "--out", run, "--seeds", 2)


def test_networks_quantised_otherwise_are_not_taken_for_what_is_asked(run: Path) -> None:
    """The graphs are there already, and would be read as if they were of the new settings."""
    with pytest.raises(ModelError, match=r"quantising\.json: the same settings were expected"):
        invoke(quantize, "--run", run)


def test_a_dry_run_prints_minutes_and_trains_nothing(run: Path, tmp_path: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    said = invoke(train, "--dataset", plan["dataset"], "--root", plan["root"], "--out", tmp_path,
                  "--settings", run.parent / "train.toml", "--dry-run")  # fmt: skip
    assert said.endswith("minutes\n")
    assert not (tmp_path / "models").exists()
