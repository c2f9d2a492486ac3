"""Fill masked pixels from their surroundings, for the model alone: a person never sees them."""

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.frame import Pixels

RADIUS = 3
"""Neighbourhood, in half-resolution pixels, that OpenCV's two methods look at."""

REACH = 8 * RADIUS
"""How far round a hole, in source pixels, the border counts as unknown too, and further where the hole is
deeper: painting comes as fast from the border's far side, so black never flows inwards."""

BESIDE = 10
LEAST_REDNESS, BRIGHT, BLACK, ICON = 30, 90, 25, 13
"""Half-resolution pixels round a hole in which nothing is painted from what is no tissue: where red is not
as far above green and blue and green is above that; where no channel is as bright, and that is no wider
than an icon (a border and a lumen are sources). 275 strings painted on 53 real frames, an icon of 6 to 19
px (white, grey, green, cyan, yellow, black) 2 to 6 px from each: the mean difference from the tissue
beneath has a median of 6.3 levels (9.7 from every source, 6.3 with the icons known) and a 95th percentile
of 19.6 (22.7); without icons of 6.3 (6.3) and 18.3 (19.2). A redness of 20 or 40, a green of 60 or 120,
black below 35, 4 or 6 pixels give the same within 0.1; with black kept it is 6.9. On 53 others 6.4 (9.2)
and 19.9 (25.8), 6.2 (6.3) and 18.2 (18.9)."""


class InpainterError(PipelineError):
    """An inpainter's network is missing, is not the one that was named, or does not do what is said of it."""


