"""Frames with instruments that never were: a real mask painted as an instrument, blended into a real frame.

Besides instruments they hold what must not pass for one: text, borders, the scope-position box, highlights,
and patches of another frame's mucosa pasted within an instrument's outline.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.materials import MATERIALS, Family, Floats, Generator, happens, smooth_noise, surface
from models.training.scenery import Mask, Scene, Shape
from pipeline.frame import Pixels

Blend = Callable[[Floats, Floats, Floats, Generator], Floats]

EMPTY = 0.4
"""Share of training frames without an instrument; what is drawn on them teaches what is none."""

LEAST_SHARE = 0.005
"""Share of the frame below which a placed mask has left it; the smallest of the 590 covers 0.0048."""

FONT, LETTERS = cv2.FONT_HERSHEY_SIMPLEX, list("0123456789:/ABCDEHNRSTX<>. ")

SOLID = 0.5
"""Opacity from which a pixel is the instrument's."""

UNIT_ROWS = 192
"""Rows that blurs and shifts are stated for; a larger frame gets larger ones."""

GLARE_PIXELS = 12
"""Width of a highlight of wet mucosa, at most."""

TEAL = (0, 160, 135)
"""The scope-position box, as processors draw it."""


def place(shape: Shape, content: Mask, generator: Generator) -> Floats:
    """Return ``(rows, columns)`` opacity 0-1: the mask turned, grown, shifted and cut to the content."""
    rows, columns = content.shape
    centre = (columns / 2, rows / 2)
    matrix = cv2.getRotationMatrix2D(centre, generator.uniform(0, 360), generator.uniform(0.95, 1.5))
    if happens(generator, 0.5):
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0]) + [
            [0, 0, columns * matrix[0, 0]],
            [0, 0, columns * matrix[1, 0]],
        ]
    matrix[:, 2] = matrix[:, 2] + generator.uniform(-0.06, 0.06, 2) * (columns, rows)
    warped = cv2.warpAffine(shape.mask.astype(np.float32), matrix, (columns, rows), flags=cv2.INTER_LINEAR)
    return warped * content


def _feathered(frame: Floats, painted: Floats, opacity: Floats, generator: Generator) -> Floats:
    spread = generator.uniform(0.2, 1.6) * frame.shape[0] / UNIT_ROWS
    soft = cv2.GaussianBlur(opacity, (0, 0), spread)[..., None]
    return np.asarray(frame + soft * (painted - frame))


def _rimmed(frame: Floats, painted: Floats, opacity: Floats, generator: Generator) -> Floats:
    """Blend with a dark contour, as where an instrument lies against a fold."""
    rim = cv2.GaussianBlur(opacity, (0, 0), 2.0 * frame.shape[0] / UNIT_ROWS)
    dark = 1 - generator.uniform(0.1, 0.6) * 4 * rim * (1 - rim)
    return np.asarray(_feathered(frame, painted, opacity, generator) * dark[..., None])


def _pyramid(frame: Floats, painted: Floats, opacity: Floats, generator: Generator) -> Floats:
    """Blend fine detail sharply and coarse shades softly (Burt and Adelson 1983), in two bands."""
    spread = generator.uniform(1.5, 4.0) * frame.shape[0] / UNIT_ROWS
    coarse, below = (cv2.GaussianBlur(each, (0, 0), spread) for each in (painted, frame))
    soft, sharp = cv2.GaussianBlur(opacity, (0, 0), spread / 2)[..., None], opacity[..., None]
    return below + soft * (coarse - below) + (frame - below) + sharp * ((painted - coarse) - (frame - below))


def _wrapped(frame: Floats, painted: Floats, opacity: Floats, generator: Generator) -> Floats:
    """Blend with the surroundings' light spilling over the edge."""
    inner = cv2.GaussianBlur(opacity, (0, 0), 3.0 * frame.shape[0] / UNIT_ROWS) ** 2
    spill = generator.uniform(0.2, 0.5) * (1 - inner)[..., None]
    around = cv2.GaussianBlur(frame, (0, 0), 6.0 * frame.shape[0] / UNIT_ROWS)
    return np.asarray(frame + opacity[..., None] * ((1 - spill) * painted + spill * around - frame))


BLENDS: dict[Family, tuple[Blend, ...]] = {"train": (_feathered, _rimmed), "test": (_pyramid, _wrapped)}


def insert(frame: Floats, opacity: Floats, family: Family, generator: Generator) -> Floats:
    """Return the frame with an instrument where `opacity` is, lit by the frame's own light, with a shadow."""
    inside = opacity >= SOLID
    along, across = surface(inside)
    if happens(generator, 0.5):
        along = 1 - along
    painted, through = MATERIALS[family][generator.integers(len(MATERIALS[family]))](along, across, generator)
    reflected = cv2.GaussianBlur(frame, (0, 0), 5 * frame.shape[0] / UNIT_ROWS)[:, ::-1]
    painted = painted + generator.uniform(0, 0.4) * (reflected - painted)
    light = 0.6 + 0.4 * float(frame[inside].mean()) / 110
    painted = np.clip(painted * np.clip(light, 0.75, 1.2), 0, 255).astype(np.float32)
    shift = generator.uniform(-8, 8, 2) * frame.shape[0] / UNIT_ROWS
    moved = cv2.warpAffine(opacity, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), opacity.shape[::-1])
    shadow = cv2.GaussianBlur(moved, (0, 0), generator.uniform(1, 5) * frame.shape[0] / UNIT_ROWS)
    shaded = frame * (1 - generator.uniform(0, 0.6) * shadow)[..., None]
    blend = BLENDS[family][generator.integers(len(BLENDS[family]))]
    return np.clip(blend(shaded, painted, opacity * through, generator), 0, 255)


