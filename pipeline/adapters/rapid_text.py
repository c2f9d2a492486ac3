"""Text detection by the network in RapidOCR's wheel: offline, boxes only; nothing is ever read."""

import hashlib
import threading
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.clean.text import Quad
from pipeline.errors import DetectorError
from pipeline.frame import Pixels

NETWORK = "PP-OCRv6_det_small.onnx"
NETWORK_SHA256 = "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
"""SHA-256 of the detection network in rapidocr 3.10.0 (Apache-2.0)."""

SHORT_SIDE = 576
LONGEST_SIDE = 2048
"""Pixels the frame's short side is brought to, and the long side at most. Of the letters' pixels, a side of
544 finds 0.4 % fewer in 0.9 of the time, one of 480 1.8 % fewer in 0.65."""

STROKE_SIDE = 13
STROKE_GAIN = 2.0
TISSUE_SHARE = 0.2
"""What the network sees: strokes (white top-hat, wider than any stroke at 576 rows) at twice their height,
over a fifth of the frame. 106 real frames of 720x576 with six strings of 9 to 28 px painted on each, side
544, top-hat 21: the frame as it is finds 0.958 of the letters' pixels, this 0.980, for reflections no longer
hide what stands beside them. With none of the frame it is 0.1 % less, with two fifths 1 %. Dark letters are
found as well (0.972; 0.979 on the frame as it is), red ones better (0.85; 0.74). 40 frames each with usual
strings, with short ones, and with short ones on tissue brightened up to glare: a top-hat of 21 wholly misses
6 of 240, 17 of 240 and 70 of 234, and masks 0.29 % of what is far from text; one of 13 misses 5, 18, 65 and
masks 0.24 %; one of 9 misses 4, 22, 66. A wide one swells the strip between text and the scope box."""

STRIDE = 32
"""Rows and columns the network takes are multiples of this."""

BINARISED_AT = 0.3
UNCLIP_RATIO = 1.6
"""Differentiable Binarization (Liao et al. 2020, section 3.5): the shrunken text region is the map above it;
a box is grown by area x ratio / perimeter. The ratio is RapidOCR's own setting for this network."""

LEAST_MEAN = 0.4
"""Mean of the map within a box from which it is text. 316 frames: 0.4 finds 0.9825 of the letters' pixels;
0.35, binarised at 0.25, 0.9832, and an eighth more tissue far from any string."""


class RapidText:
    """A `TextDetector`; may be shared by threads, which take turns: a detection fills 100 MB and more.

    Parameters
    ----------
    threads
        Threads within one detection.

    Raises
    ------
    DetectorError
        RapidOCR is not installed, or its network is another one.
    """

    def __init__(self, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            _network(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._turn = threading.Lock()

    def __call__(self, pixels: Pixels) -> list[Quad]:
        """Return one rectangle a piece of text, in source pixels."""
        rows, columns = pixels.shape[:2]
        scale = min(SHORT_SIDE / min(rows, columns), LONGEST_SIDE / max(rows, columns))
        size = (_multiple(columns * scale), _multiple(rows * scale))
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        square = np.ones((STROKE_SIDE, STROKE_SIDE), np.uint8)
        strokes = cv2.morphologyEx(resized, cv2.MORPH_TOPHAT, square)
        shown = cv2.addWeighted(strokes, STROKE_GAIN, resized, TISSUE_SHARE, 0)
        tensor = (shown[..., ::-1].astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[np.newaxis]
        with self._turn:
            (maps,) = self._session.run(None, {self._input: np.ascontiguousarray(tensor)})
        stretch = np.array((columns / size[0], rows / size[1]), np.float32)
        return [quad * stretch for quad in _rectangles(maps[0, 0])]


def _network() -> bytes:
    """Return the network's bytes, checked; RapidOCR itself is not imported (it takes a second, and logs)."""
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise DetectorError(
            "text detector: the package rapidocr was expected and is not installed; install it"
        )
    network = (Path(spec.origin).parent / "models" / NETWORK).read_bytes()
    digest = hashlib.sha256(network).hexdigest()
    if digest != NETWORK_SHA256:
        raise DetectorError(
            f"text detector: {NETWORK} with SHA-256 {NETWORK_SHA256} was expected, {digest} was found; "
            "install rapidocr 3.10.0"
        )
    return network


def _multiple(length: float) -> int:
    return max(1, round(length / STRIDE)) * STRIDE


def _rectangles(probabilities: NDArray[np.float32]) -> list[Quad]:
    shrunken = (probabilities > BINARISED_AT).astype(np.uint8)
    contours, _ = cv2.findContours(shrunken, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    quads: list[Quad] = []
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour.reshape(-1, 1, 2))
        corners = np.rint(cv2.boxPoints((centre, (width, height), angle))).astype(np.int32)
        if _mean_within(probabilities, corners) < LEAST_MEAN:
            continue
        growth = (width + 1) * (height + 1) * UNCLIP_RATIO / (width + height + 2)
        grown = cv2.boxPoints((centre, (width + 1 + growth, height + 1 + growth), angle))
        quads.append(grown.astype(np.float32))
    return quads


def _mean_within(probabilities: NDArray[np.float32], corners: NDArray[np.int32]) -> float:
    rows, columns = probabilities.shape
    left, top = np.clip(corners.min(axis=0), 0, (columns - 1, rows - 1))
    right, bottom = np.clip(corners.max(axis=0), 0, (columns - 1, rows - 1))
    inside = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillConvexPoly(inside, (corners - (left, top)).reshape(-1, 1, 2), 1)
    return cv2.mean(probabilities[top : bottom + 1, left : right + 1], mask=inside)[0]
