"""Decode, clean and score the frames of an exam on all cores, in bounded memory and a fixed order."""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import MPEGTransferSyntaxes

from models.classifier import Classifier
from models.package import Package
from models.patient import FramePrediction, predict_frames
from node.results.gate import Gated, pass_gate
from node.results.page import HALF, PANEL_ROWS
from node.settings import Settings
from pipeline.adapters.rapid_text import RapidText
from pipeline.clean.layout import Layout, sampled
from pipeline.clean.near_duplicates import Fingerprint, fingerprint
from pipeline.clean.recipe import Recipe
from pipeline.clean.view import synthetic_share
from pipeline.decode import count_frames, decode, decode_frames
from pipeline.errors import DecodeError
from pipeline.frame import Box, CleanFrame, Frame, LedgerEntry, Pixels, RejectedFrame
from pipeline.tools import open_cleaner

BATCH = 8
"""Frames a thread decodes and scores at a time: the fastest schedule measured on two cores."""

LEARNED_FROM_BYTES = 96 * 2**20
"""Of pixels, at most, that an exam's layouts are learned from: 15 frames of 1920x1080."""

LEARNED_FROM_VIDEO = 4
"""First frames of a video that its layouts are learned from."""

MOST_SYNTHETIC = 0.25
"""Share of a frame's activation on filled pixels above which it does not vote. Real instrument masks, moved
at random, were laid over 500 frames of HyperKvasir and filled by Telea, 4 times each. Of the frames that
still reached t, the filling turned the label of: share up to 0.25: 0 of 413, from there to 0.5: 0 of 39,
above: 3 of 18 (the limit was chosen on other frames: 1 of 625, 1 of 63, 3 of 26)."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An accepted instance as the reader needs it."""

    instance_id: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class FrameReading:
    """What became of one frame.

    Attributes
    ----------
    frame_number
        1-based within its instance; 0 stands for an instance that could not be opened, or a video's rest.
    prediction
        None where the frame was not read; `reason` then says why.
    reason
        Why it was not read; beside a prediction, the prediction's own: why it may not vote.
    cam
        ``(classes, h, w)`` float32 class activations over `view_box`, where the network gives them.
    synthetic_share
        Share of the mass of the predicted class's activations that lies on filled pixels; None without.
    fingerprint
        Of the view, by which near-duplicates are known.
    """

    instance_id: int
    frame_number: int
    reason: str | None = None
    error_text: str | None = None
    ledger: tuple[LedgerEntry, ...] = ()
    prediction: FramePrediction | None = None
    cam: NDArray[np.float32] | None = None
    synthetic_share: float | None = None
    fingerprint: Fingerprint | None = None
    view_box: Box | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LookedAt:
    """One frame looked at once more: decoded, as a person may see it, cleaned, and its activations."""

    pixels: Pixels
    gated: Gated
    cleaned: CleanFrame | RejectedFrame
    cam: NDArray[np.float32] | None


Task = Callable[[], list[FrameReading]]
Counted = tuple[StoredImage, int | DecodeError | None]