def fade(frame: NDArray[Any], share: float) -> NDArray[Any]:
    """Return the frame with a share of its colour taken out."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(frame, 1 - share, grey, share, 0))


def paste_mucosa(frame: Floats, other: Pixels, opacity: Floats, generator: Generator) -> Floats:
    """Paste another's mucosa within an instrument's outline: an edge alone is no instrument."""
    rolled = np.roll(other, generator.integers(0, other.shape[0], 2), axis=(0, 1)).astype(np.float32)
    moved = fade(rolled, generator.uniform(0, 0.3)) * generator.uniform(0.7, 1.3)
    blend = BLENDS["train"][generator.integers(len(BLENDS["train"]))]
    return np.clip(blend(frame, moved, opacity, generator), 0, 255)


def distract(frame: Floats, truth: Mask, generator: Generator, *, glare_pixels: int) -> tuple[Floats, Mask]:
    """Return the frame and the mask after highlights, text and the scope box were drawn over them."""
    rows, columns = truth.shape
    unit = rows / UNIT_ROWS
    if happens(generator, 0.3):
        glare = smooth_noise(truth.shape, generator, grain=int(generator.integers(4, glare_pixels) * unit))
        glare = np.clip((glare - generator.uniform(1.0, 2.0)) * 3, 0, 1) * (~truth)
        frame = frame + glare[..., None] * (generator.uniform(200, 255) - frame)
    if happens(generator, 0.3):
        frame = np.ascontiguousarray(frame, np.uint8)
        for _ in range(int(generator.integers(1, 8))):
            text = "".join(generator.choice(LETTERS, int(generator.integers(2, 14))))
            corner = (int(generator.integers(0, columns * 2 // 3)), int(generator.integers(8, rows)))
            level = int(generator.integers(150, 256))
            size = generator.uniform(0.2, 0.45) * unit
            thick = max(1, round(unit))
            cv2.putText(frame, text, corner, FONT, size, (level,) * 3, thick, cv2.LINE_AA)
    if happens(generator, 0.15):
        height, width = (int(generator.uniform(0.2, 0.36) * side) for side in (rows, columns))
        colour = TEAL if happens(generator, 0.6) else (0, 0, 0)
        top = rows - height if happens(generator, 0.8) else 0
        frame, truth = frame.copy(), truth.copy()
        frame[top : top + height, :width] = colour
        truth[top : top + height, :width] = False
    return frame, truth


def degrade(frame: Floats, truth: Mask, generator: Generator) -> tuple[Pixels, Mask]:
    """Change geometry (a black border where it shrinks), light and colour; add blur, noise and JPEG."""
    rows, columns = truth.shape
    frame = frame.astype(np.uint8)
    stretch = generator.uniform(0.92, 1.1, 2) * (
        generator.uniform(0.6, 1.0) if happens(generator, 0.15) else generator.uniform(1.0, 1.35)
    )
    flips = generator.choice([-1, 1], 2)
    linear = np.diag(stretch * flips)
    middle = np.array([columns, rows]) / 2
    offset = middle - linear @ middle + generator.uniform(-0.1, 0.1, 2) * (columns, rows)
    matrix = np.column_stack([linear, offset])
    frame = cv2.warpAffine(frame, matrix, (columns, rows), flags=cv2.INTER_LINEAR)
    truth = cv2.warpAffine(truth.astype(np.float32), matrix, (columns, rows)) >= SOLID
    gains = generator.uniform(0.75, 1.2) * generator.uniform(0.86, 1.14, 3)
    table = 255 * np.clip(np.arange(256)[:, None] * gains / 255, 0, 1) ** generator.uniform(0.75, 1.3)
    if happens(generator, 0.3):
        frame = fade(frame, generator.uniform(0, 0.3))
    frame = cv2.LUT(frame, np.rint(table).astype(np.uint8)[np.newaxis])
    if happens(generator, 0.8):
        frame = cv2.GaussianBlur(frame, (0, 0), generator.uniform(0.3, 1.3) * rows / UNIT_ROWS)
    noise = np.float32(generator.uniform(0, 5)) * generator.standard_normal(frame.shape, np.float32)
    levels = np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)
    quality = int(generator.integers(50, 98))
    coded = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1]), truth


def compose(
    scene: Scene,
    shape: Shape | None,
    family: Family,
    generator: Generator,
    *,
    glare_pixels: int = GLARE_PIXELS,
) -> tuple[Pixels, Mask]:
    """Return a frame and its mask, ``(rows, columns, 3)`` uint8 RGB and ``(rows, columns)`` bool.

    Parameters
    ----------
    shape
        The instrument's outline; None for a frame without one.
    glare_pixels
        Highlights are narrower than this at `UNIT_ROWS` rows.
    """
    frame = scene.pixels.astype(np.float32)
    truth = np.zeros(scene.content.shape, np.bool_)
    if shape is not None:
        opacity = place(shape, scene.content, generator)
        if (opacity >= SOLID).mean() >= LEAST_SHARE:
            frame, truth = insert(frame, opacity, family, generator), opacity >= SOLID
    frame, truth = distract(frame, truth, generator, glare_pixels=glare_pixels)
    return degrade(frame, truth, generator)


def decoy(scene: Scene, other: Scene, shape: Shape, generator: Generator) -> Scene:
    """Return the scene with a patch of `other` pasted within an instrument's outline."""
    pasted = paste_mucosa(
        scene.pixels.astype(np.float32), other.pixels, place(shape, scene.content, generator), generator
    )
    return Scene(scene.name, scene.part, pasted.astype(np.uint8), scene.content)
