"""Refuse a frame that shows too little to be read: a reflection, glare, darkness, one colour, or no focus."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea
from pipeline.frame import Pixels

Reason = Literal["fully_reflected", "saturated", "too_dark", "solid_colour", "out_of_focus"]

WORKING_SHORT_SIDE = 256
"""Short side that the content is brought to, by area: the half resolution of the usual 532 to 576 rows.
Sharpness depends on scale and encoder, so it is always measured here. It ranks the 323 frames of
`images/normal` and `images/other` as the full resolution does (Spearman 0.91), at a quarter of the pixels."""

LARGE = 3 * WORKING_SHORT_SIDE
LINEAR_UP_TO = 2.2
"""Short side from which content is halved by area before it is brought to the working scale, and up to which
times the working scale the rest is done linearly, which looks at two pixels of these many a side."""

SPECULAR = 235
"""Green level from which a pixel is a reflection (or overlay text): its edge says nothing about focus."""

RIM = 5
"""Pixels, at the working scale, left out round reflections and inside the content's outline."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """From where a frame is refused.

    Measured on 884 frames of HyperKvasir, EDD2020 and Kvasir-SEG (every second of `matched_256`; all others)
    and 160 of CrohnIPI, and on the same frames spoilt: with red three times and the rest 1.6 times as
    bright, all a tenth as bright, veiled with four fifths of white, faded to a tenth of their contrast, or
    blurred by a Gaussian whose sigma is 1 % of the content's short side.

    Attributes
    ----------
    fully_reflected_above
        Share of the content that is bright and colourless. Most seen: 0.24. Veiled: 1.
    saturated_above
        Share of the content with a clipped channel. Most seen: 0.34. Too bright: 99 % above 0.5.
    too_dark_below
        Median over the content of the brightest channel. Least seen: 41. A tenth as bright: at most 23.
    solid_colour_below
        Standard deviation of the colour channels, averaged. Least seen: 17. Faded: 96 % below 6,
        and the rest out of focus.
    out_of_focus_below
        Variance of the Laplacian. Least seen: 38 (CrohnIPI: 18, 2 % below 20). Blurred: at most 8.
    """

    fully_reflected_above: float = 0.5
    saturated_above: float = 0.5
    too_dark_below: float = 28.0
    solid_colour_below: float = 6.0
    out_of_focus_below: float = 20.0


CLIPPED = 250
"""Level from which a channel counts as clipped; JPEG leaves clipped areas at 250-255."""

COLOURLESS = 200
"""Level of the darkest channel from which a pixel shows the lamp and not mucosa, which is never so pale."""


def refusal(pixels: Pixels, area: ContentArea, limits: QualityLimits) -> Reason | None:
    """Return why an RGB frame is not to be read, or None where it may be; the reasons in order of asking."""
    x0, y0, x1, y1 = area.box
    content, mask = pixels[y0:y1, x0:x1], area.mask[y0:y1, x0:x1]
    scale = min(1.0, WORKING_SHORT_SIDE / min(content.shape[:2]))
    size = (max(1, round(content.shape[1] * scale)), max(1, round(content.shape[0] * scale)))
    small = _at_working_scale(content, size)
    inside = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    if not inside.any():
        return "solid_colour"
    red, green, blue = cv2.split(small)
    palest, brightest = (_levels(op(op(red, green), blue), inside) for op in (cv2.min, cv2.max))
    if _share(palest, COLOURLESS) > limits.fully_reflected_above:
        return "fully_reflected"
    if _share(brightest, CLIPPED) > limits.saturated_above:
        return "saturated"
    if _median(brightest) < limits.too_dark_below:
        return "too_dark"
    _, deviation = cv2.meanStdDev(small, mask=inside)
    if float(deviation.mean()) < limits.solid_colour_below:
        return "solid_colour"
    return "out_of_focus" if sharpness(green, inside.view(np.bool_)) < limits.out_of_focus_below else None


def _at_working_scale(content: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the content at ``size`` (columns, rows), large content by halves first.

    At 1024 rows that takes 0.3 ms where one reduction by area takes 2.8. On 386 native frames, on 519 made
    larger (800 to 1400 rows), and on these spoilt as for `QualityLimits`, no frame is decided otherwise; the
    sharpness of those not spoilt is 0.85 to 1.46 times that by area (median 1.00 at 1024 rows, 1.18 at 1080).
    """
    is_halved = min(content.shape[:2]) >= LARGE
    while min(content.shape[:2]) >= LARGE:
        rows, columns = content.shape[0] // 2, content.shape[1] // 2
        content = cv2.resize(
            content[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA
        )
    is_near = min(content.shape[:2]) <= LINEAR_UP_TO * WORKING_SHORT_SIDE
    method = cv2.INTER_LINEAR if is_halved and is_near else cv2.INTER_AREA
    return cv2.resize(content, size, interpolation=method)


def _levels(plane: NDArray[Any], inside: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``(256,)``, how many pixels within a mask have each level."""
    return cv2.calcHist([plane], [0], inside, [256], [0, 256]).ravel().astype(np.float64)


def _share(levels: NDArray[np.float64], least: int) -> float:
    return float(levels[least:].sum() / levels.sum())


def _median(levels: NDArray[np.float64]) -> float:
    upto = levels.cumsum()
    below, above = (upto[-1] - 1) // 2, upto[-1] // 2
    return float(np.searchsorted(upto, (below, above), "right").mean())


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
