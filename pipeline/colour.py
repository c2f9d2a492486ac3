"""Turn decoded samples of any photometric interpretation into 8-bit RGB with square pixels."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut

from pipeline.codecs import Samples
from pipeline.frame import Pixels
from pipeline.instance import Instance, no_warnings

BYTE = 8
COLOURS = 3
FULL_RANGE_YBR = frozenset({"YBR_FULL", "YBR_FULL_422"})

MOST_STRETCH = 4.0
"""Ratio of a pixel's sides beyond which the header is not believed; broadcast video reaches 1.46."""


def to_rgb(samples: Samples, instance: Instance) -> Pixels:
    """Return ``(rows, columns, 3)`` uint8 RGB (PS3.3 C.7.6.3.1.2); overlays (60xx) are never drawn.

    Raises
    ------
    DecodeError
        The photometric interpretation is none that is a picture, or does not fit the number of samples.
    """
    values, count = samples.values, samples.values.shape[2]
    if count == 1 and samples.photometric == "PALETTE COLOR":
        with no_warnings():
            entries = apply_color_lut(values[..., 0], instance.dataset)
        return _to_8_bit(entries, entries.dtype.itemsize * BYTE)
    if count == 1 and samples.photometric in {"MONOCHROME1", "MONOCHROME2"}:
        return np.repeat(_grey(samples, instance), 3, axis=2)
    if count == COLOURS and samples.photometric == "RGB":
        return _to_8_bit(values, samples.bits)
    if count == COLOURS and samples.photometric in FULL_RANGE_YBR:
        ycrcb = np.ascontiguousarray(_to_8_bit(values, samples.bits)[..., (0, 2, 1)])
        return np.asarray(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB), np.uint8)
    raise instance.error(
        "RGB, YBR_FULL, MONOCHROME or PALETTE COLOR", f"{samples.photometric} of {count} samples"
    )


def square(pixels: Pixels, ratio: float) -> Pixels:
    """Resample to square pixels; `ratio` is a pixel's height over its width. Nothing is made smaller."""
    if ratio == 1.0 or not 1 / MOST_STRETCH <= ratio <= MOST_STRETCH:
        return pixels
    rows, columns = pixels.shape[:2]
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def pixel_ratio(instance: Instance) -> float:
    """Return a pixel's height over its width, by Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7); 1.0 if unsaid."""
    stated = instance.dataset.get("PixelAspectRatio")
    if not stated or min(stated) <= 0:
        return 1.0
    vertical, horizontal = stated
    return float(vertical) / float(horizontal)


def _to_8_bit(values: NDArray[Any], bits: int) -> Pixels:
    if bits > BYTE:
        return (values >> (bits - BYTE)).astype(np.uint8)
    if bits < BYTE:
        return (values.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)
    return values.astype(np.uint8, copy=False)


def _grey(samples: Samples, instance: Instance) -> Pixels:
    """Rescale, window (PS3.3 C.11.2.1.2.1, linear) and, for MONOCHROME1, invert."""
    dataset, values = instance.dataset, samples.values
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    rescaled = values.astype(np.float32) * slope + intercept
    if centre is not None and width is not None and width > 1:
        lowest, span = centre - width / 2, width - 1
    elif samples.bits == BYTE and values.dtype.kind == "u" and slope == 1:
        lowest, span = intercept, 255.0
    else:  # no window is stated: the frame's own extent, as viewers do
        lowest, span = float(rescaled.min()), max(float(np.ptp(rescaled)), 1.0)
    levels = (rescaled - lowest) * (255 / span)
    if samples.photometric == "MONOCHROME1":
        levels = 255 - levels
    grey: Pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return grey


def _first(value: Any) -> float | None:
    """Return the first of one or many values; windows are alternatives (PS3.3 C.11.2.1.2)."""
    if value is None or value == "":
        return None
    return float(value) if isinstance(value, (int, float, str)) else float(value[0])
