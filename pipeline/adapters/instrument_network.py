"""Instruments found by the segmentation network of a package, in ONNX Runtime."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.frame import Pixels
from pipeline.network_package import MODEL, NetworkPackageError, Rules, open_network_package

SHIPPED = Path(__file__).parents[1] / "instruments"

RESIZE = "the whole frame, by area"

LARGEST_SIDE = 1024
"""Rows or columns of an input above which a graph is no network for a frame a few milliseconds long."""


def _is_side(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= LARGEST_SIDE


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


RULES: Rules = {
    "task": (lambda value: value == "segmentation", "'segmentation'"),
    "classes": (lambda value: value == ["instrument"], "'instrument'"),
    "input.rows": (_is_side, f"a whole number from 1 to {LARGEST_SIDE}"),
    "input.columns": (_is_side, f"a whole number from 1 to {LARGEST_SIDE}"),
    "preprocessing.resize": (lambda value: value == RESIZE, repr(RESIZE)),
    "outputs": (lambda value: value == ["logits"], "'logits'"),
    "decision.logit": (_is_number, "a number"),
    "decision.peak_logit": (_is_number, "a number"),
    "decision.least_share": (lambda value: _is_number(value) and 0 <= value < 1, "a share of the frame"),
}
"""What a segmentation network's manifest must hold."""


class InstrumentNetwork:
    """An `InstrumentDetector`; may be shared by threads.

    Parameters
    ----------
    folder
        A package; None means the one that ships.
    threads
        Threads within one frame; 1 where the caller runs a thread a core.

    Attributes
    ----------
    digest
        Names the package: SHA-256 of its manifest.

    Raises
    ------
    NetworkPackageError
        A file of the package is missing or altered, or it is no segmentation network.
    """

    def __init__(self, folder: Path | None = None, *, threads: int = 1) -> None:
        folder = SHIPPED if folder is None else folder
        package = open_network_package(folder, rules=RULES)
        self.digest = package.digest
        taken, decision = package.manifest["input"], package.manifest["decision"]
        self._size = (taken["columns"], taken["rows"])
        self._logit, self._peak = decision["logit"], decision["peak_logit"]
        self._least = decision["least_share"] * taken["rows"] * taken["columns"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # it would save nothing: 1.99 ms a frame with it, 2.01 without
        try:
            self._session = ort.InferenceSession(
                package.read(MODEL), sess_options=options, providers=["CPUExecutionProvider"]
            )
            (only,) = self._session.get_inputs()
        except Exception as error:  # ONNX Runtime's own errors share no base
            raise NetworkPackageError(
                f"{folder / MODEL}: a runnable ONNX graph was expected: {error}"
            ) from error
        expected = (["N", taken["rows"], taken["columns"], 3], "tensor(uint8)")
        if (only.shape, only.type) != expected:
            raise NetworkPackageError(
                f"{folder / MODEL}: an input of {expected} was expected, {(only.shape, only.type)} was found"
            )
        self._input = only.name

    def __call__(self, pixels: Pixels) -> NDArray[np.bool_]:
        """Return ``(rows, columns)`` bool, True on instruments."""
        rows, columns = pixels.shape[:2]
        logits = self._kept(self.logits(pixels))
        if logits is None:
            return np.zeros((rows, columns), np.bool_)
        full = cv2.resize(logits, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return np.asarray(full > self._logit)

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return the network's own map, ``(rows, columns)`` float32 of its input's size."""
        resized = cv2.resize(pixels, self._size, interpolation=cv2.INTER_AREA)
        (logits,) = self._session.run(["logits"], {self._input: resized[np.newaxis]})
        return np.asarray(logits[0, 0])

    def _kept(self, logits: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Push small and doubtful pieces below the decision; return None where no piece is left."""
        count, labels, stats, _ = cv2.connectedComponentsWithStats((logits > self._logit).astype(np.uint8))
        peaks = np.full(count, -np.inf, np.float32)
        np.maximum.at(peaks, labels.ravel(), logits.ravel())
        kept = (stats[:, cv2.CC_STAT_AREA] >= self._least) & (peaks >= self._peak)
        kept[0] = False
        if not kept.any():
            return None
        dropped = ~kept
        dropped[0] = False
        return np.where(dropped[labels], np.float32(self._logit - 1), logits)
