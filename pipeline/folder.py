"""Clean a folder of images or DICOM files: frames in, clean frames, masks and the ledger out."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.clean.cleaner import Cleaner
from pipeline.clean.layout import Layout, sampled
from pipeline.contact_sheet import Triple, draw_sheet, triple_of
from pipeline.decode import count_frames, decode_frames
from pipeline.errors import DecodeError
from pipeline.frame import Frame, FrameSource, Pixels, RejectedFrame

Done = tuple[dict[str, object], Triple | None]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MAX_FRAME_PIXELS = 4096 * 4096
SHOWN = 60
"""Frames on the contact sheet, at most; evenly spaced where there are more."""


@dataclass(frozen=True, slots=True)
class Item:
    """One frame of the input: its file, its 1-based number there, and the stem of what is written of it."""

    path: Path
    number: int
    stem: str


@dataclass(frozen=True, slots=True)
class Summary:
    """How many frames there were, were kept, and could not be decoded."""

    frames: int
    kept: int
    undecodable: int


def list_items(path: Path) -> list[Item]:
    """Return the frames of a file or folder, in the order of their names.

    Raises
    ------
    DecodeError
        There is none.
    """
    if not path.exists():
        raise DecodeError(f"{path}: a folder or file was expected, nothing is there")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    items: list[Item] = []
    taken: set[str] = set()
    for file in files:
        if file.suffix.lower() in IMAGES:
            numbers = [1]
        elif _is_dicom(file):
            try:
                numbers = list(range(1, count_frames(file, max_frame_pixels=MAX_FRAME_PIXELS) + 1))
            except DecodeError:
                numbers = [1]  # said, with the reason, when its turn comes
        else:
            continue
        base = (
            str(file.relative_to(path).with_suffix("")).replace(os.sep, "_") if path.is_dir() else file.stem
        )
        for number in numbers:
            stem = base if len(numbers) == 1 else f"{base}_{number:05d}"
            while stem in taken:
                stem += "_"
            taken.add(stem)
            items.append(Item(file, number, stem))
    if not items:
        raise DecodeError(
            f"{path}: images ({', '.join(sorted(IMAGES))}) or DICOM files were expected, none was found"
        )
    return items


def read_item(item: Item) -> Frame:
    """Decode one frame.

    Raises
    ------
    DecodeError
        It cannot be decoded.
    """
    if item.path.suffix.lower() not in IMAGES:
        (frame,) = decode_frames(item.path, [item.number], max_frame_pixels=MAX_FRAME_PIXELS)
        return frame
    decoded = cv2.imdecode(np.frombuffer(item.path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    if decoded is None:
        raise DecodeError(f"{item.path.name}: an image was expected, and cannot be decoded")
    return Frame(pixels=decoded.astype(np.uint8, copy=False), source=FrameSource(item.stem, 1))


def clean_folder(
    items: Sequence[Item], out: Path, cleaner: Cleaner, *, on_frame: Callable[[], None] = lambda: None
) -> Summary:
    """Clean the frames on all cores and write what became of them.

    ``clean/<stem>.png``; ``mask/<stem>.png``, 255 where a pixel was filled, in the source's geometry;
    ``ledger.jsonl``, one object a frame in their order; ``contact-sheet.png``.
    """
    for name in ("clean", "mask"):
        (out / name).mkdir(parents=True, exist_ok=True)
    layouts = cleaner.learn(_readable(items[place] for place in sampled(len(items))))
    every = max(1, -(-len(items) // SHOWN))
    triples: list[Triple] = []
    kept = undecodable = 0
    with (out / "ledger.jsonl").open("w", encoding="utf-8") as ledger:
        outcomes = _in_order(items, lambda item: _clean(item, out, cleaner, layouts))
        for number, (item, (outcome, triple)) in enumerate(zip(items, outcomes, strict=True)):
            kept += bool(outcome["kept"])
            undecodable += outcome["reason"] == "undecodable"
            ledger.write(json.dumps({"name": item.stem, **outcome}) + "\n")
            if number % every == 0 and triple is not None:
                triples.append(triple)
            on_frame()
    if triples:
        cv2.imwrite(str(out / "contact-sheet.png"), draw_sheet(triples)[..., ::-1])
    return Summary(len(items), kept, undecodable)


def _clean(item: Item, out: Path, cleaner: Cleaner, layouts: Sequence[Layout]) -> Done:
    """Clean one frame and write its pictures; return its line of the ledger and its row of the sheet."""
    try:
        frame = read_item(item)
    except DecodeError as error:
        return {"kept": False, "reason": "undecodable", "error": str(error), "steps": []}, None
    cleaned = cleaner.clean(frame, layouts)
    steps = [asdict(entry) for entry in cleaned.ledger]
    if isinstance(cleaned, RejectedFrame):
        outcome = {
            "kept": False,
            "reason": cleaned.reason,
            "content_area": cleaned.content_area,
            "steps": steps,
        }
        return outcome, triple_of(item.stem, frame.pixels, cleaned)
    mask = cleaned.synthetic.astype(np.uint8) * 255
    for name, picture in (("clean", cleaned.view[..., ::-1]), ("mask", mask)):
        if not cv2.imwrite(str(out / name / f"{item.stem}.png"), picture):
            raise OSError(f"{out / name}: a picture could not be written")
    outcome = {"kept": True, "reason": None, "content_area": cleaned.content_area, "steps": steps}
    return outcome, triple_of(item.stem, frame.pixels, cleaned)


def _readable(items: Iterable[Item]) -> Iterator[Pixels]:
    for item in items:
        with suppress(DecodeError):  # said when its turn comes
            yield read_item(item).pixels


def _in_order(items: Sequence[Item], clean: Callable[[Item], Done]) -> Iterator[Done]:
    """Yield each item's outcome in order, worked on all cores, few at a time in memory."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Done]] = deque()
        for item in items:
            pending.append(pool.submit(clean, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
