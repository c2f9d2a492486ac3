"""Refuse a frame that shows too little to be read: dark, glaring, of one colour, or out of focus."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea
from pipeline.frame import Pixels

WORKING_SHORT_SIDE = 256
"""Short side that the content is brought to, by area: the half resolution of the usual 532 to 576 rows.
Sharpness depends on scale and encoder, so it is always measured here."""

SPECULAR = 235
"""Green level from which a pixel is a reflection (or overlay text): its edge says nothing about focus."""

RIM = 5
"""Pixels, at the working scale, left out round reflections and inside the content's outline."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """From where a frame is refused.

    Measured on 1,422 sharp frames of HyperKvasir, EDD2020 and Kvasir-SEG, 480 of CrohnIPI, and the same
    frames blurred by a Gaussian whose sigma is a share of the content's short side.

    Attributes
    ----------
    blurred_below
        Variance of the Laplacian. Sharp frames: least 40 (CrohnIPI: 17, 2.5 % below 20). Blurred by 1 %: at
        most 8; by 0.6 %: 95 % below 20.
    solid_colour_below
        Standard deviation of the colour channels, averaged. Least seen: 16.
    saturated_above
        Share of the content whose green is at 250 or more. Most seen: 0.19.
    too_dark_below
        Median over the content of the brightest channel. Least seen: 43.
    """

    blurred_below: float = 20.0
    solid_colour_below: float = 6.0
    saturated_above: float = 0.35
    too_dark_below: float = 28.0


SATURATED = 250
"""Green level that counts as saturated; JPEG leaves clipped areas at 250-255."""


def refusal(pixels: Pixels, area: ContentArea, limits: QualityLimits) -> str | None:
    """Return why an RGB frame is not to be read, or None where it may be.

    The reasons, in the order they are asked: ``saturated``, ``too_dark``, ``solid_colour``, ``blurred``.
    """
    x0, y0, x1, y1 = area.box
    content, mask = pixels[y0:y1, x0:x1], area.mask[y0:y1, x0:x1]
    scale = min(1.0, WORKING_SHORT_SIDE / min(content.shape[:2]))
    size = (max(1, round(content.shape[1] * scale)), max(1, round(content.shape[0] * scale)))
    small = cv2.resize(content, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    if not inside.any():
        return "solid_colour"
    red, green, blue = cv2.split(small)
    if float((green[inside] >= SATURATED).mean()) > limits.saturated_above:
        return "saturated"
    if float(np.median(cv2.max(cv2.max(red, green), blue)[inside])) < limits.too_dark_below:
        return "too_dark"
    _, deviation = cv2.meanStdDev(small, mask=inside.astype(np.uint8))
    if float(deviation.mean()) < limits.solid_colour_below:
        return "solid_colour"
    return "blurred" if sharpness(green, inside) < limits.blurred_below else None


def sharpness(green: NDArray[Any], inside: NDArray[np.bool_]) -> float:
    """Return the variance of the Laplacian of a green plane within a mask, reflections left out.

    Pech-Pacheco et al. 2000 ("Diatom autofocusing in brightfield microscopy"), on green, where blood and
    mucosa differ most. 0.0 where nothing is left to measure.
    """
    square = np.ones((RIM, RIM), np.uint8)
    core = cv2.erode(inside.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    glare = cv2.dilate((green > SPECULAR).astype(np.uint8), square)
    response = cv2.Laplacian(green, cv2.CV_32F)[(core > 0) & (glare == 0)]
    return float(response.var()) if response.size else 0.0
