"""Decode an instance into frames: lazily, one in memory at a time, always RGB."""

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import MPEGTransferSyntaxes

from pipeline.codecs import Samples, decompress, stored_values
from pipeline.colour import pixel_ratio, square, to_rgb
from pipeline.frame import Frame, FrameSource, Pixels
from pipeline.instance import UNREADABLE, Instance, open_instance
from pipeline.pixel_data import encapsulated_frames, join, native_frame
from pipeline.video import sample_video, video_rate


def decode(path: Path, *, max_frame_pixels: int, video_frames_per_second: float = 1.0) -> Iterator[Frame]:
    """Yield the frames of an instance, in order.

    Parameters
    ----------
    max_frame_pixels
        Pixels that a frame may have; nothing larger is allocated, whatever a header claims.
    video_frames_per_second
        Frames a second taken from a video; their numbers are those of the video's own frames.

    Raises
    ------
    DecodeError
        While iterating: the instance has no pixels, is truncated, too large, or in a code that cannot be
        decoded. The message names the SOP Instance UID and nothing else of the header.
    """
    with _instance(path, max_frame_pixels) as instance:
        if _is_video(instance):
            frames = sample_video(
                instance,
                lambda number, rate: (number - 1) % _step(rate, video_frames_per_second) == 0,
                max_frame_pixels=max_frame_pixels,
            )
        else:
            frames = _stills(instance, range(1, instance.frames + 1), max_frame_pixels)
        yield from _framed(instance, frames)


def decode_frames(path: Path, numbers: Collection[int], *, max_frame_pixels: int) -> Iterator[Frame]:
    """Yield the frames of these 1-based numbers, in order; a video's numbers count all of its frames.

    Raises
    ------
    DecodeError
        As `decode` does, or the instance has no such frame.
    """
    wanted = sorted(set(numbers))
    with _instance(path, max_frame_pixels) as instance:
        if not wanted:
            return
        if _is_video(instance):
            chosen = frozenset(wanted)
            frames = sample_video(
                instance,
                lambda number, _: number in chosen,
                last=wanted[-1],
                max_frame_pixels=max_frame_pixels,
            )
        elif wanted[0] >= 1 and wanted[-1] <= instance.frames:
            frames = _stills(instance, wanted, max_frame_pixels)
        else:
            raise instance.error(f"frames 1 to {instance.frames}", f"a wish for {wanted[0]} to {wanted[-1]}")
        yield from _framed(instance, frames)


def count_frames(path: Path, *, max_frame_pixels: int, video_frames_per_second: float = 1.0) -> int:
    """Return how many frames `decode` gives, by the header's word for a video's length."""
    with _instance(path, max_frame_pixels) as instance:
        if not _is_video(instance):
            return instance.frames
        rate = video_rate(instance, max_frame_pixels=max_frame_pixels)
        return math.ceil(instance.frames / _step(rate, video_frames_per_second))


@contextmanager
def _instance(path: Path, max_frame_pixels: int) -> Iterator[Instance]:
    """Open an instance; what a codec raises on its bytes leaves as a `DecodeError`."""
    with open_instance(path, max_frame_pixels=max_frame_pixels) as instance:
        try:
            yield instance
        except UNREADABLE as error:
            raise instance.error("pixel data that decodes", type(error).__name__) from error


def _is_video(instance: Instance) -> bool:
    return instance.transfer_syntax in MPEGTransferSyntaxes


def _step(rate: float, wanted_rate: float) -> int:
    return max(1, round(rate / wanted_rate))


def _stills(
    instance: Instance, numbers: Iterable[int], max_frame_pixels: int
) -> Iterator[tuple[int, Pixels]]:
    is_native = not instance.transfer_syntax.is_encapsulated
    spans = [] if is_native else encapsulated_frames(instance)
    ratio = pixel_ratio(instance)
    for number in numbers:
        if is_native:
            samples: Samples = stored_values(native_frame(instance, number - 1), instance)
        else:
            frame = join(instance.file, spans[number - 1])
            samples = decompress(frame, instance, max_frame_pixels=max_frame_pixels)
        yield number, square(to_rgb(samples, instance), ratio)


def _framed(instance: Instance, frames: Iterable[tuple[int, Pixels]]) -> Iterator[Frame]:
    for number, pixels in frames:
        yield Frame(pixels=pixels, source=FrameSource(instance.uid, number))
