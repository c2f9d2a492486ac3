"""``python -m models`` as its users run it: in a process of its own, with the core install alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from tests.painted_dataset import read_rows, write_dataset

ROOT = Path(__file__).resolve().parents[2]
CORE_ALONE = """
import sys, runpy
class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "monai", "sklearn", "scipy", "onnx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""
"""A process that runs this has none of the packages that only training needs."""

EVALUATE = CORE_ALONE + 'runpy.run_module("models", run_name="__main__", alter_sys=True)'


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 12 frames of four patients, of which one frame is torn."""
    folder = tmp_path_factory.mktemp("frames")
    write_dataset(folder)
    (folder / "p1/05.jpg").write_bytes(b"torn")
    return folder


def test_evaluate_needs_the_core_alone_and_its_tables_bear_its_figures_out(
    folder: Path, tmp_path: Path
) -> None:
    done = run(
        EVALUATE,
        "evaluate",
        "--dataset",
        folder / "frames.csv",
        "--root",
        folder,
        "--out",
        tmp_path,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert "warning: 1 of 12 frames could not be decoded" in done.stderr
    rows, patients = read_rows(tmp_path / "frames.csv"), read_rows(tmp_path / "patients.csv")
    assert [row["reason"] for row in rows] == ["undecodable" if number == 5 else "" for number in range(12)]
    assert found["counts"]["kept"] == sum(row["kept"] == "true" for row in rows) == 11
    healthy, ibd = (
        np.array([float(row["probability"]) for row in rows if row["label"] == label and row["probability"]])
        for label in ("healthy", "ibd")
    )
    auc = np.mean((ibd[:, None] > healthy) + 0.5 * (ibd[:, None] == healthy))
    assert found["frame"]["auc"]["value"] == pytest.approx(auc, abs=1e-4)
    right = [(row["reading"] == row["label"]) for row in patients]
    assert found["patient"]["accuracy"]["value"] == pytest.approx(np.mean(right), abs=1e-4)
    silent = [row["reading"] == "unpredicted" for row in patients]
    assert found["counts"]["unpredicted"] == sum(silent)
    assert found["patient"]["unpredicted"]["value"] == pytest.approx(np.mean(silent), abs=1e-4)


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """Run the command in this process, which is quicker, and return what it exits with."""
    monkeypatch.setattr(sys, "argv", ["models", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_without_json_people_get_a_short_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "frames.csv"
    assert run_here(monkeypatch, "evaluate", "--dataset", table, "--root", folder, "--out", tmp_path) == 0
    said = capsys.readouterr().out.splitlines()
    assert "11 of 12 frames read, 1 undecodable; 4 patients" in said[0]
    assert [line.split()[:2] for line in said[1:3]] == [["frame", "auc"], ["frame", "mcc"]]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["--labels", "healthy"], "error: --labels: name=value,name=value was expected, 'healthy' was found"),
        (["--columns", "label=fold"], "frames.csv, line 2: fold: healthy, ibd were expected, '0' was found"),
        (["--package", "/nowhere"], "error: /nowhere: the model package lacks a readable model.json"),
        (["--dataset", "/nowhere.csv"], "error: /nowhere.csv: a table was expected: No such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], said: str
) -> None:
    table = folder / "frames.csv"
    found = run_here(monkeypatch, "evaluate", "--dataset", table, "--root", folder, "--out", tmp_path, *told)
    assert isinstance(found, str)
    assert said in found
    assert "\n" not in found


def test_a_verb_that_needs_torch_says_how_to_get_it() -> None:
    code = "import models.__main__ as m; m.add_training_verb('fit', 'Fit.'); m.main()"
    done = run(CORE_ALONE + code, "fit", "--epochs", "3")
    assert done.returncode == 1
    assert done.stderr == (
        "error: fit: the package torch was expected, it is not installed; run: pip install endonode[train]\n"
    )
