"""Sample the frames of a video instance by PyAV, with their true numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.colour import pixel_ratio, square
from pipeline.frame import Pixels
from pipeline.instance import Instance
from pipeline.pixel_data import Fragments, encapsulated_fragments

CONTAINERS = "mpegts,mpeg,mpegvideo,h264,hevc,mov,mp4,m4v"
CODECS = "mpeg2video,mpeg1video,h264,hevc"
"""What PS3.5 8.2.5 to 8.2.9 allow; a playlist or a concat script, which open other files, is neither."""

FALLBACK_RATE = 25.0
"""Frames a second where the stream does not say."""

HD_ROWS = 720
"""Rows from which a video that does not name its matrix has that of ITU-R BT.709, else that of BT.601."""

UNSPECIFIED = 2
"""Matrix coefficients of ITU-T H.273 table 4."""


def sample_video(
    instance: Instance,
    is_wanted: Callable[[int, float], bool],
    *,
    last: int | None = None,
    max_frame_pixels: int,
) -> Iterator[tuple[int, Pixels]]:
    """Yield the 1-based number and the RGB of each wanted frame, in order of presentation.

    Every frame is decoded, one in memory at a time; only the wanted ones are converted.

    Parameters
    ----------
    is_wanted
        Tells from a frame's number and the stream's rate (frames a second) whether it is wanted.
    last
        Number after which nothing more is decoded.
    """
    with _opened(instance, max_frame_pixels) as (container, stream, rate):
        ratio = pixel_ratio(instance)
        if "PixelAspectRatio" not in instance.dataset and stream.sample_aspect_ratio:
            ratio = 1 / float(stream.sample_aspect_ratio)
        number = 0
        for number, frame in enumerate(container.decode(stream), start=1):
            if frame.width * frame.height > max_frame_pixels:
                raise instance.error(f"frames of at most {max_frame_pixels} pixels", "more within the stream")
            if is_wanted(number, rate):
                yield number, square(_rgb(frame), ratio)
            if number == last:
                break
        if number == 0:
            raise instance.error("a video stream", "no frame")


def video_rate(instance: Instance, *, max_frame_pixels: int) -> float:
    """Return the frames a second that the stream states."""
    with _opened(instance, max_frame_pixels) as (_, _, rate):
        return rate


@contextmanager
def _opened(instance: Instance, max_frame_pixels: int) -> Iterator[tuple[Any, Any, float]]:
    try:
        import av  # late: an extra that only video needs
    except ImportError as error:
        raise instance.error("PyAV (the extra `video`)", "none installed") from error
    joined = Fragments(instance.file, encapsulated_fragments(instance))
    options = {"format_whitelist": CONTAINERS, "codec_whitelist": CODECS}
    try:
        with av.open(joined, options=options) as container:
            if not container.streams.video:
                raise instance.error("a video stream", "none")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if stream.width * stream.height > max_frame_pixels:
                raise instance.error(
                    f"frames of at most {max_frame_pixels} pixels", f"{stream.height} x {stream.width}"
                )
            yield container, stream, float(stream.average_rate or FALLBACK_RATE)
    except av.FFmpegError as error:
        raise instance.error("a video that PyAV decodes", type(error).__name__) from error


def _rgb(frame: Any) -> Pixels:
    matrix = None
    if frame.colorspace == UNSPECIFIED:
        matrix = "ITU709" if frame.height >= HD_ROWS else "ITU601"
    return np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=matrix), np.uint8)
