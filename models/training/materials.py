"""What instruments look like: colour, shading and texture painted on a mask, in two disjoint families.

The first family trains the network, the second tests it: they share no texture and no shading profile. Every
function takes a surface's two coordinates and returns ``(rows, columns, 3)`` float32 RGB in 0-255 and an
opacity in 0-1.
"""

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
"""Of float32 mostly; OpenCV's stubs promise no dtype."""
Family = Literal["train", "test"]
Generator = np.random.Generator
Material = Callable[[Floats, Floats, Generator], tuple[Floats, float]]

SLICES = 64
"""Cuts across a surface's axis at each of which its two edges are found."""


def surface(mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return each pixel's place along its piece's axis (0-1) and across it (-1 to 1, edge to edge)."""
    along, across = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    for label in range(1, count):
        place = np.nonzero(labels == label)
        points = np.stack(place, axis=1).astype(np.float32)
        points -= points.mean(axis=0)
        axes = np.linalg.eigh(points.T @ points)[1]
        across_axis, along_axis = (points @ axes).T
        position = (along_axis - along_axis.min()) / max(float(np.ptp(along_axis)), 1.0)
        cut = (position * (SLICES - 1)).astype(np.intp)
        low, high = np.full(SLICES, np.inf), np.full(SLICES, -np.inf)
        np.minimum.at(low, cut, across_axis)
        np.maximum.at(high, cut, across_axis)
        half = np.maximum((high[cut] - low[cut]) / 2, 0.5)
        along[place] = position
        across[place] = np.clip((across_axis - (low[cut] + high[cut]) / 2) / half, -1, 1)
    return along, across


def happens(generator: Generator, chance: float) -> bool:
    """Return True with the chance given."""
    return bool(generator.random() < chance)


def smooth_noise(shape: tuple[int, ...], generator: Generator, *, grain: int) -> Floats:
    """Return noise of zero mean and about unit height whose blobs are `grain` pixels wide."""
    coarse = generator.normal(size=(shape[0] // grain + 2, shape[1] // grain + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def tint(generator: Generator, *, value: tuple[float, float], saturation: tuple[float, float]) -> Floats:
    """Return a random colour of a hue that is seldom mucosa's."""
    hue = generator.uniform(0, 360) if happens(generator, 0.3) else generator.uniform(90, 300)
    hsv = np.array([[[hue, generator.uniform(*saturation), generator.uniform(*value)]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255)


def _bump(across: Floats, centre: float, width: float) -> Floats:
    return np.asarray(np.exp(-(((across - centre) / width) ** 2)))


def _cylinder(across: Floats, generator: Generator) -> Floats:
    """Return the light on a tube lit from one side, 0.2 to 1."""
    side = generator.uniform(-0.5, 0.5)
    return np.asarray(0.2 + 0.8 * np.sqrt(np.clip(1 - ((across - side) / (1 + abs(side))) ** 2, 0, 1)))


def _highlight(along: Floats, across: Floats, generator: Generator) -> Floats:
    streak = _bump(across, generator.uniform(-0.6, 0.6), generator.uniform(0.05, 0.4))
    broken = 0.5 + smooth_noise(across.shape, generator, grain=int(generator.integers(3, 20)))
    fades = np.clip(generator.uniform(0.3, 1.3) + generator.uniform(-1, 1) * along, 0, 1)
    return streak * np.clip(broken, 0, 1) * fades * generator.uniform(0, 200)


def _fall_off(along: Floats, generator: Generator) -> Floats:
    return 1 + generator.uniform(-0.5, 0.5) * (along - 0.5)


def _sheath(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint white, grey, lilac or bluish plastic, often overexposed, sometimes see-through."""
    colour = tint(generator, value=(0.55, 1.0), saturation=(0.0, 0.3))
    depth = generator.uniform(0.2, 1.0)
    light = (1 - depth + depth * _cylinder(across, generator)) * _fall_off(along, generator)
    exposure = generator.uniform(0.7, 1.7)
    lit = (light * exposure)[..., None] * colour + _highlight(along, across, generator)[..., None]
    return lit, generator.uniform(0.55, 0.95) if happens(generator, 0.3) else 1.0


def _metal(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint polished steel or brass: dark, with bright and black streaks along the axis that break off."""
    light = np.full(across.shape, generator.uniform(30, 150), np.float32)
    for _ in range(int(generator.integers(2, 7))):
        streak = _bump(across, generator.uniform(-1, 1), generator.uniform(0.04, 0.35))
        broken = 0.6 + 0.6 * smooth_noise(across.shape, generator, grain=int(generator.integers(2, 24)))
        light += generator.uniform(-120, 220) * streak * broken
    light += generator.uniform(0, 45) * smooth_noise(
        across.shape, generator, grain=int(generator.integers(1, 10))
    )
    brass = np.array([1.0, generator.uniform(0.8, 1.0), generator.uniform(0.55, 1.0)], np.float32)
    steel = tint(generator, value=(1.0, 1.0), saturation=(0.0, 0.15)) / 255
    colour = brass if happens(generator, 0.5) else steel
    return (light * _fall_off(along, generator))[..., None] * colour, 1.0


def _plastic(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint coloured plastic: blue, green, yellow. Not black: lumens would be taken for it."""
    colour = tint(generator, value=(0.25, 0.95), saturation=(0.25, 1.0))
    light = _cylinder(across, generator) * _fall_off(along, generator)
    return light[..., None] * colour + _highlight(along, across, generator)[..., None], 1.0


def _ringed(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint one of the others with rings or marks across the axis."""
    painted, opacity = (_sheath, _metal, _plastic)[generator.integers(3)](along, across, generator)
    wave = np.sin(2 * np.pi * generator.uniform(2, 20) * along + generator.uniform(0, 6))
    marks = wave > generator.uniform(-0.5, 0.9)
    return np.where(marks[..., None], painted * generator.uniform(0.2, 0.9), painted), opacity


def _facets(across: Floats, generator: Generator) -> Floats:
    """Return the light on a prism: flat faces, each of its own brightness."""
    edges = np.sort(generator.uniform(-1, 1, int(generator.integers(1, 4))))
    faces = generator.uniform(0.35, 1.0, len(edges) + 1).astype(np.float32)
    return faces[np.searchsorted(edges, across)]


def _coil(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint a wound wire: slanted grooves, steel or brass."""
    turns, slant = generator.uniform(8, 30), generator.uniform(0.5, 3)
    groove = np.abs(np.sin(np.pi * turns * along + slant * across))
    colour = np.array([1.0, generator.uniform(0.85, 1.0), generator.uniform(0.6, 1.0)], np.float32)
    light = _facets(across, generator) * (90 + generator.uniform(40, 160) * groove)
    return light[..., None] * colour, 1.0


def _braid(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint a woven sleeve: two crossing sets of strands on a pale or coloured ground."""
    strands, width = generator.uniform(6, 25), generator.uniform(3, 8)
    weave = np.sign(
        np.sin(strands * np.pi * along + width * across) * np.sin(strands * np.pi * along - width * across)
    )
    colour = tint(generator, value=(0.5, 1.0), saturation=(0.0, 0.5))
    return (_facets(across, generator) * (1 + generator.uniform(0.1, 0.35) * weave))[..., None] * colour, 1.0


def _speckled(along: Floats, across: Floats, generator: Generator) -> tuple[Floats, float]:
    """Paint worn lacquer: two colours in patches of sharp outline."""
    patches = smooth_noise(along.shape, generator, grain=int(generator.integers(3, 9))) > generator.uniform(
        -0.5, 0.8
    )
    one, other = (tint(generator, value=(0.4, 1.0), saturation=(0.0, 0.6)) for _ in range(2))
    return _facets(across, generator)[..., None] * np.where(patches[..., None], one, other), 1.0


MATERIALS: dict[Family, tuple[Material, ...]] = {
    "train": (_sheath, _sheath, _metal, _metal, _plastic, _ringed),
    "test": (_coil, _braid, _speckled),
}
"""Drawn with equal chance: most instruments of colonoscopy are a pale sheath or steel."""
