"""What a received object says of itself, and whether it is whole: one pass over it that reads no pixels."""

import contextlib
import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.charset import python_encoding
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from node.dicom.walk import DOES_NOT_MATCH, Walk, inflated, read_file_meta, refuse, tag_name
from node.errors import ReceivedObjectError

_VIDEO = "1.2.840.10008.1.2.4.10"
"""MPEG-2, MPEG-4 and HEVC all start so; a fragment of theirs is not a frame (PS3.5 8.2.5 to 8.2.9)."""
_UID_LENGTH: Final = 64  # PS3.5 9.1

_SPECIFIC_CHARACTER_SET = 0x00080005
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_DATE = 0x00080020
_ACCESSION_NUMBER = 0x00080050
_MODALITY = 0x00080060
_MANUFACTURER = 0x00080070
_MANUFACTURER_MODEL_NAME = 0x00081090
_PATIENT_ID = 0x00100020
_ISSUER_OF_PATIENT_ID = 0x00100021
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_NUMBER_OF_FRAMES = 0x00280008
_ROWS = 0x00280010
_COLUMNS = 0x00280011
_BITS_ALLOCATED = 0x00280100
_WANTED = frozenset({
    _SPECIFIC_CHARACTER_SET, _SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_DATE, _ACCESSION_NUMBER, _MODALITY,
    _MANUFACTURER, _MANUFACTURER_MODEL_NAME, _PATIENT_ID, _ISSUER_OF_PATIENT_ID, _STUDY_INSTANCE_UID,
    _SERIES_INSTANCE_UID, _SAMPLES_PER_PIXEL, _PHOTOMETRIC_INTERPRETATION, _NUMBER_OF_FRAMES, _ROWS, _COLUMNS,
    _BITS_ALLOCATED,
})  # fmt: skip
_DEVICE_UID = 0x00181002
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_WANTED_BELOW = {
    0x00082112: _REFERENCED_SOP_INSTANCE_UID,  # Source Image Sequence
    0x00081140: _REFERENCED_SOP_INSTANCE_UID,  # Referenced Image Sequence
    0x0008114A: _REFERENCED_SOP_INSTANCE_UID,  # Referenced Instance Sequence
    0x00081115: _REFERENCED_SOP_INSTANCE_UID,  # Referenced Series Sequence
    0x00089124: _REFERENCED_SOP_INSTANCE_UID,  # Derivation Image Sequence
    0x52009229: _REFERENCED_SOP_INSTANCE_UID,  # Shared Functional Groups Sequence
    0x52009230: _REFERENCED_SOP_INSTANCE_UID,  # Per-Frame Functional Groups Sequence
    0x0018A001: _DEVICE_UID,  # Contributing Equipment Sequence
}

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class Header:
    """What the node needs to know of an object; padding stripped, ``""`` where absent.

    Attributes
    ----------
    source_uids
        SOP Instance UIDs that the object says it was made from or belongs with.
    equipment_uids
        Device UIDs of its Contributing Equipment Sequence (PS3.3 C.12.1).
    study_date
        YYYYMMDD; ``""`` too where it is no date.
    device_model
        Manufacturer and Manufacturer's Model Name (PS3.3 C.7.5.1) in one, cut at 64 characters.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    accession_number: str
    modality: str
    source_uids: frozenset[str]
    equipment_uids: frozenset[str]
    study_date: str = ""
    device_model: str = ""


def is_uid(value: str) -> bool:
    """Tell whether digits and dots are as PS3.5 9.1 has them; leading zeros (the wild has them) pass.

    >>> is_uid("1.2.840.10008.1.1"), is_uid("1.2.040"), is_uid("1..2"), is_uid("../../etc"), is_uid("1" * 65)
    (True, True, False, False, False)
    """
    return len(value) <= _UID_LENGTH and _UID.fullmatch(value) is not None


def read_header(path: Path, *, max_inflated_bytes: int) -> Header:
    """Read the header of a DICOM file (PS3.10) and check the whole object's structure.

    Raises
    ------
    ReceivedObjectError
        Status 0xC000: it is cut off, holds a length that does not fit or a VR that does not exist, or
        inflates past `max_inflated_bytes`. Status 0xA900: an identifier is missing or malformed, or the pixel
        data is not as long as the header says.
    OSError
        The file cannot be read, or there is no room to inflate it in.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        syntax, start = read_file_meta(file, size)
        if syntax == DeflatedExplicitVRLittleEndian:
            with inflated(file, path.parent, max_inflated_bytes) as (body, body_size):
                walk = _walk(body, 0, body_size, syntax)
                walk.run()
        else:
            walk = _walk(file, start, size, syntax)
            walk.run()
    return _header(walk, syntax)


def peek_study_instance_uid(path: Path) -> str | None:
    """Return the Study Instance UID of a file that is still being written, or None if it is not there yet."""
    values: dict[int, bytes] = {}
    with path.open("rb") as file, contextlib.suppress(ReceivedObjectError):  # the rest is on its way
        size = path.stat().st_size
        syntax, start = read_file_meta(file, size)
        walk = _walk(file, start, size, syntax)
        values = walk.values
        walk.run()
    uid = values.get(_STUDY_INSTANCE_UID, b"").decode("ascii", "replace").strip(" \0")
    return uid if is_uid(uid) else None


