"""Open a stored instance: what its header says of its pixels, and where they lie; nothing is loaded."""

import re
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from pipeline.errors import DecodeError

KEYWORDS = (
    "SOPInstanceUID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelAspectRatio",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip
"""All that is read of a header (PS3.3 C.7.6.3); patient, overlays and pixels are skipped in the file."""

PIXEL_DATA = Tag(0x7FE0, 0x0010)
PIXEL_TAGS = frozenset({PIXEL_DATA, Tag(0x7FE0, 0x0008), Tag(0x7FE0, 0x0009)})
"""Pixel Data, and the float kinds that are no picture (PS3.3 C.7.6.24)."""

EXPLICIT_VRS = frozenset({b"OB", b"OW"})
UNDEFINED_LENGTH = 0xFFFFFFFF
META_GROUP = 0x0002

MOST_INFLATED_BYTES = 2_000_000_000
"""Bytes that a deflated dataset may grow to; it is inflated to a temporary file, never in memory."""

UNREADABLE = (
    InvalidDicomError, BytesLengthException, EOFError, ValueError, TypeError, LookupError, AttributeError,
    ArithmeticError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and the codecs raise on broken input; turned into a `DecodeError` at the door."""

_quiet = threading.Lock()


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence pydicom on odd files; under a lock, for Python's warning filters are one for the process."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """An open instance.

    Attributes
    ----------
    uid
        SOP Instance UID; "unknown" where the header has none that is one.
    transfer_syntax
        How the pixel data is encoded.
    dataset
        The image attributes; no pixels, no patient.
    rows, columns, samples, frames
        As the header says them, at least 1.
    photometric
        Photometric Interpretation.
    file, offset, length
        The open file, where the value of Pixel Data begins, and its bytes (0xFFFFFFFF: encapsulated).
    vr
        Value representation of Pixel Data.
    """

    uid: str
    transfer_syntax: UID
    dataset: Dataset
    rows: int
    columns: int
    samples: int
    frames: int
    photometric: str
    file: BinaryIO
    offset: int
    length: int
    vr: str

    def error(self, expected: str, found: str) -> DecodeError:
        """Return the error that names this instance."""
        return DecodeError(f"instance {self.uid}: {expected} was expected, {found} was found")

    def number(self, keyword: str, default: int) -> int:
        """Return an integer attribute, or the default where it is absent or empty."""
        value = self.dataset.get(keyword)
        return default if value is None or value == "" else int(value)


@contextmanager
def open_instance(path: Path, *, max_frame_pixels: int) -> Iterator[Instance]:
    """Open an instance that has pixel data of a size that may be decoded.

    Raises
    ------
    DecodeError
        It is no DICOM file, has no pixels, or claims a frame of more than `max_frame_pixels`.
    """
    with _header_read(path, KEYWORDS) as (uid, syntax, dataset, file):
        with _named_errors(uid), no_warnings():
            instance = _describe(uid, syntax, dataset, file)
        if instance.rows * instance.columns > max_frame_pixels:
            raise instance.error(
                f"a frame of at most {max_frame_pixels} pixels", f"{instance.rows} x {instance.columns}"
            )
        yield instance


def read_header(path: Path, keywords: Collection[str] | None = None) -> Dataset:
    """Return what stands before the pixels (of the given attributes only), its elements still undecoded.

    A deflated dataset is inflated to a temporary file; pixels are never in memory.

    Raises
    ------
    DecodeError
        It is no DICOM file, or its header cannot be read.
    """
    with _header_read(path, keywords) as (_, _, dataset, _):
        return dataset


def value_of(ds: Dataset, keyword: str) -> Any:
    """Return an attribute's value; None where there is none, or none that can be decoded."""
    try:
        return ds.get(keyword)
    except UNREADABLE:
        return None


@contextmanager
def _header_read(
    path: Path, keywords: Collection[str] | None
) -> Iterator[tuple[str, UID, Dataset, BinaryIO]]:
    """Give SOP Instance UID, transfer syntax, header, and the open file where the header ends."""
    with ExitStack() as opened:
        file: BinaryIO = opened.enter_context(path.open("rb"))
        uid = "unknown"
        with _named_errors(uid), no_warnings():
            read_preamble(file, False)  # noqa: FBT003 - pydicom's own order, also below
            meta = read_dataset(file, False, True, stop_when=_past_meta)  # noqa: FBT003
            uid = _clean_uid(meta.get("MediaStorageSOPInstanceUID"))
        with _named_errors(uid), no_warnings():
            syntax = UID(meta.TransferSyntaxUID)
            if syntax == DeflatedExplicitVRLittleEndian:
                inflated = opened.enter_context(tempfile.TemporaryFile())
                _inflate(file, inflated)
                file = inflated
            is_known = syntax.is_transfer_syntax  # what is not is told later, by its name
            dataset = read_dataset(
                file,
                is_known and syntax.is_implicit_VR,
                not is_known or syntax.is_little_endian,
                stop_when=_at_pixels,
                specific_tags=None if keywords is None else _tags(tuple(keywords)),
            )
            uid = _clean_uid(dataset.get("SOPInstanceUID")) if uid == "unknown" else uid
        yield uid, syntax, dataset, file


@contextmanager
def _named_errors(uid: str) -> Iterator[None]:
    """Turn what broken input raises into the error that names its instance."""
    try:
        yield
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, and not what is on it
        raise DecodeError(
            f"instance {uid}: a readable image header was expected, {type(error).__name__} was found"
        ) from error


def _describe(uid: str, syntax: UID, dataset: Dataset, file: BinaryIO) -> Instance:
    if not syntax.is_transfer_syntax:
        raise DecodeError(
            f"instance {uid}: a known transfer syntax was expected, {_clean_uid(syntax)} was found"
        )
    order = "<" if syntax.is_little_endian else ">"
    header = file.read(8)
    if header[:4] != struct.pack(f"{order}HH", PIXEL_DATA.group, PIXEL_DATA.element):
        raise DecodeError(f"instance {uid}: an image with Pixel Data was expected, none was found")
    is_explicit = header[4:6] in EXPLICIT_VRS  # files exist that are implicit under a syntax that is not
    vr, length = (header[4:6].decode(), file.read(4)) if is_explicit else ("OW", header[4:])
    instance = Instance(
        uid=uid,
        transfer_syntax=syntax,
        dataset=dataset,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        frames=int(dataset.get("NumberOfFrames") or 1),
        photometric=str(dataset.PhotometricInterpretation).strip(),
        file=file,
        offset=file.tell(),
        length=struct.unpack(f"{order}I", length)[0],
        vr=vr,
    )
    if min(instance.rows, instance.columns, instance.samples, instance.frames) < 1:
        raise instance.error(
            "at least one row, column, sample and frame",
            f"{instance.rows}, {instance.columns}, {instance.samples} and {instance.frames}",
        )
    return instance


@cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag | int]:
    return [Tag(name) for name in keywords]


def _past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    del vr, length
    return tag.group > META_GROUP


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    del vr, length
    return tag in PIXEL_TAGS


def _clean_uid(value: object) -> str:
    """Return a UID fit for a message: digits and dots only, whatever the header holds (PS3.5 9.1)."""
    text = str(value or "").strip("\0 ")
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else "unknown"


def _inflate(source: BinaryIO, target: BinaryIO) -> None:
    """Inflate a deflated dataset (PS3.5 A.5) in pieces; the target is left at its beginning."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    piece = source.read(1 << 16)
    while piece and not inflater.eof:
        target.write(inflater.decompress(piece, 1 << 20))
        if target.tell() > MOST_INFLATED_BYTES:
            raise ValueError("a deflated dataset grows too large")
        piece = inflater.unconsumed_tail or source.read(1 << 16)
    target.seek(0)