class Inpainter(Protocol):
    """Paints what is unknown from what surrounds it."""

    def __call__(self, pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
        """Return a frame of the same size; what it holds where nothing was unknown is not used.

        Parameters
        ----------
        pixels
            ``(rows, columns, 3)`` uint8 RGB, maybe read-only.
        unknown
            ``(rows, columns)`` bool, True where a pixel is to be painted; never all, never none.
        """
        ...


def telea(pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
    """Paint by fast marching (Telea 2004, "An image inpainting technique based on...", section 2)."""
    return _at_half_resolution(pixels, unknown, cv2.INPAINT_TELEA)


def navier_stokes(pixels: Pixels, unknown: NDArray[np.bool_]) -> Pixels:
    """Paint by carrying isophotes inwards (Bertalmio et al. 2001, "Navier-Stokes, fluid dynamics...")."""
    return _at_half_resolution(pixels, unknown, cv2.INPAINT_NS)


def fill(
    pixels: Pixels,
    mask: NDArray[np.bool_],
    content: NDArray[np.bool_],
    *,
    inpainter: Inpainter = telea,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return the frame with the mask filled, and what of it was.

    Inside the content it is painted over from what surrounds it there; outside, where text stands on the
    border, it takes the border's median colour.

    Whatever the inpainter does, every other pixel is identical and the input stays as it was; with an empty
    hole the frame itself comes back.

    Parameters
    ----------
    pixels
        ``(rows, columns, 3)`` uint8 RGB.
    mask, content
        ``(rows, columns)`` bool: what is to go, and where the endoscopic image is. Neither is a source of
        colour for the other side of its edge.
    inpainter
        What paints the hole.

    Raises
    ------
    InpainterError
        The inpainter gave back something else than a frame of the same size.
    """
    if not mask.any():
        return pixels, mask
    hole, beyond = mask & content, mask & ~content
    if not (content & ~hole).any():
        hole = np.zeros_like(hole)
    if not (hole | beyond).any():
        return pixels, hole
    filled = pixels.copy()
    if hole.any():
        painted = inpainter(pixels, hole | _border_beside(hole, content))
        if painted.shape != pixels.shape or painted.dtype != np.uint8:
            raise InpainterError(
                f"inpainter: {pixels.shape} uint8 was expected, {painted.shape} {painted.dtype} was found"
            )
        cv2.copyTo(painted, hole.view(np.uint8), filled)
    if beyond.any():
        border = pixels[::8, ::8][~(content[::8, ::8] | mask[::8, ::8])]
        colour = np.median(border, axis=0) if len(border) else np.zeros(3)
        filled.reshape(-1, 3)[np.flatnonzero(beyond)] = colour
    return filled, hole | beyond


def check_inpainter(inpainter: Inpainter, name: str) -> None:
    """Show an inpainter a green patch on flat tissue, told to be unknown, and refuse one that keeps it.

    Whether a network's mask says what to paint or what to keep, and whether it answers in 0-1 or 0-255,
    stands in no file of weights: taken the wrong way round it would hand the overlays on as tissue.

    Raises
    ------
    InpainterError
        The patch is not painted in the colour round it.
    """
    pixels, hole = np.full((240, 320, 3), TISSUE, np.uint8), np.zeros((240, 320), np.bool_)
    hole[90:150, 120:200] = True
    pixels[hole] = (0, 255, 0)
    filled, _ = fill(pixels, hole, np.ones_like(hole), inpainter=inpainter)
    found = np.median(filled[hole], axis=0)
    if np.abs(found - TISSUE).max() > MOST_OFF:
        raise InpainterError(
            f"{name}: a hole in flat tissue, RGB {TISSUE}, was expected to be painted like it, "
            f"{tuple(found.astype(int).tolist())} was found; is the mask's meaning or the scale another one?"
        )


TISSUE = (190, 105, 85)
MOST_OFF = 60
"""Levels by which a painted hole may differ from flat tissue: a wrong mask or scale gives 150 and more."""


def _border_beside(hole: NDArray[np.bool_], content: NDArray[np.bool_]) -> NDArray[np.bool_]:
    near = np.zeros(hole.shape, np.bool_)
    window = _window(hole, 4 * REACH)
    deepest = _depth(hole[window], content[window])
    if deepest > 3 * REACH:  # the nearest tissue may lie past the window
        deepest = _depth(hole, content)
    reach = max(REACH, int(deepest) + 2 * RADIUS)
    window = _window(hole, reach)
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near[window] = cv2.dilate(hole[window].view(np.uint8), square) > 0
    return near & ~content


def _depth(hole: NDArray[np.bool_], content: NDArray[np.bool_]) -> float:
    """Return how far the deepest pixel of a hole lies from tissue."""
    return float(cv2.distanceTransform((hole | ~content).view(np.uint8), cv2.DIST_L2, 3)[hole].max())


def _at_half_resolution(pixels: Pixels, unknown: NDArray[np.bool_], method: int) -> Pixels:
    """Paint at half resolution (10 ms become 2 at 720x576): filled mucosa holds no detail that is lost."""
    window = _window(unknown, REACH)
    part = pixels[window]
    size = (-(-part.shape[1] // 2), -(-part.shape[0] // 2))
    half: Pixels = cv2.resize(part, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    touched = cv2.resize(unknown[window].astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    painted = cv2.inpaint(half, _with_what_smears(half, touched.view(np.uint8)), RADIUS, method)
    whole = pixels.copy()
    whole[window] = cv2.resize(painted, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
    return whole


def _with_what_smears(pixels: Pixels, unknown: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the unknown pixels and, of those beside them, the ones of an icon, a letter or a reflection."""
    red, green, blue = cv2.split(pixels)
    other = cv2.max(green, blue)
    bright = np.less(cv2.subtract(red, other), LEAST_REDNESS) & np.greater(green, BRIGHT)
    black = np.less(cv2.max(red, other), BLACK).view(np.uint8)
    wide = cv2.morphologyEx(black | unknown, cv2.MORPH_OPEN, np.ones((ICON, ICON), np.uint8))
    no_tissue = bright | np.greater(black, wide)
    smears = cv2.dilate(no_tissue.view(np.uint8), np.ones((3, 3), np.uint8))
    beside = cv2.dilate(unknown, np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8))
    widened = cv2.bitwise_or(unknown, cv2.bitwise_and(smears, beside)).astype(np.uint8)
    return unknown if widened.all() else widened


def _window(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the smallest rectangle round what is set, grown by a margin, within the frame."""
    spans = (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    first, second = (slice(max(0, int(span[0]) - margin), int(span[-1]) + 1 + margin) for span in spans)
    return first, second
