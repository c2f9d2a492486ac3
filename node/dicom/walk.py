"""One pass over an encoded dataset (PS3.5 7): every length checked, no value read that is not asked for.

Reading is tolerant where the meaning is plain (tags out of order, values of odd length) and strict where it
is not: every length must fit what is there, and every VR must be known.
"""

import contextlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final, NoReturn

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.errors import ReceivedObjectError

CANNOT_UNDERSTAND: Final = 0xC000
"""PS3.4 table B.2-1: what cannot be parsed."""
DOES_NOT_MATCH: Final = 0xA900
"""PS3.4 table B.2-1: what can be parsed, and is not what it claims to be."""

_UNCOMPRESSED = frozenset({
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
})  # fmt: skip
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and plain Pixel Data (PS3.3 C.7.6.24, C.7.6.25, C.7.6.3)."""
_SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # PS3.5 table 7.1-2
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 table 7.1-1
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5
_MAX_DEPTH: Final = 32
_MAX_VALUE_BYTES: Final = 1024
"""Bytes of a value that is read: what is asked for, UIDs and short texts, has 64 characters at most."""


def refuse(status: int, message: str) -> NoReturn:
    """Raise what an object that cannot be kept is answered with."""
    raise ReceivedObjectError(message, status=status)


def tag_name(tag: int) -> str:
    """Write a tag as the Standard does.

    >>> tag_name(0x00080018)
    '(0008,0018)'
    """
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class _Coding:
    """How elements are written: byte order, and whether the VR stands in them (PS3.5 7.1)."""

    __slots__ = ("implicit", "long_length", "short", "tag_long", "tag_vr_short")

    def __init__(self, order: str, *, implicit: bool) -> None:
        self.implicit = implicit
        self.tag_long = Struct(order + "HHL")
        self.tag_vr_short = Struct(order + "HH2sH")
        self.long_length = Struct(order + "L")
        self.short = Struct(order + "H")


_IMPLICIT = _Coding("<", implicit=True)
_EXPLICIT = _Coding("<", implicit=False)
_CODINGS: dict[str, _Coding] = {
    ImplicitVRLittleEndian: _IMPLICIT,
    ExplicitVRBigEndian: _Coding(">", implicit=False),
}


class Walk:
    """A pass over the dataset that lies in a file from `start` to its `size`.

    Attributes
    ----------
    values
        Bytes of the elements of the outermost dataset whose tags are in `wanted`.
    uids_below
        For each tag named by `wanted_below` (tag of an outermost sequence -> tag of a UID anywhere below it),
        the UIDs found.
    pixel_bytes, fragments
        Length of uncompressed pixel data, or number of fragments of compressed; None where there is none.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        size: int,
        syntax: str,
        *,
        wanted: frozenset[int],
        wanted_below: Mapping[int, int],
    ) -> None:
        self._file, self._at, self._size, self._syntax = file, start, size, syntax
        self._wanted, self._wanted_below = wanted, wanted_below
        self.coding = _CODINGS.get(syntax, _EXPLICIT)
        self.values: dict[int, bytes] = {}
        self.uids_below: dict[int, set[str]] = {tag: set() for tag in wanted_below.values()}
        self.pixel_bytes: int | None = None
        self.fragments: int | None = None
        file.seek(start)

    def run(self) -> None:
        """Walk to the end of the file, which must be the end of an element."""
        self._dataset(self.coding, self._size, None, 0)

    def _advance(self, count: int) -> int:
        if count > self._size - self._at:
            refuse(CANNOT_UNDERSTAND, f"cut off: {count} bytes expected, {self._size - self._at} left")
        self._at += count
        return count

    def _take(self, count: int) -> bytes:
        return self._file.read(self._advance(count))

    def _skip(self, count: int) -> None:
        self._file.seek(self._advance(count), 1)

    def _dataset(self, coding: _Coding, end: int | None, below: int | None, depth: int) -> None:
        """Walk elements up to `end`, or to the item's delimiter; UIDs of tag `below` are collected."""
        if depth > _MAX_DEPTH:
            refuse(CANNOT_UNDERSTAND, f"sequences nested deeper than {_MAX_DEPTH}")
        while end is None or self._at < end:
            tag, vr, length = self._element_start(coding)
            if tag == _ITEM_END and end is None:
                return
            room = (self._size if end is None else end) - self._at
            if (length != _UNDEFINED and length > room) or tag >= _ITEM:
                refuse(
                    CANNOT_UNDERSTAND, f"element {tag_name(tag)} is out of place, or longer than what is left"
                )
            if depth == 0 and tag in _PIXELS:
                self._pixels(coding, length)
            elif vr == b"SQ" or length == _UNDEFINED or (coding.implicit and tag in self._wanted_below):
                inside = self._wanted_below.get(tag) if depth == 0 else below
                self._sequence(coding, (tag, vr, length), inside, depth)
            elif (depth == 0 and tag in self._wanted) or tag == below:
                self._keep_value(tag, length, depth)
            else:
                self._skip(length)

    def _element_start(self, coding: _Coding) -> tuple[int, bytes, int]:
        start = self._take(8)
        if coding.implicit:
            group, element, length = coding.tag_long.unpack(start)
            return group << 16 | element, b"", length
        group, element, vr, length = coding.tag_vr_short.unpack(start)
        tag = group << 16 | element
        if vr in _SHORT_VRS:
            return tag, vr, length
        if vr in _LONG_VRS:
            return tag, vr, coding.long_length.unpack(self._take(4))[0]
        if group == 0xFFFE:  # noqa: PLR2004 - delimiters carry no VR (PS3.5 7.5)
            return tag, b"", coding.tag_long.unpack(start)[2]
        return refuse(CANNOT_UNDERSTAND, f"element ({group:04X},{element:04X}) has no known VR")

    def _sequence(
        self, coding: _Coding, element: tuple[int, bytes, int], below: int | None, depth: int
    ) -> None:
        tag, vr, length = element
        if vr in (b"OB", b"OW"):  # compressed pixels of an icon (PS3.5 A.4)
            self._fragments(coding)
            return
        if vr == b"UN":  # PS3.5 6.2.2: of undefined length, it is a sequence in Implicit VR Little Endian
            coding = _IMPLICIT
        elif vr not in (b"SQ", b""):
            refuse(CANNOT_UNDERSTAND, f"element {tag_name(tag)} may not be of undefined length")
        end = None if length == _UNDEFINED else self._at + length
        while end is None or self._at < end:
            item, item_length = self._item_start(coding)
            if item == _SEQUENCE_END and end is None:
                return
            if item != _ITEM:
                refuse(CANNOT_UNDERSTAND, f"an item was expected in {tag_name(tag)}")
            if item_length != _UNDEFINED and item_length > (self._size if end is None else end) - self._at:
                refuse(CANNOT_UNDERSTAND, f"an item of {tag_name(tag)} is longer than what is left")
            item_end = None if item_length == _UNDEFINED else self._at + item_length
            self._dataset(coding, item_end, below, depth + 1)

    def _item_start(self, coding: _Coding) -> tuple[int, int]:
        group, element, length = coding.tag_long.unpack(self._take(8))
        return group << 16 | element, length

    def _pixels(self, coding: _Coding, length: int) -> None:
        if self.pixel_bytes is not None or self.fragments is not None:
            refuse(CANNOT_UNDERSTAND, "more than one pixel data element")
        is_native = self._syntax in _UNCOMPRESSED
        if is_native != (length != _UNDEFINED):
            refuse(CANNOT_UNDERSTAND, f"pixel data is not encoded as transfer syntax {self._syntax} has it")
        if is_native:
            self.pixel_bytes = length
            self._skip(length)
        else:
            self.fragments = self._fragments(coding) - 1  # the first is the offset table (PS3.5 A.4)

    def _fragments(self, coding: _Coding) -> int:
        """Walk encapsulated items to their delimiter, over the payloads, and return how many there are."""
        count = 0
        while True:
            item, length = self._item_start(coding)
            if item == _SEQUENCE_END:
                return count
            if item != _ITEM:
                refuse(CANNOT_UNDERSTAND, "a fragment was expected in the pixel data")
            self._skip(length)
            count += 1

    def _keep_value(self, tag: int, length: int, depth: int) -> None:
        if length > _MAX_VALUE_BYTES:
            refuse(DOES_NOT_MATCH, f"element {tag_name(tag)} has {length} bytes")
        value = self._take(length)
        if depth:
            self.uids_below[tag].add(value.decode("ascii", "replace").strip(" \0"))
        elif self.values.setdefault(tag, value) is not value:
            refuse(CANNOT_UNDERSTAND, f"element {tag_name(tag)} stands there twice")


