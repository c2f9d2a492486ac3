"""Read one frame at a time out of an open instance: native by offset, encapsulated by walking the items."""

import io
import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.instance import UNDEFINED_LENGTH, Instance

Span = tuple[int, int]
"""Where a fragment lies in the file: offset and length in bytes."""

ITEM, DELIMITER = 0xFFFEE000, 0xFFFEE0DD
ITEM_HEADER = 8
"""Item and Sequence Delimitation Item tags, and the bytes of tag and length (PS3.5 A.4)."""

MOST_FRAGMENTS = 1_000_000
"""A million items take 100 MB to list; the longest multi-frame objects have some ten thousand."""

STREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""How a JPEG or JPEG-LS (SOI) and a JPEG 2000 code stream (SOC, SIZ) begin."""

NATIVE_BITS = (8, 16, 32)


def native_frame(instance: Instance, index: int) -> NDArray[np.generic]:
    """Return frame `index` (0-based) as ``(rows, columns, samples)`` unsigned integers as stored.

    YBR_FULL_422 comes back with every pixel's own chroma (PS3.3 C.7.6.3.1.2).
    """
    allocated = instance.number("BitsAllocated", 8)
    if allocated not in NATIVE_BITS:
        raise instance.error("8, 16 or 32 bits allocated", str(allocated))
    pixels = instance.rows * instance.columns
    subsampled = instance.photometric == "YBR_FULL_422" and instance.length < instance.frames * pixels * 3
    size = (pixels * 2 if subsampled else pixels * instance.samples) * allocated // 8
    if instance.length < size * instance.frames:
        raise instance.error(f"{size * instance.frames} bytes of pixel data", f"{instance.length}")
    data = _read(instance, index * size, size)
    if len(data) < size:
        raise instance.error(f"{size} bytes in frame {index + 1}", f"{len(data)} (a truncated file)")
    order = "<" if instance.transfer_syntax.is_little_endian else ">"
    values = np.frombuffer(data, f"{order}u{allocated // 8}")
    if subsampled:
        pairs = values.reshape(-1, 4)
        chroma = np.repeat(pairs[:, 2:], 2, axis=0)
        luma = pairs[:, :2].reshape(-1, 1)
        return np.concatenate([luma, chroma], axis=1).reshape(instance.rows, instance.columns, 3)
    if instance.samples > 1 and instance.number("PlanarConfiguration", 0) == 1:
        planes = values.reshape(instance.samples, instance.rows, instance.columns)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    return values.reshape(instance.rows, instance.columns, instance.samples)


def encapsulated_frames(instance: Instance) -> list[list[Span]]:
    """Return the fragments of each frame; frames are told apart as PS3.5 A.4 says, or else by how they begin.

    Raises
    ------
    DecodeError
        The items do not reach their end, or cannot be dealt out to the frames that the header claims.
    """
    table, *fragments = _items(instance)
    frames = instance.frames
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    first = fragments[0][0]
    offsets = join(instance.file, [table])
    starts = [first + at for (at,) in struct.iter_unpack("<I", offsets[: len(offsets) & ~3])]
    if len(starts) != frames:
        starts = [at for at, length in fragments if _begins_stream(instance.file, at, length)]
    if len(starts) != frames:
        raise instance.error(f"{frames} encapsulated frames", f"{len(fragments)} fragments")
    places = [offset for offset, _ in fragments]
    cuts = [*(bisect_left(places, start) for start in starts), len(fragments)]
    return [fragments[low:high] for low, high in pairwise(cuts)]


def encapsulated_fragments(instance: Instance) -> list[Span]:
    """Return every fragment, frames not told apart: a video is one stream (PS3.5 8.2.5)."""
    return _items(instance)[1:]


def join(file: BinaryIO, spans: Sequence[Span]) -> bytes:
    """Return the bytes of one frame's fragments."""
    parts = []
    for offset, length in spans:
        file.seek(offset)
        parts.append(file.read(length))
    return b"".join(parts)


class Fragments(io.RawIOBase):
    """The fragments of a video as one seekable file, so that it is never in memory whole."""

    def __init__(self, file: BinaryIO, spans: Sequence[Span]) -> None:
        self._file = file
        self._spans = spans
        self._size = sum(length for _, length in spans)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position in the joined bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; fewer where a fragment ends."""
        position = self._at
        for offset, length in self._spans:
            if position < length:
                self._file.seek(offset + position)
                data = self._file.read(length - position if size < 0 else min(size, length - position))
                self._at += len(data)
                return data
            position -= length
        return b""


def _read(instance: Instance, start: int, size: int) -> bytes:
    """Read native bytes; 8-bit samples that are big endian words lie swapped (PS3.5 8.1.1, annex D)."""
    is_swapped = instance.vr == "OW" and not instance.transfer_syntax.is_little_endian
    if not is_swapped or instance.number("BitsAllocated", 8) > 8:  # noqa: PLR2004 - a byte
        instance.file.seek(instance.offset + start)
        return instance.file.read(size)
    before, after = start % 2, (start + size) % 2
    instance.file.seek(instance.offset + start - before)
    words = np.frombuffer(instance.file.read(before + size + after), ">u2")
    return words.astype("<u2").tobytes()[before : before + size]


def _items(instance: Instance) -> list[Span]:
    """Return the Basic Offset Table's item and every fragment's."""
    if instance.length != UNDEFINED_LENGTH:
        raise instance.error("encapsulated pixel data", f"{instance.length} bytes of native data")
    spans: list[Span] = []
    file, at = instance.file, instance.offset
    while len(spans) <= MOST_FRAGMENTS:
        file.seek(at)
        header = file.read(ITEM_HEADER)
        if len(header) < ITEM_HEADER:
            raise instance.error("whole fragments and a delimiter", "the end of a truncated file")
        group, element, length = struct.unpack("<HHI", header)
        tag = group << 16 | element
        if tag == DELIMITER:
            break
        if tag != ITEM:
            raise instance.error("an item or the sequence delimiter", f"tag {tag:08X}")
        spans.append((at + ITEM_HEADER, length))
        at += ITEM_HEADER + length
    if not 1 < len(spans) <= MOST_FRAGMENTS:
        raise instance.error("an offset table and at least one fragment", f"{len(spans)} items")
    return spans


def _begins_stream(file: BinaryIO, offset: int, length: int) -> bool:
    file.seek(offset)
    return file.read(min(4, length)).startswith(STREAM_STARTS)
