"""Decompress one frame of still-image pixel data with the library that is best at its code."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from pipeline.instance import Instance

BYTE = 8

FILL, APP0, APP14 = 0xFF, 0xE0, 0xEE
ADOBE_LENGTH = 12
HUFFMAN, LOSSLESS, JPEG_LS = (0xC0, 0xC1, 0xC2, 0xC3), 0xC3, 0xF7
FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}
"""Markers of ITU-T T.81 table B.1; SOF55 is JPEG-LS (T.87)."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A decompressed frame.

    Attributes
    ----------
    values
        ``(rows, columns, samples)`` integers.
    bits
        Bits that a value has.
    photometric
        What the values mean now, which is not always what the header says of the compressed ones.
    """

    values: NDArray[Any]
    bits: int
    photometric: str


@dataclass(frozen=True, slots=True)
class _Stream:
    """What a JPEG code stream says of itself; `markers` are its APP0 and APP14 segments, as slices."""

    kind: int
    precision: int
    rows: int
    columns: int
    identifiers: bytes
    is_subsampled: bool
    has_jfif: bool
    adobe_transform: int | None
    markers: tuple[slice, ...]

    def is_ycc(self, photometric: str) -> bool:
        """Tell whether the components are YCbCr: what libjpeg goes by (jdapimin.c), then the header's word.

        Headers lie: RGB stands over JFIF streams with subsampled chroma as well as over true RGB.
        """
        if self.has_jfif or self.is_subsampled:
            return True
        if self.adobe_transform is not None:
            return self.adobe_transform != 0
        return self.identifiers != b"RGB" and photometric != "RGB"


def decompress(frame: bytes, instance: Instance, *, max_frame_pixels: int) -> Samples:
    """Decompress a frame.

    Raises
    ------
    DecodeError
        The transfer syntax or the code stream's kind cannot be decoded, or it claims too many pixels.
    """
    syntax = instance.transfer_syntax
    if syntax == RLELossless:
        return _rle(frame, instance)
    if syntax in JPEG2000TransferSyntaxes:
        return _jpeg_2000(frame, instance, max_frame_pixels)
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return _jpeg(frame, instance, max_frame_pixels)
    raise instance.error("a transfer syntax that can be decoded", syntax.name)


def _rle(frame: bytes, instance: Instance) -> Samples:
    from rle.utils import decode_pixel_data  # late: a compiled codec that most instances do not need

    allocated = instance.number("BitsAllocated", 8)
    try:
        planes = decode_pixel_data(
            frame, version=2, rows=instance.rows, columns=instance.columns, bits_allocated=allocated
        )
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":  # Rust's, which Python cannot name or import
            raise
        raise ValueError("broken RLE segments") from panic
    values = np.frombuffer(planes, f"<u{allocated // 8}")
    shaped = values.reshape(instance.samples, instance.rows, instance.columns).transpose(1, 2, 0)
    return stored_values(np.ascontiguousarray(shaped), instance)


def _jpeg_2000(frame: bytes, instance: Instance, max_frame_pixels: int) -> Samples:
    import openjpeg  # late, as above

    claimed = openjpeg.get_parameters(frame)
    _check_size(claimed["rows"], claimed["columns"], instance, max_frame_pixels)
    values = openjpeg.decode(frame)
    is_rgb = instance.photometric in {"YBR_ICT", "YBR_RCT"}  # undone with the wavelet (PS3.5 8.2.4)
    return Samples(
        values=values.reshape(*values.shape[:2], -1),
        bits=int(claimed["precision"]),
        photometric="RGB" if is_rgb else instance.photometric,
    )


def _jpeg(frame: bytes, instance: Instance, max_frame_pixels: int) -> Samples:
    stream = _parse(frame)
    _check_size(stream.rows, stream.columns, instance, max_frame_pixels)
    if stream.kind == JPEG_LS:
        return _jpeg_ls(frame, instance)
    if stream.kind not in HUFFMAN or stream.precision != BYTE or len(stream.identifiers) not in {1, 3}:
        raise instance.error(
            "JPEG of 8 bits and 1 or 3 components",
            f"{stream.precision} bits, {len(stream.identifiers)} components (SOF{stream.kind - 0xC0})",
        )
    import simplejpeg  # late, as above

    if len(stream.identifiers) == 1:
        return Samples(simplejpeg.decode_jpeg(frame, "GRAY"), BYTE, instance.photometric)
    if stream.kind == LOSSLESS:  # its components are as they went in: never transformed within
        rgb = simplejpeg.decode_jpeg(_with_adobe_transform(frame, stream, 0), "RGB")
        return Samples(rgb, BYTE, instance.photometric)
    told = _with_adobe_transform(frame, stream, int(stream.is_ycc(instance.photometric)))
    return Samples(simplejpeg.decode_jpeg(told, "RGB"), BYTE, "RGB")


def _jpeg_ls(frame: bytes, instance: Instance) -> Samples:
    from jpeg_ls import decode_pixel_data  # late, as above

    data, found = decode_pixel_data(frame)
    bits = int(found["bits_per_sample"])
    shape = (found["height"], found["width"], found["components"])
    values = np.frombuffer(data, np.uint8 if bits <= BYTE else np.uint16)
    if shape[2] > 1 and found["interleave_mode"] == 0:
        values = values.reshape(shape[2], *shape[:2]).transpose(1, 2, 0)
    return Samples(values.reshape(shape), bits, instance.photometric)


def stored_values(values: NDArray[Any], instance: Instance) -> Samples:
    """Return uncompressed integers without their unused bits, and with their sign (PS3.5 8.1.1)."""
    allocated = values.dtype.itemsize * 8
    bits = instance.number("BitsStored", allocated)
    high = instance.number("HighBit", bits - 1)
    if not 0 < bits <= high + 1 <= allocated:
        raise instance.error(f"bits stored and high bit within {allocated}", f"{bits} and {high}")
    kind = "i" if instance.samples == 1 and instance.number("PixelRepresentation", 0) else "u"
    native = values.astype(f"{kind}{values.dtype.itemsize}", copy=False)
    if bits < allocated:
        native = (native << (allocated - high - 1)) >> (allocated - bits)
    return Samples(native, bits, instance.photometric)


def _check_size(rows: int, columns: int, instance: Instance, max_frame_pixels: int) -> None:
    if rows * columns > max_frame_pixels:
        raise instance.error(f"a code stream of at most {max_frame_pixels} pixels", f"{rows} x {columns}")


def _parse(frame: bytes) -> _Stream:
    """Read the segments before the first scan (ITU-T T.81 annex B)."""
    at, jfif, adobe, markers = 2, False, None, []
    while True:
        if frame[at] != FILL:
            raise ValueError("a JPEG marker was expected")
        marker = frame[at + 1]
        if marker == FILL:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        body = frame[at + 4 : at + 2 + length]
        if marker == APP0:
            jfif = jfif or body.startswith(b"JFIF\0")
            markers.append(slice(at, at + 2 + length))
        elif marker == APP14:
            adobe = body[11] if body.startswith(b"Adobe") and len(body) >= ADOBE_LENGTH else adobe
            markers.append(slice(at, at + 2 + length))
        elif marker in FRAME_HEADERS:
            precision, rows, columns, count = struct.unpack_from(">BHHB", body)
            components = [body[6 + 3 * index : 9 + 3 * index] for index in range(count)]
            factors = {component[1] for component in components}
            return _Stream(
                kind=marker,
                precision=precision,
                rows=rows,
                columns=columns,
                identifiers=bytes(component[0] for component in components),
                is_subsampled=len(factors) > 1,
                has_jfif=jfif,
                adobe_transform=adobe,
                markers=tuple(markers),
            )
        at += 2 + length


def _with_adobe_transform(frame: bytes, stream: _Stream, transform: int) -> bytes:
    """Return the stream with its APP0 and APP14 replaced by one APP14, so that libjpeg does as it is told."""
    parts, at = [b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00", bytes([transform])], 2
    for marker in stream.markers:
        parts.append(frame[at : marker.start])
        at = marker.stop
    return b"".join([*parts, frame[at:]])