def read_file_meta(file: BinaryIO, size: int) -> tuple[str, int]:
    """Return the transfer syntax and where the dataset starts (PS3.10 7.1).

    Raises
    ------
    ReceivedObjectError
        The file does not start as a DICOM file does.
    """
    if file.read(132)[128:] != b"DICM":
        refuse(CANNOT_UNDERSTAND, "not a DICOM file")
    start = file.read(12)
    if len(start) < 12 or start[:8] != b"\x02\x00\x00\x00UL\x04\x00":  # noqa: PLR2004 - one UL element
        refuse(CANNOT_UNDERSTAND, "File Meta Information has no group length")
    end = 144 + _EXPLICIT.long_length.unpack(start[8:])[0]
    while file.tell() < min(end, size):
        group, element, vr, length = _EXPLICIT.tag_vr_short.unpack(file.read(8).ljust(8, b"\0"))
        if vr in _LONG_VRS:
            length = _EXPLICIT.long_length.unpack(file.read(4).ljust(4, b"\0"))[0]
        if (group, element) == (0x0002, 0x0010):
            return file.read(min(length, 64)).decode("ascii", "replace").strip(" \0"), file.seek(end)
        file.seek(length, 1)
    return refuse(CANNOT_UNDERSTAND, "File Meta Information names no transfer syntax")


@contextlib.contextmanager
def inflated(file: BinaryIO, folder: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Inflate the rest of `file` (PS3.5 A.5) into a nameless file in `folder`; yield that and its size.

    Raises
    ------
    ReceivedObjectError
        It is damaged or cut off, or expands past `max_bytes`.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    with tempfile.TemporaryFile(dir=folder) as body:
        waiting = file.read(1 << 16)
        while waiting and not inflater.eof:
            try:
                piece = inflater.decompress(waiting, 1 << 20)
            except zlib.error:
                refuse(CANNOT_UNDERSTAND, "the deflated dataset is damaged")
            size += len(piece)
            if size > max_bytes:
                refuse(CANNOT_UNDERSTAND, f"the deflated dataset expands past {max_bytes} bytes")
            body.write(piece)
            waiting = inflater.unconsumed_tail or file.read(1 << 16)
        if not inflater.eof:
            refuse(CANNOT_UNDERSTAND, "the deflated dataset is cut off")
        yield body, size
