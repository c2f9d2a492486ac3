"""The keras-ocr side of the pipe: frames in, boxes out. It runs in keras-ocr's own environment.

``python -I keras_ocr_worker.py WEIGHTS``. Every message is its length (4 bytes, little-endian) and that many
bytes: an empty one from here once the weights are loaded; then for each frame (rows and columns as two such
integers, and ``rows x columns x 3`` bytes RGB) its boxes (float32, four x-y corners each). It ends when its
input does.
"""

import os
import struct
import sys
from typing import BinaryIO

import keras_ocr  # type: ignore[import-not-found]  # it is in the environment that this runs in
import numpy as np


def main(weights: str) -> None:
    """Answer frames until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Keras prints; what it prints must not reach the pipe
    detector = keras_ocr.detection.Detector(weights=None)  # named weights would be downloaded
    detector.model.load_weights(weights)
    _send(answers, b"")
    while header := sys.stdin.buffer.read(4):
        message = sys.stdin.buffer.read(struct.unpack("<I", header)[0])
        rows, columns = struct.unpack_from("<II", message)
        pixels = np.frombuffer(message, np.uint8, offset=8).reshape(rows, columns, 3)
        (boxes,) = detector.detect(images=[pixels], verbose=0)
        _send(answers, np.asarray(boxes, "<f4").tobytes())


def _send(answers: BinaryIO, message: bytes) -> None:
    answers.write(struct.pack("<I", len(message)) + message)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
