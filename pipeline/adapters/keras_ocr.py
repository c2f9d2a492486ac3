"""Text detection by keras-ocr's CRAFT network, in a process and an environment of its own.

Its TensorFlow wants another numpy than ours, so it cannot live in this process: `keras_ocr_worker` runs under
the interpreter of ``make setup-keras-ocr``. Boxes only; nothing is ever read.
"""

import hashlib
import os
import select
import struct
import subprocess
import threading
from pathlib import Path
from time import monotonic
from typing import Self

import numpy as np

from pipeline.clean.text import Quad
from pipeline.errors import DetectorError
from pipeline.frame import Pixels

WEIGHTS_SHA256 = "7283ce2ff05a0617e9740c316175ff3bacdd7215dbdf1a726890d5099431f899"
"""SHA-256 of ``craft_mlt_25k.h5``, the weights that keras-ocr 0.9.3 calls ``clovaai_general``."""

WORKER = Path(__file__).with_name("keras_ocr_worker.py")

START_TIMEOUT_S = 120.0
"""TensorFlow is imported and the graph built in 8 s on an idle core."""

FRAME_TIMEOUT_S = 60.0
"""CRAFT takes 0.7 s for 720x576 on two cores."""

END_TIMEOUT_S = 2.0

LONGEST_ANSWER = 1 << 20
"""Bytes: 32,768 boxes. An answer that says it is longer is not the worker's."""


class KerasOcrText:
    """A `TextDetector`; may be shared by threads, which then wait for each other.

    The worker starts with the first frame, and anew after it failed. Close the detector, or use it as a
    context manager; a worker whose parent is gone ends by itself.

    Parameters
    ----------
    python
        Interpreter of the environment that has keras-ocr.
    weights
        ``craft_mlt_25k.h5``; never downloaded.

    Raises
    ------
    DetectorError
        There is no such interpreter, or the weights are not those. At a frame: the worker ended, or did not
        answer in time.
    """

    def __init__(
        self,
        python: Path,
        weights: Path,
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        frame_timeout_s: float = FRAME_TIMEOUT_S,
    ) -> None:
        if not os.access(python, os.X_OK):
            raise DetectorError(
                f"keras-ocr: an interpreter was expected at {python}, none was found; make setup-keras-ocr"
            )
        _check_weights(weights)
        self._command = [str(python), "-I", str(WORKER), str(weights)]
        self._start_timeout_s, self._frame_timeout_s = start_timeout_s, frame_timeout_s
        self._worker: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, pixels: Pixels) -> list[Quad]:
        """Return one rectangle a piece of text, in source pixels."""
        rows, columns = pixels.shape[:2]
        frame = struct.pack("<II", rows, columns) + pixels.tobytes()
        with self._lock:
            try:
                if self._worker is None:
                    self._worker = self._started()
                    _receive(self._worker, monotonic() + self._start_timeout_s)
                deadline = monotonic() + self._frame_timeout_s
                _send(self._worker, frame, deadline)
                boxes = _receive(self._worker, deadline)
                return list(np.frombuffer(boxes, "<f4").reshape(-1, 4, 2).astype(np.float32))
            except (OSError, ValueError) as error:
                self._end()
                raise DetectorError(
                    f"keras-ocr: boxes were expected of the worker, {error}; "
                    f"to see why, run: {' '.join(self._command)}"
                ) from error

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # Keras tells its progress there
            bufsize=0,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for pipe in _pipes(worker):
            os.set_blocking(pipe, False)
        return worker

    def _end(self) -> None:
        """End the worker by ending its input, else kill it: it inherited what signals we block."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with worker:
            if worker.stdin is not None:
                worker.stdin.close()
            try:
                worker.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.kill()


def _check_weights(weights: Path) -> None:
    if not weights.is_file():
        raise DetectorError(
            f"keras-ocr: weights were expected at {weights}, no file was found; see docs/keras-ocr.md"
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise DetectorError(
            f"keras-ocr: {weights} with SHA-256 {WEIGHTS_SHA256} was expected, {digest} was found; "
            "see docs/keras-ocr.md"
        )


def _pipes(worker: subprocess.Popen[bytes]) -> tuple[int, int]:
    if worker.stdin is None or worker.stdout is None:
        raise OSError("its pipes are closed")
    return worker.stdin.fileno(), worker.stdout.fileno()


def _send(worker: subprocess.Popen[bytes], message: bytes, deadline: float) -> None:
    to_worker, _ = _pipes(worker)
    left = memoryview(struct.pack("<I", len(message)) + message)
    while left:
        _wait(to_worker, select.POLLOUT, deadline)
        left = left[os.write(to_worker, left) :]


def _receive(worker: subprocess.Popen[bytes], deadline: float) -> bytes:
    (length,) = struct.unpack("<I", _read(worker, 4, deadline))
    if length > LONGEST_ANSWER:
        raise OSError(f"an answer of {length} bytes came")
    return _read(worker, length, deadline)


def _read(worker: subprocess.Popen[bytes], length: int, deadline: float) -> bytes:
    _, from_worker = _pipes(worker)
    message = b""
    while len(message) < length:
        _wait(from_worker, select.POLLIN, deadline)
        part = os.read(from_worker, length - len(message))
        if not part:
            raise OSError("it ended without an answer")
        message += part
    return message


def _wait(pipe: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, 1000 * (deadline - monotonic()))):
        raise OSError("no answer came in time")
