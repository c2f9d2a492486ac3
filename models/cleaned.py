"""Frames as the node would see them: each decoded and cleaned by itself, once, and kept for the next time."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models.dataset import Dataset, LabelledFrame
from pipeline.clean.cleaner import Cleaner
from pipeline.clean.recipe import DEFAULT, Recipe
from pipeline.errors import DecodeError
from pipeline.folder import list_items, read_item
from pipeline.frame import CleanFrame, Frame, FrameSource, Pixels
from pipeline.tools import open_cleaner

UNDECODABLE = "undecodable"
CHUNK = 32
"""Frames for each core that are in memory at once."""

Outcome = Pixels | str
"""The view, or the reason why there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class CleanedFrames:
    """A data set's frames, in its order.

    Attributes
    ----------
    views
        ``(N, rows, columns, 3)`` uint8 RGB; black where a frame was not kept.
    kept
        ``(N,)`` bool.
    reasons
        Why a frame was not kept, as the cleaning says it; empty where it was.
    """

    views: NDArray[np.uint8]
    kept: NDArray[np.bool_]
    reasons: tuple[str, ...]


def clean_each(dataset: Dataset, cleaner: Cleaner) -> Iterator[Outcome]:
    """Yield every frame's view, or why it has none, in order; on all cores, with progress shown."""
    cv2.setNumThreads(1)  # one worker a core
    frames = dataset.frames
    size = CHUNK * (os.cpu_count() or 1)

    def outcomes() -> Iterator[Outcome]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(frames), size):
                chunk = frames[start : start + size]
                yield from pool.map(lambda frame: _clean(dataset.root, frame, cleaner), chunk)

    console = Console(stderr=True)
    yield from track(outcomes(), "cleaning", total=len(frames), console=console, transient=True)


def load_cleaned(dataset: Dataset, cache: Path, recipe: Recipe = DEFAULT) -> CleanedFrames:
    """Return the frames cleaned by `recipe`: from the folder `cache` if they are there, else made and kept.

    The file is of one recipe and one data set by both digests; one that is torn is made anew.
    """
    file = cache / f"cleaned-{recipe.digest[:16]}-{dataset.digest[:16]}.npz"
    digests = [recipe.digest, dataset.digest]
    try:
        with file.open("rb") as opened, np.load(opened) as kept:
            if kept["digests"].tolist() == digests:
                return CleanedFrames(kept["views"], kept["kept"], tuple(kept["reasons"].tolist()))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        pass  # none yet, or one that was not written here
    views = np.zeros((len(dataset.frames), recipe.view_side, recipe.view_side, 3), np.uint8)
    reasons = [""] * len(views)
    for number, outcome in enumerate(clean_each(dataset, open_cleaner(recipe))):
        if isinstance(outcome, str):
            reasons[number] = outcome
        else:
            views[number] = outcome
    cleaned = CleanedFrames(views, np.array([not reason for reason in reasons]), tuple(reasons))
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    with partial.open("wb") as written:
        np.savez(
            written, views=views, kept=cleaned.kept, reasons=np.array(reasons), digests=np.array(digests)
        )
    partial.replace(file)  # an interrupted write leaves none
    return cleaned


def _clean(root: Path, frame: LabelledFrame, cleaner: Cleaner) -> Outcome:
    try:
        pixels = _decode(root / frame.path)
    except (DecodeError, cv2.error):
        return UNDECODABLE
    cleaned = cleaner.clean(Frame(pixels=pixels, source=FrameSource(frame.path, 1)))
    return cleaned.view if isinstance(cleaned, CleanFrame) else cleaned.reason


def _decode(path: Path) -> Pixels:
    items = list_items(path)
    if len(items) != 1:
        raise DecodeError(f"{path.name}: one frame was expected, {len(items)} were found")
    return read_item(items[0]).pixels
