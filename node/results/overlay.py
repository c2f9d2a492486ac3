"""A frame fitted to its place on a page, and the class activations laid over it."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from node.results.report import EvidencePanel
from pipeline.frame import Box, Pixels

OPACITY = 0.6
"""Of the strongest activation: tissue stays visible below it; what is not activated is not tinted."""

OUTLINE = (236, 238, 241)


def colour_map() -> Pixels:
    """Return viridis, which is perceptually uniform and safe for the colour-blind: ``(256, 3)`` uint8 RGB."""
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256)
    return cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)[0, :, ::-1].astype(np.uint8)


def fit(pixels: Pixels, rows: int, columns: int) -> Pixels:
    """Return the frame scaled, aspect ratio kept, to the largest size within ``rows x columns``.

    A frame that already has that size is returned pixel for pixel.
    """
    scale = min(rows / pixels.shape[0], columns / pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)


def overlay(panel: EvidencePanel, plain: Pixels) -> Pixels:
    """Return `plain`, the fitted frame, with the activations tinted in and what the model saw outlined.

    Activations are shown relative to the frame's strongest one; what speaks against the class is not tinted.
    """
    shown = plain.copy()
    x0, y0, x1, y1 = _scaled(panel.view_box, plain.shape[1] / panel.pixels.shape[1])
    if panel.cam is not None:
        strength = _relative(panel.cam, rows=y1 - y0, columns=x1 - x0)
        tint = colour_map()[np.rint(strength * 255).astype(np.uint8)]
        alpha = OPACITY * strength[..., None]
        below = plain[y0:y1, x0:x1]
        shown[y0:y1, x0:x1] = np.rint(below * (1 - alpha) + tint * alpha).astype(np.uint8)
    cv2.rectangle(shown, (x0, y0), (x1 - 1, y1 - 1), OUTLINE, 1)
    return shown


def _relative(cam: NDArray[np.float32], *, rows: int, columns: int) -> NDArray[np.float64]:
    """Return the activations at the box's size, negative ones cut off, 0-1 of the strongest."""
    large = np.maximum(cv2.resize(cam, (columns, rows), interpolation=cv2.INTER_CUBIC), 0.0)
    strongest = float(large.max())
    return large / strongest if strongest > 0 else np.zeros((rows, columns))


def _scaled(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (round(edge * scale) for edge in box)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