def _walk(file: BinaryIO, start: int, size: int, syntax: str) -> Walk:
    return Walk(file, start, size, syntax, wanted=_WANTED, wanted_below=_WANTED_BELOW)


def _header(walk: Walk, syntax: str) -> Header:
    values = walk.values

    def uid(tag: int, name: str) -> str:
        found = _text(values, tag)
        if not is_uid(found):
            refuse(DOES_NOT_MATCH, f"{name} UID is {'malformed' if found else 'missing'}")
        return found

    header = Header(
        sop_instance_uid=uid(_SOP_INSTANCE_UID, "SOP Instance"),
        sop_class_uid=uid(_SOP_CLASS_UID, "SOP Class"),
        transfer_syntax_uid=syntax,
        study_instance_uid=uid(_STUDY_INSTANCE_UID, "Study Instance"),
        series_instance_uid=uid(_SERIES_INSTANCE_UID, "Series Instance"),
        patient_id=_text(values, _PATIENT_ID),
        issuer_of_patient_id=_text(values, _ISSUER_OF_PATIENT_ID),
        accession_number=_text(values, _ACCESSION_NUMBER),
        modality=_text(values, _MODALITY, 16),
        source_uids=frozenset(walk.uids_below[_REFERENCED_SOP_INSTANCE_UID]),
        equipment_uids=frozenset(walk.uids_below[_DEVICE_UID]),
        study_date=_date(values, _STUDY_DATE),
        device_model=_device_model(values),
    )
    _check_pixels(walk, syntax)
    return header


def _date(values: dict[int, bytes], tag: int) -> str:
    text = _decoded(values, tag)
    with contextlib.suppress(ValueError):
        dt.date.fromisoformat(text)
        return text if text.isdecimal() else ""
    return ""


def _device_model(values: dict[int, bytes]) -> str:
    named = (_decoded(values, tag) for tag in (_MANUFACTURER, _MANUFACTURER_MODEL_NAME))
    return " ".join(" ".join(named).replace("\0", " ").split())[:64].strip()


def _text(values: dict[int, bytes], tag: int, max_characters: int = 64) -> str:
    text = _decoded(values, tag)
    if len(text) > max_characters or "\0" in text:
        refuse(DOES_NOT_MATCH, f"element {tag_name(tag)} is no text of its VR")
    return text


def _decoded(values: dict[int, bytes], tag: int) -> str:
    """Decode one value; what its character set does not explain is kept byte for byte as ISO 8859-1."""
    value = values.get(tag, b"").strip(b" \0")
    terms = values.get(_SPECIFIC_CHARACTER_SET, b"").decode("ascii", "replace").split("\\")
    codec = "ascii" if value.isascii() else python_encoding.get(terms[0].strip(" \0"), "latin-1")
    try:
        return value.decode(codec).strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def _number(walk: Walk, tag: int) -> int:
    value = walk.values.get(tag, b"")
    if len(value) != 2:  # noqa: PLR2004 - US (PS3.5 6.2)
        refuse(DOES_NOT_MATCH, f"element {tag_name(tag)} is missing or malformed")
    return int(walk.coding.short.unpack(value)[0])


def _check_pixels(walk: Walk, syntax: str) -> None:
    """Hold the pixel data against the Image Pixel module (PS3.3 C.7.6.3): length, or number of fragments."""
    if walk.pixel_bytes is None and walk.fragments is None:
        if _ROWS in walk.values or "Image Storage" in UID(_text(walk.values, _SOP_CLASS_UID)).name:
            refuse(DOES_NOT_MATCH, "an image without pixel data")
        return
    frames_text = _text(walk.values, _NUMBER_OF_FRAMES) or "1"
    if not frames_text.isdecimal():
        refuse(DOES_NOT_MATCH, "Number of Frames is no number")
    frames = max(int(frames_text), 1)
    samples = _number(walk, _SAMPLES_PER_PIXEL)
    bits = _number(walk, _ROWS) * _number(walk, _COLUMNS) * frames * _number(walk, _BITS_ALLOCATED)
    if walk.fragments is not None:
        if walk.fragments < (1 if syntax.startswith(_VIDEO) else frames):
            refuse(DOES_NOT_MATCH, f"pixel data has {walk.fragments} fragments for {frames} frames")
        return
    allowed = {(bits * samples + 7) // 8}
    if _text(walk.values, _PHOTOMETRIC_INTERPRETATION).startswith("YBR_") and samples == 3:  # noqa: PLR2004
        allowed.add((bits * 2 + 7) // 8)  # 4:2:2: two samples a pixel on average (PS3.3 C.7.6.3.1.2)
    if walk.pixel_bytes not in allowed | {expected + expected % 2 for expected in allowed}:
        refuse(DOES_NOT_MATCH, f"pixel data has {walk.pixel_bytes} bytes; the header says {sorted(allowed)}")
