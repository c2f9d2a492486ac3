"""What stands still through an exam, found once: its content area and its overlay text.

Layouts are learned from a fixed sample of the exam's frames before the rest is cleaned, and never change
afterwards: what becomes of a frame depends neither on the order of frames nor on threads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea, find_content_area, still_holds
from pipeline.clean.known_text import KnownText, confirms, learn_text
from pipeline.clean.overlay import find_text, standing, without_slits
from pipeline.clean.text import TextDetector
from pipeline.frame import Pixels

Mask = NDArray[np.bool_]
Spread = Callable[[Callable[[Pixels], Mask], Sequence[Pixels]], Iterable[Mask]]

SAMPLED = 16
"""Frames of an exam from which its layouts are learned, at most."""


LEAST_SAMPLED = 3
"""Frames from which a layout's text is known well enough for another frame to go without full detection: what
one frame's glare hides, the others show."""


NEAR = (0.006, 0.08)
"""Shares of rows and columns by which two sizes differ that are one processor's, cropped below and on the
right: of 207 frames of a public folder 33 have a size of their own, all within this of one of four sizes."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A size and border of frames, and the text that stands there."""

    area: ContentArea
    text: KnownText | None
    trusted: bool


def sampled(count: int) -> list[int]:
    """Return the 0-based places, evenly spaced, of the frames that layouts are learned from.

    >>> sampled(3)
    [0, 1, 2]
    >>> sampled(1000)[:4]
    [31, 93, 156, 218]
    """
    return sorted({(2 * place + 1) * count // (2 * SAMPLED) for place in range(SAMPLED)}) if count else []


def learn_layouts(
    samples: Sequence[Pixels], detector: TextDetector | None, *, spread: Spread = map
) -> tuple[Layout, ...]:
    """Return the layouts that the sampled RGB frames show; text is looked for fully on each of them.

    That is the greater part of the work: `spread` may be the `map` of a pool of threads.
    """
    groups: list[tuple[ContentArea, list[Pixels]]] = []
    for pixels in samples:
        for area, members in groups:
            if is_of(pixels, area):
                members.append(pixels)
                break
        else:
            found = find_content_area(pixels)
            if found is not None:
                groups.append((found, [pixels]))
    return tuple(
        Layout(area, _text_of(members, area, detector, spread), len(members) >= LEAST_SAMPLED)
        for area, members in groups
    )


def is_of(pixels: Pixels, area: ContentArea) -> bool:
    """Say whether a frame has this size and content area."""
    return pixels.shape[:2] == area.mask.shape and still_holds(area, pixels)


def layout_text(
    pixels: Pixels,
    area: ContentArea,
    detector: TextDetector,
    *,
    layout: Layout | None,
    layouts: Sequence[Layout],
) -> tuple[Mask, bool]:
    """Return the mask of a frame's text, and whether the frame was spared the full detection.

    Where its layout has text, the frame is masked as well unless it is plainly empty there; where
    that is not known well, so it is where others of its size have text, once some was found in their places.
    """
    known = layout.text if layout and layout.trusted else None
    if known is not None and confirms(known, pixels, area):
        return known.mask | standing(known.places * ~known.mask, pixels), True
    mask = found = find_text(detector, pixels)
    for other in (layout,) if layout and layout.trusted else layouts:
        if other.text is None or not _is_near(other.text.mask.shape, mask.shape):
            continue
        if other is layout or _meets(other.text.places, found):
            mask = mask | standing(other.text.places, pixels)
    return without_slits(mask), False


def _is_near(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(one - two) <= slack * one for one, two, slack in zip(size, other, NEAR, strict=True))


def _meets(places: NDArray[np.uint8], found: Mask) -> bool:
    """Return whether some text was found in a place, so that the layout's overlay may be there."""
    rows, columns = np.minimum(places.shape, found.shape)
    return bool((found[:rows, :columns] & (places[:rows, :columns] > 0)).any())


def _text_of(
    members: Sequence[Pixels], area: ContentArea, detector: TextDetector | None, spread: Spread
) -> KnownText | None:
    if detector is None:
        return None
    masks = spread(partial(find_text, detector), members)
    return learn_text(list(zip(members, masks, strict=True)), area)
