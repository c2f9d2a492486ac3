import ast
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from pipeline.adapters import keras_ocr
from pipeline.adapters.keras_ocr import WORKER, KerasOcrText
from pipeline.errors import DetectorError
from pipeline.frame import Pixels

STAND_IN = '''
import os, time
from pathlib import Path
from types import SimpleNamespace

import numpy as np


class Detector:
    """Takes what keras-ocr's takes; its one box tells the frame's size, and a first pixel what goes wrong."""

    def __init__(self, weights="clovaai_general"):
        assert weights is None, "named weights are downloaded"
        self.model = SimpleNamespace(load_weights=self.load)

    def load(self, path):
        assert Path(path).read_bytes() == b"weights"
        print("loaded: Keras prints to standard output")

    def detect(self, images, verbose=1):
        (image,) = images
        rows, columns, _ = image.shape
        print("1/1 [=====]")
        if image[0, 0, 0] == 1:
            os._exit(3)
        if image[0, 0, 0] == 2:
            time.sleep(600)
        if image[0, 0, 0] == 3:
            return [np.zeros((0, 4, 2))]
        whole = [(0, 0), (columns, 0), (columns, rows), (0, rows)]
        return [np.array([whole, [(1, 2), (3, 2), (3, 4), (1, 4)]])]


detection = SimpleNamespace(Detector=Detector)
'''
REAL_PYTHON = Path(
    os.environ.get(
        "ENDONODE_KERAS_PYTHON", Path(__file__).resolve().parents[4] / ".venv-keras-ocr/bin/python"
    )
)


def frame(first: int = 0, *, rows: int = 40, columns: int = 60) -> Pixels:
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[0, 0] = first
    return pixels


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return an interpreter that has a `keras_ocr` of ours."""
    (tmp_path / "keras_ocr.py").write_text(STAND_IN)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" -P "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "craft.h5"
    path.write_bytes(b"weights")
    monkeypatch.setattr(keras_ocr, "WEIGHTS_SHA256", hashlib.sha256(b"weights").hexdigest())
    return path


@pytest.fixture
def detector(python: Path, weights: Path) -> Iterator[KerasOcrText]:
    with KerasOcrText(python, weights, frame_timeout_s=20) as opened:
        yield opened


def test_boxes_come_back_for_the_frame_they_belong_to(detector: KerasOcrText) -> None:
    """A frame of a megabyte is more than a pipe holds; a slip in a length would shift all that follows."""
    for rows, columns in [(40, 60), (576, 720), (1, 1)]:
        whole, small = detector(frame(rows=rows, columns=columns))
        assert whole.tolist() == [[0, 0], [columns, 0], [columns, rows], [0, rows]]
        assert small.tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
        assert whole.dtype == np.float32
    assert detector(frame(3)) == []


def test_one_worker_serves_all_frames(detector: KerasOcrText) -> None:
    detector(frame())
    first = detector._worker
    detector(frame())
    assert detector._worker is first


def test_a_worker_that_dies_is_one_error_and_the_next_frame_has_another(detector: KerasOcrText) -> None:
    with pytest.raises(DetectorError, match="it ended without an answer; to see why, run: "):
        detector(frame(1))
    assert len(detector(frame())) == 2


def test_a_worker_that_hangs_is_ended(python: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node must never wait for ever on one frame."""
    monkeypatch.setattr(keras_ocr, "END_TIMEOUT_S", 0.1)
    with KerasOcrText(python, weights, frame_timeout_s=20) as detector:
        detector(frame())
        worker = detector._worker
        assert worker is not None
        detector._frame_timeout_s = 0.3
        began = monotonic()
        with pytest.raises(DetectorError, match="no answer came in time"):
            detector(frame(2))
        assert monotonic() - began < 5
        assert worker.poll() == -signal.SIGKILL


def test_a_worker_that_cannot_start_is_one_error(python: Path, weights: Path) -> None:
    (python.parent / "keras_ocr.py").write_text("raise ImportError('numpy 2')")
    with (
        KerasOcrText(python, weights) as detector,
        pytest.raises(DetectorError, match=r"keras_ocr_worker\.py"),
    ):
        detector(frame())


def test_close_ends_the_worker_even_where_signals_are_blocked(python: Path, weights: Path) -> None:
    """The node's workers block SIGTERM, and a child inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        detector = KerasOcrText(python, weights)
        detector(frame())
        worker = detector._worker
        assert worker is not None
        detector.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert worker.poll() == 0


def test_other_weights_are_refused_before_anything_starts(python: Path, weights: Path) -> None:
    """keras-ocr itself would download over them."""
    weights.write_bytes(b"others")
    with pytest.raises(DetectorError, match=r"craft\.h5 with SHA-256 \w{64} was expected, \w{64} was found"):
        KerasOcrText(python, weights)


def test_what_is_missing_is_named(python: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"weights were expected at .*none\.h5"):
        KerasOcrText(python, tmp_path / "none.h5")
    with pytest.raises(DetectorError, match="make setup-keras-ocr"):
        KerasOcrText(tmp_path / "no-python", weights)


def test_the_worker_imports_nothing_of_ours() -> None:
    """Its environment has neither this project nor OpenCV 5."""
    imported = {
        (name.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(WORKER.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported - sys.stdlib_module_names == {"numpy", "keras_ocr"}


def test_the_real_network_answers_with_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in proves the pipe; only CRAFT's own graph proves the calls made on it."""
    if not REAL_PYTHON.exists():
        pytest.skip(
            f"keras-ocr's environment is needed: {REAL_PYTHON} is not there; run make setup-keras-ocr"
        )
    weights = tmp_path / "random.h5"
    save = "import sys, keras_ocr; keras_ocr.detection.Detector(weights=None).model.save_weights(sys.argv[1])"
    subprocess.run([REAL_PYTHON, "-I", "-c", save, weights], check=True, capture_output=True, timeout=200)
    monkeypatch.setattr(keras_ocr, "WEIGHTS_SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    with KerasOcrText(REAL_PYTHON, weights) as detector:
        for rows, columns in [(96, 160), (101, 75)]:
            for quad in detector(frame(200, rows=rows, columns=columns)):
                assert quad.shape == (4, 2)
        assert detector._worker is not None
