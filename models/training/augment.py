"""Views as another day would show them: turned, mirrored, in other light and colour."""

import cv2
import numpy as np
from numpy.typing import NDArray

LIGHT, COLOUR, CONTRAST = 0.15, 0.08, 0.2
"""Most that all channels, each channel, and the exponent of the levels differ, as a share."""


def augment(view: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a ``(side, side, 3)`` uint8 view in one of its eight positions, in changed light and colour."""
    turned = np.rot90(view, int(generator.integers(4)))
    if generator.integers(2):
        turned = turned[:, ::-1]
    gains = (1 + LIGHT * generator.uniform(-1, 1)) * (1 + COLOUR * generator.uniform(-1, 1, 3))
    exponent = 1 + CONTRAST * generator.uniform(-1, 1)
    table = 255 * np.clip(np.arange(256)[:, None] / 255 * gains, 0, 1) ** exponent
    levels = np.rint(table).astype(np.uint8)[np.newaxis]
    return np.asarray(cv2.LUT(np.ascontiguousarray(turned), levels), np.uint8)
