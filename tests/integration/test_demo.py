"""The first minutes of an operator: the demo, and how soon a node listens."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from pydicom import dcmread

from node.demo.painting import paint_frame
from node.settings import load_settings

READY_WITHIN_S = 2.0


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_demo_ends_with_a_result_and_leaves_everything_behind(tmp_path: Path) -> None:
    """`make demo` is this command; what it prints is what somebody new believes of the node."""
    done = demo("--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr + done.stdout
    (folder,) = (tmp_path / "out").iterdir()
    results = {dcmread(path).Modality: path for path in (folder / "archive").iterdir()}
    assert set(results) == {"OT", "SR", "KO"}
    assert dcmread(results["OT"]).ContentQualification == "RESEARCH"
    for said in (
        *map(str, results.values()),
        str(folder / "secondary-capture.png"),
        str(folder / "endonode.db"),
        "not a diagnosis",
    ):
        assert said in done.stdout
    assert "23 kept, 1 rejected" in done.stdout, "the blurred frame, and no other, is rejected"
    assert "completeness       complete" in done.stdout
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", load_settings(folder / "settings.toml").port)) != 0, "it stops"


def test_the_demo_reads_a_folder_of_images_too(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        painted = paint_frame(number, ulcers=True, instrument=False, text=None, rows=288, columns=360)
        cv2.imwrite(str(frames / f"{number}.png"), painted[..., ::-1])
    done = demo("--frames", str(frames), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "sent 3 images" in done.stdout


def test_a_folder_without_images_is_one_clear_line(tmp_path: Path) -> None:
    """It is seen before a node is started and a folder made."""
    for folder in (tmp_path, tmp_path / "absent"):
        done = demo("--frames", str(folder), "--out", str(tmp_path / "out"))
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "folder of images" in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def _seconds_until_it_listens(config: Path, port: int) -> float:
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "serve", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        while time.monotonic() - begun < 30:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return time.monotonic() - begun
            time.sleep(0.02)
        pytest.fail("the node did not listen within 30 s")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, "SIGTERM is a way to stop, not an error"


@pytest.mark.alone
def test_a_node_listens_within_two_seconds(tmp_path: Path) -> None:
    """A restart must not be noticed by a PACS; the best of three, since others may use this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    config = tmp_path / "endonode.toml"
    config.write_text(
        f'port = {port}\nhttp_port = 0\nstorage_dir = "{tmp_path}/store"\ndatabase_url = "sqlite:///{tmp_path}/node.db"\n'
        '[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
    )
    _seconds_until_it_listens(config, port)  # the first start makes the tables
    assert min(_seconds_until_it_listens(config, port) for _ in range(3)) < READY_WITHIN_S