class FrameReader:
    """Reads frames with one package and one recipe, on a pool of threads that share their networks."""

    def __init__(self, package: Package, recipe: Recipe, settings: Settings) -> None:
        self.package = package
        self.recipe_digest = recipe.digest
        self._settings = settings
        self._threads = settings.worker_threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="reader")
        self._cleaner = open_cleaner(recipe, threads=self._threads)
        # The gate has a detector, whatever the recipe leaves out.
        self._detector = self._cleaner.tools.text or RapidText(threads=self._threads)
        self._classifier = Classifier(package, threads=1)

    def close(self) -> None:
        """Stop the threads; frames under way are finished."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, images: Sequence[StoredImage]) -> list[FrameReading]:
        """Read every frame of the images, in their order.

        An image that cannot be decoded, or not to its end, gives one entry that says so; the rest is read.
        """
        readings: list[FrameReading] = []
        pending: deque[Future[list[FrameReading]]] = deque()
        counted = [(image, self._count(image)) for image in images]  # headers are Python's work: one thread's
        layouts = self._learn(counted)
        for task in self._tasks(counted, layouts):
            pending.append(self._pool.submit(task))
            if len(pending) > 2 * self._threads:
                readings += pending.popleft().result()
        for future in pending:
            readings += future.result()
        return readings

    def show(self, frames: Iterable[tuple[Path, int]]) -> list[Gated]:
        """Return frames, by file and 1-based number, as a person may see them: their text blanked flat."""
        return list(self._pool.map(self._show, frames))

    def look(self, images: Sequence[StoredImage], frames: Sequence[tuple[int, int]]) -> list[LookedAt]:
        """Return frames, by instance and 1-based number, as `read` met them among the exam's images."""
        counted = [(image, self._count(image)) for image in images]
        layouts = self._learn(counted)
        by_id = {image.instance_id: (image, count) for image, count in counted}

        def look(frame: tuple[int, int]) -> LookedAt:
            image, count = by_id[frame[0]]
            known = self._layouts_of_video(image) if count is None else layouts
            (original,) = self._decoded(image, [frame[1]])
            cleaned = self._cleaner.clean(original, known)
            cam = None
            if isinstance(cleaned, CleanFrame):
                scored = self._classifier.score(cleaned.view[None])
                cam = scored.cam[0] if scored.cam is not None else None
            gated = pass_gate(original.pixels, self._detector, shown=(PANEL_ROWS, HALF))
            return LookedAt(original.pixels, gated, cleaned, cam)

        return list(self._pool.map(look, frames))

    def _layouts_of_video(self, image: StoredImage) -> tuple[Layout, ...]:
        frames = decode(
            image.path,
            max_frame_pixels=self._settings.max_frame_pixels,
            video_frames_per_second=self._settings.video_frames_per_second,
        )
        return self._cleaner.learn([each.pixels for each in islice(frames, LEARNED_FROM_VIDEO)])

    def _show(self, frame: tuple[Path, int]) -> Gated:
        path, number = frame
        (original,) = decode_frames(path, [number], max_frame_pixels=self._settings.max_frame_pixels)
        return pass_gate(original.pixels, self._detector, shown=(PANEL_ROWS, HALF))

    def _count(self, image: StoredImage) -> int | DecodeError | None:
        """Return how many frames a still has, or why that cannot be told; None stands for a video."""
        if image.transfer_syntax_uid in MPEGTransferSyntaxes:
            return None
        try:
            return count_frames(image.path, max_frame_pixels=self._settings.max_frame_pixels)
        except DecodeError as error:
            return error

    def _learn(self, counted: Sequence[Counted]) -> tuple[Layout, ...]:
        """Return the layouts of an exam's stills, whatever the order that they are given in."""
        stills = [(image, count) for image, count in counted if isinstance(count, int)]
        stills.sort(key=lambda still: still[0].sop_instance_uid)
        return self._cleaner.learn(self._samples(stills), spread=self._pool.map)

    def _samples(self, stills: Sequence[tuple[StoredImage, int]]) -> Iterator[Pixels]:
        ends = list(accumulate(count for _, count in stills))
        left = LEARNED_FROM_BYTES
        for place in sampled(ends[-1] if ends else 0):
            at = bisect_right(ends, place)
            image, count = stills[at]
            number = place - (ends[at] - count) + 1
            with suppress(DecodeError):  # told where the frame is read
                for frame in self._decoded(image, [number]):
                    left -= frame.pixels.nbytes
                    yield frame.pixels
            if left < 0:
                break

    def _decoded(self, image: StoredImage, numbers: Sequence[int]) -> Iterator[Frame]:
        return decode_frames(image.path, numbers, max_frame_pixels=self._settings.max_frame_pixels)

    def _tasks(self, counted: Sequence[Counted], layouts: Sequence[Layout]) -> Iterator[Task]:
        batch: list[tuple[StoredImage, list[int]]] = []
        size = 0
        for image, count in counted:
            if count is None:
                yield partial(self._read_video, image)
                continue
            if isinstance(count, DecodeError):
                yield partial(list, [_undecodable(image, 0, count)])
                continue
            numbers = list(range(1, count + 1))
            while numbers:
                part, numbers = numbers[: BATCH - size], numbers[BATCH - size :]
                batch.append((image, part))
                size += len(part)
                if size == BATCH:
                    yield partial(self._read_batch, batch, layouts)
                    batch, size = [], 0
        if batch:
            yield partial(self._read_batch, batch, layouts)

    def _read_batch(
        self, parts: Sequence[tuple[StoredImage, list[int]]], layouts: Sequence[Layout]
    ) -> list[FrameReading]:
        cleaned: list[tuple[StoredImage, CleanFrame | RejectedFrame] | FrameReading] = []
        for image, numbers in parts:
            left = list(numbers)
            try:
                for frame in self._decoded(image, numbers):
                    cleaned.append((image, self._cleaner.clean(frame, layouts)))
                    left.pop(0)
            except DecodeError as error:
                cleaned += [_undecodable(image, number, error) for number in left]
        return self._score(cleaned)

    def _read_video(self, image: StoredImage) -> list[FrameReading]:
        frames = decode(
            image.path,
            max_frame_pixels=self._settings.max_frame_pixels,
            video_frames_per_second=self._settings.video_frames_per_second,
        )
        readings: list[FrameReading] = []
        broken: list[FrameReading] = []
        waiting: list[Frame] = []
        layouts: tuple[Layout, ...] | None = None
        while not broken:
            try:
                waiting = []
                for frame in islice(frames, LEARNED_FROM_VIDEO):
                    waiting.append(frame)
            except DecodeError as error:
                broken = [_undecodable(image, 0, error)]
            if not waiting:
                break
            layouts = self._cleaner.learn([each.pixels for each in waiting]) if layouts is None else layouts
            readings += self._score([(image, self._cleaner.clean(each, layouts)) for each in waiting])
        return readings + broken

    def _score(
        self, cleaned: Sequence[tuple[StoredImage, CleanFrame | RejectedFrame] | FrameReading]
    ) -> list[FrameReading]:
        kept = [item[1] for item in cleaned if isinstance(item, tuple) and isinstance(item[1], CleanFrame)]
        predictions: Iterator[tuple[FramePrediction, NDArray[np.float32] | None]] = iter(())
        if kept:
            scores = self._classifier.score(np.stack([frame.view for frame in kept]))
            read = predict_frames(scores, [frame.source for frame in kept], self.package)
            cams = list(scores.cam) if scores.cam is not None else [None] * len(read)
            predictions = iter(list(zip(read, cams, strict=True)))
        readings = []
        for item in cleaned:
            if isinstance(item, FrameReading):
                readings.append(item)
                continue
            image, frame = item
            number = frame.source.frame_number
            if isinstance(frame, RejectedFrame):
                reading = FrameReading(image.instance_id, number, reason=frame.reason, ledger=frame.ledger)
            else:
                prediction, cam = next(predictions)
                share = self._synthetic_share(frame, prediction, cam)
                if prediction.reason is None and share is not None and share > MOST_SYNTHETIC:
                    prediction = replace(prediction, reason="rests_on_filled")
                reading = FrameReading(
                    image.instance_id,
                    number,
                    reason=prediction.reason,
                    ledger=frame.ledger,
                    prediction=prediction,
                    cam=cam,
                    synthetic_share=share,
                    fingerprint=fingerprint(frame.view),
                    view_box=frame.view_box,
                )
            readings.append(reading)
        return readings

    def _synthetic_share(
        self, frame: CleanFrame, prediction: FramePrediction, cam: NDArray[np.float32] | None
    ) -> float | None:
        if cam is None:
            return None
        of_label = cam[self.package.classes.index(prediction.label)]
        return synthetic_share(of_label, frame.synthetic, frame.view_box)


def _undecodable(image: StoredImage, number: int, error: DecodeError) -> FrameReading:
    return FrameReading(image.instance_id, number, reason="undecodable", error_text=str(error))
