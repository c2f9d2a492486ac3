"""Inpainting networks in ONNX Runtime: LaMa and MI-GAN as they are published, weights by path and digest."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from pipeline.adapters.weights import read_weights
from pipeline.clean.fill import InpainterError, check_inpainter
from pipeline.frame import Pixels

SIDE = 512
"""Rows and columns of LaMa's export. The longer side of a frame is brought to it: the model's view, 0.56 of
the columns and 224 wide, still sees more filled pixels than it has itself."""

LAMA = {"image": "tensor(float)", "mask": "tensor(float)"}
MIGAN = {"image": "tensor(uint8)", "mask": "tensor(uint8)"}


class OnnxInpainter:
    """An `Inpainter`; may be shared by threads.

    What the graph takes says which of two it is, for the mask means the opposite:

    - LaMa: image float32 ``(N, 3, 512, 512)`` 0-1, mask float32, **1 = paint**; answers in 0-255.
    - MI-GAN's whole pipeline: image uint8 ``(1, 3, rows, columns)``, mask uint8, **255 = keep**, 0 = paint.

    Raises
    ------
    InpainterError
        The file is another one, takes something else, or does not paint the hole.
    """

    def __init__(self, network: Path, *, sha256: str, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                read_weights(network, sha256=sha256), options, providers=["CPUExecutionProvider"]
            )
        except (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf) as error:
            raise InpainterError(f"{network}: a runnable ONNX graph was expected: {error}") from error
        takes = {each.name: each.type for each in self._session.get_inputs()}
        if takes not in (LAMA, MIGAN):
            raise InpainterError(f"{network}: inputs {LAMA} or {MIGAN} were expected, {takes} was found")
        self._paint = self._by_lama if takes == LAMA else self._by_migan
        check_inpainter(self, str(network))

    def __call__(self, pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        """Paint what is unknown."""
        return self._paint(pixels, unknown)

    def _by_lama(self, pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        rows, columns = unknown.shape
        scale = SIDE / max(rows, columns)
        size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        touched = cv2.resize(unknown.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        rest = (0, SIDE - size[1], 0, SIDE - size[0])
        image = cv2.copyMakeBorder(small, *rest, cv2.BORDER_REPLICATE).transpose(2, 0, 1)[np.newaxis]
        mask = np.pad(touched, ((0, rest[1]), (0, rest[3])))[np.newaxis, np.newaxis]
        answer = self._run(image.astype(np.float32) / 255, mask.astype(np.float32))
        answered = np.clip(np.rint(answer), 0, 255).astype(np.uint8)[: size[1], : size[0]]
        painted: Pixels = cv2.resize(answered, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return painted

    def _by_migan(self, pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])
        keep = np.where(unknown, 0, 255).astype(np.uint8)[np.newaxis, np.newaxis]
        return self._run(image, keep).astype(np.uint8)

    def _run(self, image: NDArray[np.generic], mask: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what the graph gives, as ``(rows, columns, 3)``."""
        (answer,) = self._session.run(None, {"image": image, "mask": mask})
        painted: NDArray[np.generic] = answer[0].transpose(1, 2, 0)
        return painted
