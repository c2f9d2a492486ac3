"""What stands still through an exam, found once: its content area and its overlay text.

Layouts are learned from a fixed sample of the exam's frames before the rest is cleaned, and never change
afterwards: what becomes of a frame depends neither on the order of frames nor on threads.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.clean.content_area import ContentArea, find_content_area, still_holds
from pipeline.clean.known_text import KnownText, confirms, learn_text
from pipeline.clean.overlay import find_text, without_slits
from pipeline.clean.places import Places, fitted, is_near, learn_places, standing
from pipeline.clean.text import TextDetector
from pipeline.frame import Pixels

Mask = NDArray[np.bool_]
Spread = Callable[[Callable[[Pixels], Mask], Sequence[Pixels]], Iterable[Mask]]

SAMPLED, MOST_SAMPLED = 16, 48
"""Frames of an exam from which its layouts are learned, and up to how many are looked at until each layout is
known from enough."""

LEAST_SAMPLED = 3
"""Frames from which a layout's text is known well enough for another frame to go without full detection: what
one frame's glare hides, the others show."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A size and border of frames, and the text that stands there.

    Attributes
    ----------
    places
        Where the overlay has text.
    text
        What a frame that is confirmed shows; absent where too few samples told.
    searched
        What the full search found on the samples, by digest of their pixels, packed: it is the same again.
    """

    area: ContentArea
    places: Places
    text: KnownText | None = None
    searched: Mapping[bytes, NDArray[np.uint8]] = field(default_factory=dict)


def sampled(count: int) -> list[int]:
    """Return the 0-based places of the frames to learn layouts from: evenly spaced ones, then those between.

    >>> sampled(3)
    [0, 1, 2]
    >>> sampled(1000)[:4], sampled(1000)[16:20]
    ([31, 93, 156, 218], [10, 52, 72, 114])
    """
    first = _even(count, SAMPLED)
    return [*first, *sorted(set(_even(count, MOST_SAMPLED)) - set(first))]


def learn_layouts(
    samples: Iterable[Pixels], detector: TextDetector | None, *, spread: Spread = map
) -> tuple[Layout, ...]:
    """Return the layouts that the sampled RGB frames show; text is looked for fully on each of them.

    That is the greater part of the work: `spread` may be the `map` of a pool of threads. Samples past the
    first are taken only while a layout has too few, and only for such.
    """
    groups: list[tuple[ContentArea, list[Pixels]]] = []
    for number, pixels in enumerate(samples):
        members = next((members for area, members in groups if is_of(pixels, area)), None)
        if members is None:
            found = find_content_area(pixels)
            if found is not None:
                groups.append((found, [pixels]))
        elif number < SAMPLED or len(members) < LEAST_SAMPLED:
            members.append(pixels)
        if number + 1 >= SAMPLED and all(len(members) >= LEAST_SAMPLED for _, members in groups):
            break
    masks: Iterator[Mask] = iter(())
    if detector is not None:
        every = [pixels for _, members in groups for pixels in members]
        masks = iter(spread(partial(find_text, detector), every))
    return _layouts([(area, members, list(islice(masks, len(members)))) for area, members in groups])


def _even(count: int, most: int) -> list[int]:
    return sorted({(2 * place + 1) * count // (2 * most) for place in range(most)}) if count else []


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

    Where some text was found in the places of its layout, the frame is masked in all of them that are not
    plainly empty; where its own are not known well, so it is in those of others of its size.
    """
    if layout is not None and layout.text is not None and confirms(layout.text, pixels, area):
        mask = layout.text.mask
        beside = cv2.copyTo(layout.places, (~mask).view(np.uint8)).astype(np.uint8, copy=False)
        return mask | standing(beside, pixels), True
    packed = layout.searched.get(_digest(pixels)) if layout is not None else None
    mask = found = find_text(detector, pixels) if packed is None else _unpacked(packed, pixels)
    for other in (layout,) if layout is not None and layout.text is not None else layouts:
        if is_near(other.places.shape, found.shape) and _meets(other.places, found):
            mask = mask | standing(other.places, pixels)
    return without_slits(mask), False


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data).digest()


def _unpacked(packed: NDArray[np.uint8], pixels: Pixels) -> Mask:
    rows, columns = pixels.shape[:2]
    return np.unpackbits(packed, count=rows * columns).reshape(rows, columns).view(np.bool_)


def _meets(places: Places, found: Mask) -> bool:
    """Return whether some text was found in a place, so that the layout's overlay may be there."""
    return bool((found & (fitted(places, found.shape) > 0)).any())


def _layouts(groups: Sequence[tuple[ContentArea, list[Pixels], list[Mask]]]) -> tuple[Layout, ...]:
    """Return a layout a group; where its own samples are too few, all of about its size tell its places."""
    layouts = []
    for area, members, masks in groups:
        enough = len(masks) >= LEAST_SAMPLED
        kin = [mask for _, _, others in groups for mask in others if is_near(mask.shape, area.mask.shape)]
        places = learn_places(masks if enough else kin, area.mask.shape)
        text = learn_text(list(zip(members, masks, strict=True)), area) if enough else None
        searched = {_digest(pixels): np.packbits(mask) for pixels, mask in zip(members, masks, strict=False)}
        layouts.append(Layout(area, places, text, searched))
    return tuple(layouts)
