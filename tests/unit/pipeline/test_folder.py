"""Folders cleaned from the command line: what is written, and what is said of what cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.pipeline.conftest import Mucosa, Write


def clean(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "clean", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def folder(tmp_path: Path, mucosa: Mucosa) -> Path:
    """Return a folder of two painted frames, one of them with text, a flat one and a broken file."""
    source = tmp_path / "in"
    (source / "more").mkdir(parents=True)
    plain = mucosa(400, 480, 1)
    written = cv2.putText(
        plain.copy(), "12/03/2013", (250, 200), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255,) * 3, 2
    )
    for name, picture in (("a.png", plain), ("more/a.jpg", written), ("flat.bmp", np.full_like(plain, 150))):
        cv2.imwrite(str(source / name), picture[..., ::-1])
    (source / "torn.png").write_bytes(b"\x89PNG torn")
    (source / "notes.txt").write_text("no image", encoding="utf-8")
    return source


def test_a_folder_gives_clean_frames_masks_and_a_ledger_in_the_sources_geometry(
    folder: Path, tmp_path: Path
) -> None:
    """Outside the mask the clean frame is the source, pixel by pixel: that is what the mask means."""
    out = tmp_path / "out"
    done = clean(folder, out, "--geometry", "source")
    assert done.returncode == 1, "one file could not be decoded"
    assert "4 frames: 2 kept, 1 rejected, 1 undecodable" in done.stderr
    lines = {line["name"]: line for line in map(json.loads, (out / "ledger.jsonl").read_text().splitlines())}
    assert list(lines) == ["a", "flat", "more_a", "torn"]
    assert [lines[name]["kept"] for name in lines] == [True, False, True, False]
    assert (lines["flat"]["reason"], lines["torn"]["reason"]) == ("solid_colour", "undecodable")
    assert lines["a"]["content_area"] == [0, 0, 480, 400]
    assert {path.name for path in (out / "clean").iterdir()} == {"a.png", "more_a.png"}
    for stem, name in (("a", "a.png"), ("more_a", "more/a.jpg")):
        before, after = cv2.imread(str(folder / name)), cv2.imread(str(out / "clean" / f"{stem}.png"))
        mask = cv2.imread(str(out / "mask" / f"{stem}.png"), cv2.IMREAD_GRAYSCALE)
        assert before is not None
        assert after is not None
        assert mask is not None
        assert set(np.unique(mask)) <= {0, 255}
        assert (before == after)[mask == 0].all()
        assert bool(mask.any()) == (stem == "more_a")
    sheet = cv2.imread(str(out / "contact-sheet.png"))
    assert sheet is not None
    assert sheet.std() > 20


def test_an_instance_of_two_frames_is_cleaned_to_the_models_geometry(
    instance_of: Write, mucosa: Mucosa, tmp_path: Path
) -> None:
    pixels = np.stack([mucosa(400, 480, seed) for seed in (1, 2)])
    path = instance_of(pixels.tobytes(), Rows=400, Columns=480, NumberOfFrames="2")
    done = clean(path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "out" / "clean").iterdir()) == [
        "instance_00001.png",
        "instance_00002.png",
    ]
    first = cv2.imread(str(tmp_path / "out" / "clean" / "instance_00001.png"))
    assert first is not None
    assert first.shape == (224, 224, 3)


@pytest.mark.parametrize("arguments", [["absent", "out"], [".", "out", "--recipe", "absent.toml"]])
def test_what_cannot_be_done_is_one_clear_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "clean", *arguments], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: absent")
    assert done.stderr.count("\n") == 1
