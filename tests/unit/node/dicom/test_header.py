"""What is read from an object before it is kept, and what is noticed of its structure."""

import io
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    VLEndoscopicImageStorage,
)

from node.dicom.header import Header, is_uid, peek_study_instance_uid, read_header
from node.dicom.walk import CANNOT_UNDERSTAND, DOES_NOT_MATCH
from node.errors import ReceivedObjectError

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def make(**attributes: Any) -> Dataset:
    """Return an endoscopic image of 4 x 6 pixels, with what a PACS adds; `attributes` are set over it."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = VLEndoscopicImageStorage, "1.2.3.4.5"
    ds.AccessionNumber, ds.Modality, ds.PatientName, ds.PatientID = "A 1", "ES", "No^Name", "P1 "
    ds.IssuerOfPatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "HOSPITAL", "1.2.3", "1.2.3.1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 4, 6, 8, 8, 7
    ds.PixelRepresentation, ds.PixelData = 0, bytes(72)
    ds["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def references(uid: str, keyword: str = "ReferencedSOPInstanceUID") -> Sequence:
    """Return a sequence of one item that names a UID."""
    item = Dataset()
    setattr(item, keyword, uid)
    return Sequence([item])


def encode(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the object as a file, in the transfer syntax."""
    buffer = io.BytesIO()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read(data: bytes, folder: Path, max_inflated_bytes: int = 1_000_000) -> Header:
    """Read the header of these bytes."""
    path = folder / "object"
    path.write_bytes(data)
    return read_header(path, max_inflated_bytes=max_inflated_bytes)


def status_of(data: bytes, folder: Path, **limits: int) -> int:
    """Return the status that these bytes are refused with."""
    with pytest.raises(ReceivedObjectError) as caught:
        read(data, folder, **limits)
    return caught.value.status


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_the_header_is_read_in_every_encoding(tmp_path: Path, syntax: str, *, undefined: bool) -> None:
    """Sequences are written both ways in the wild, and their insides must be found in each."""
    ds = make(
        SourceImageSequence=references("1.2.9.1"),
        ReferencedImageSequence=references("1.2.9.2"),
        ContributingEquipmentSequence=references("1.2.9.4", "DeviceUID"),
        RequestAttributesSequence=references("1.2.9.9"),
        StudyDate="20260301", Manufacturer="OLYMPUS", ManufacturerModelName="CV-190",
    )  # fmt: skip
    derivation = Dataset()
    derivation.SourceImageSequence = references("1.2.9.3")
    groups = Dataset()
    groups.DerivationImageSequence = Sequence([derivation])
    ds.PerFrameFunctionalGroupsSequence = Sequence([groups])
    for element in ds.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    assert read(encode(ds, syntax), tmp_path) == Header(
        sop_instance_uid="1.2.3.4.5",
        sop_class_uid=VLEndoscopicImageStorage,
        transfer_syntax_uid=syntax,
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        patient_id="P1",
        issuer_of_patient_id="HOSPITAL",
        accession_number="A 1",
        modality="ES",
        source_uids=frozenset({"1.2.9.1", "1.2.9.2", "1.2.9.3"}),
        equipment_uids=frozenset({"1.2.9.4"}),
        study_date="20260301",
        device_model="OLYMPUS CV-190",
    )


@pytest.mark.parametrize("date", [b"20261399", b"2026W011", b"2026.03.01", b"20260301-20260302", b"\xff"])
def test_a_date_or_a_device_that_is_no_such_thing_keeps_no_image_out(tmp_path: Path, date: bytes) -> None:
    """They are there to find an exam by: an image is worth more than its date."""
    ds = make(ManufacturerModelName="  CV \0 190 ", Manufacturer="M" * 60)
    data = encode(ds, ExplicitVRLittleEndian)
    at = data.index(b"\x08\x00\x50\x00SH")
    element = b"\x08\x00\x20\x00DA" + len(date).to_bytes(2, "little") + date
    header = read(data[:at] + element + data[at:], tmp_path)
    assert (header.study_date, header.device_model) == ("", "M" * 60 + " CV")


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_no_beginning_of_an_object_passes_for_the_whole(tmp_path: Path, syntax: str) -> None:
    """Cut at any byte it is refused: a transfer that ended early must never be answered with success."""
    data = encode(make(SourceImageSequence=references("1.2.9.1")), syntax)
    read(data, tmp_path)
    end = (
        len(data) - 1 if syntax == DeflatedExplicitVRLittleEndian else len(data)
    )  # there the last byte may pad
    for length in range(end):
        assert status_of(data[:length], tmp_path) in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)


WHOLE = {syntax: encode(make(), syntax) for syntax in SYNTAXES}


@given(noise=st.binary(max_size=400))
@settings(deadline=None)
def test_noise_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    """The one error that may come of a stranger's bytes is the one that is answered."""
    folder = tmp_path_factory.getbasetemp()
    for syntax, head in WHOLE.items():
        assert status_of(head[: head.index(b"DICM") + 4] + noise, folder) == CANNOT_UNDERSTAND
        data = noise if syntax != DeflatedExplicitVRLittleEndian else zlib.compress(noise, wbits=-15)
        start = 144 + int.from_bytes(head[140:144], "little")
        assert status_of(head[:start] + data, folder) in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)


def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """A flipped bit anywhere gives a header or the one error, never another (seeded)."""
    rng = random.Random(3)
    data = encode(
        make(SourceImageSequence=references("1.2.9.1"), PixelData=encapsulate([b"x" * 40])), JPEGBaseline8Bit
    )
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.randrange(132, len(data))] ^= 1 << rng.randrange(8)
        try:
            read(bytes(damaged), tmp_path)
        except ReceivedObjectError:
            refused += 1
    assert 50 < refused < 500


def native(**attributes: Any) -> bytes:
    """Return an uncompressed image."""
    return encode(make(**attributes))


def compressed(frames: list[bytes], syntax: str = JPEGBaseline8Bit, **attributes: Any) -> bytes:
    """Return an encapsulated one."""
    ds = make(PixelData=encapsulate(frames), **attributes)
    ds["PixelData"].is_undefined_length = True
    return encode(ds, syntax)


UNKNOWN_SEQUENCE = (  # PS3.5 6.2.2: in Implicit VR Little Endian, whatever the transfer syntax
    b"\x09\0\x10\x10UN\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    b"\x09\0\x01\x10\x04\0\0\0abcd\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
)
FITTING: dict[str, Callable[[], bytes]] = {
    "odd length, padded": lambda: native(Rows=3, Columns=5, PixelData=bytes(46)),
    "odd length, not padded": lambda: native(Rows=3, Columns=5, PixelData=bytes(46))[:-1].replace(
        (46).to_bytes(4, "little"), (45).to_bytes(4, "little")
    ),
    "4:2:2, subsampled": lambda: native(PhotometricInterpretation="YBR_FULL_422", PixelData=bytes(48)),
    "4:2:2, not subsampled": lambda: native(PhotometricInterpretation="YBR_FULL_422", PixelData=bytes(72)),
    "single bits": lambda: native(
        SamplesPerPixel=1, BitsAllocated=1, NumberOfFrames="3", PixelData=bytes(10)
    ),
    "16 bits": lambda: native(BitsAllocated=16, PixelData=bytes(144)),
    "two frames": lambda: native(NumberOfFrames="2", PixelData=bytes(144)),
    "empty Number of Frames": lambda: native(NumberOfFrames=None),
    "one frame in two fragments": lambda: encode(
        make(PixelData=encapsulate([b"x" * 40], fragments_per_frame=2)), JPEGBaseline8Bit
    ),
    "video in one fragment": lambda: compressed([b"x" * 40], MPEG4HP41, NumberOfFrames="99"),
    "a sequence of unknown VR": lambda: native() + UNKNOWN_SEQUENCE,
    "a document": lambda: encode(without("Rows", "PixelData", sop_class=EncapsulatedPDFStorage)),
}


def without(*keywords: str, sop_class: str = VLEndoscopicImageStorage) -> Dataset:
    """Return the image without some of its attributes, or another object without them."""
    ds = make(SOPClassUID=sop_class)
    for keyword in keywords:
        delattr(ds, keyword)
    return ds


@pytest.mark.parametrize("what", FITTING)
def test_pixel_data_that_fits_passes(tmp_path: Path, what: str) -> None:
    """What the Standard allows, and the padding that the wild has, must not be turned away."""
    read(FITTING[what](), tmp_path)


ITEM_PAST_ITS_SEQUENCE = (  # 16 bytes of sequence, an item of 100 in it, and 92 bytes that would fill it up
    b"\x40\0\x75\x02SQ\0\0\x10\0\0\0\xfe\xff\0\xe0\x64\0\0\0\x40\0\x07\0LO\0\0"
    b"\x41\0\x10\0OB\0\0\x50\0\0\0" + bytes(80)
)
NEVER_ENDING = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"

MISFITS: dict[str, tuple[Callable[[], bytes], int]] = {
    "a row too few": (lambda: native(PixelData=bytes(54)), DOES_NOT_MATCH),
    "a row too many": (lambda: native(PixelData=bytes(90)), DOES_NOT_MATCH),
    "a frame too few": (lambda: native(NumberOfFrames="2"), DOES_NOT_MATCH),
    "RGB with the length of 4:2:2": (lambda: native(PixelData=bytes(48)), DOES_NOT_MATCH),
    "no Rows": (lambda: encode(without("Rows")), DOES_NOT_MATCH),
    "no pixel data": (lambda: encode(without("PixelData")), DOES_NOT_MATCH),
    "an image cut off before its pixel description": (
        lambda: encode(without("PixelData", "Rows")),
        DOES_NOT_MATCH,
    ),
    "Number of Frames is a word": (
        lambda: native(NumberOfFrames="1").replace(b"IS\2\x001 ", b"IS\2\0xx"),
        DOES_NOT_MATCH,
    ),
    "fewer fragments than frames": (lambda: compressed([b"x" * 40], NumberOfFrames="2"), DOES_NOT_MATCH),
    "offset table alone": (lambda: compressed([]), DOES_NOT_MATCH),
    "no sequence delimiter": (lambda: compressed([b"x" * 40])[:-8], CANNOT_UNDERSTAND),
    "uncompressed length in a compressed syntax": (
        lambda: native().replace(ExplicitVRLittleEndian.encode(), RLELossless.encode()),
        CANNOT_UNDERSTAND,
    ),
    "fragments in an uncompressed syntax": (lambda: relabelled(compressed([b"x" * 40])), CANNOT_UNDERSTAND),
    "bytes after the end": (lambda: native() + b"\1\2\3", CANNOT_UNDERSTAND),
    "pixel data twice": (lambda: native() + native()[-84:], CANNOT_UNDERSTAND),
    "Patient ID twice": (lambda: native() + b"\x10\0\x20\0LO\2\0P2", CANNOT_UNDERSTAND),
    "unknown VR": (lambda: native().replace(b"\x10\0\x20\0LO", b"\x10\0\x20\0XX"), CANNOT_UNDERSTAND),
    "Patient ID of 65 characters": (lambda: native(PatientID="9" * 65), DOES_NOT_MATCH),
    "Patient ID of 2000 characters": (lambda: native(PatientID="9" * 2000), DOES_NOT_MATCH),
    "zero byte within the Patient ID": (lambda: native(PatientID="P1\0P2"), DOES_NOT_MATCH),
    "no Study Instance UID": (lambda: encode(without("StudyInstanceUID")), DOES_NOT_MATCH),
    "a path as SOP Instance UID": (lambda: native().replace(b"1.2.3.4.5\0", b"../../../x"), DOES_NOT_MATCH),
    "an item longer than its sequence": (lambda: native() + ITEM_PAST_ITS_SEQUENCE, CANNOT_UNDERSTAND),
    "fragments of a defined length": (
        lambda: compressed([b"x" * 40]).replace(b"OB\0\0\xff\xff\xff\xff", b"OB\0\0\x44\0\0\0"),
        CANNOT_UNDERSTAND,
    ),
    "sequences without end": (lambda: native() + NEVER_ENDING * 5000, CANNOT_UNDERSTAND),
    "no DICM": (lambda: bytes(200), CANNOT_UNDERSTAND),
}  # fmt: skip


def relabelled(data: bytes) -> bytes:
    """Return a JPEG file that says it is Explicit VR Little Endian."""
    return data.replace(JPEGBaseline8Bit.encode(), ExplicitVRLittleEndian.encode().ljust(22, b"\0"))


@pytest.mark.filterwarnings("ignore:The value length")  # pydicom's, of the values too long
@pytest.mark.parametrize("what", MISFITS)
def test_what_contradicts_itself_is_refused(tmp_path: Path, what: str) -> None:
    """Kept with success, each of these would fail later, when the sender has deleted its copy."""
    make_bytes, status = MISFITS[what]
    assert status_of(make_bytes(), tmp_path) == status


def test_a_deflated_object_may_not_expand_past_the_limit(tmp_path: Path) -> None:
    """Ten kilobytes become ten megabytes: neither disk nor memory is a stranger's to fill."""
    data = encode(make(Rows=2000, Columns=2000, PixelData=bytes(12_000_000)), DeflatedExplicitVRLittleEndian)
    assert len(data) < 50_000
    assert read(data, tmp_path, max_inflated_bytes=13_000_000).patient_id == "P1"
    tracemalloc.start()
    try:
        assert status_of(data, tmp_path, max_inflated_bytes=11_000_000) == CANNOT_UNDERSTAND
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


def test_pixels_are_not_read(tmp_path: Path) -> None:
    """The check is made while the sender waits, so it may cost nothing for a video of hours."""
    path = tmp_path / "object"
    data = native(Rows=20_000, Columns=20_000, PixelData=bytes(4))
    head = data[:-8] + (1_200_000_000).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 1_200_000_000)
    tracemalloc.start()
    begun = time.monotonic()
    try:
        assert read_header(path, max_inflated_bytes=1).patient_id == "P1"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 0.5


@pytest.mark.parametrize(
    ("character_set", "value", "text"),
    [
        ("ISO_IR 192", "Müller-7".encode(), "Müller-7"),
        ("ISO_IR 100", "Müller-7".encode("latin-1"), "Müller-7"),
        ("GB18030", "王-7".encode("gb18030"), "王-7"),
        ("ISO_IR 192", b"M\xfcller-7", "Müller-7"),
        (None, b"M\xfcller-7", "Müller-7"),
        ("ISO_IR 999", b"M\xfcller-7", "Müller-7"),
        (None, b"  P1 \0", "P1"),
    ],
)
def test_identifiers_are_read_in_their_character_set(
    tmp_path: Path, character_set: str | None, value: bytes, text: str
) -> None:
    """The same patient sent in two encodings is one patient; what cannot be decoded keeps its bytes apart."""
    ds = make(PatientID="@" * len(value))
    ds.SpecificCharacterSet = character_set and "ISO_IR 100"
    data = encode(ds).replace(b"ISO_IR 100", (character_set or "").encode().ljust(10))
    padded = ("@" * len(value)).encode().ljust(len(value) + len(value) % 2)
    assert read(data.replace(padded, value.ljust(len(padded))), tmp_path).patient_id == text


def test_the_study_is_known_before_the_object_has_arrived(tmp_path: Path) -> None:
    """It is what holds the exam open meanwhile; half a UID is none."""
    path = tmp_path / "object"
    data = native(StudyInstanceUID="1.2.3.4.5.6.7.8.9.10")
    seen = []
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        seen.append(peek_study_instance_uid(path))
    assert set(seen) == {None, "1.2.3.4.5.6.7.8.9.10"}
    assert seen == sorted(seen, key=lambda uid: uid is not None)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=5))
def test_what_the_standard_calls_a_uid_is_one(components: list[int]) -> None:
    """PS3.5 9.1, and no more than 64 characters."""
    uid = ".".join(map(str, components))
    assert is_uid(uid) == (len(uid) <= 64)
    assert not is_uid(uid + ".")
    assert not is_uid(uid + "/")
    assert not is_uid(uid + "\n")


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the oddest of the files
def test_real_files_say_what_pydicom_says(data_dir: Path) -> None:
    """64 public files by many hands: no oddity of the wild may shift a value."""
    checked = 0
    for path in sorted((data_dir / "dicom").glob("*.dcm")):
        try:
            header = read_header(path, max_inflated_bytes=10**9)
        except ReceivedObjectError:
            continue
        ds = dcmread(path, stop_before_pixels=True)
        assert header.sop_instance_uid == ds.SOPInstanceUID
        assert header.study_instance_uid == ds.StudyInstanceUID
        assert header.patient_id == str(ds.get("PatientID") or "").strip()
        assert header.modality == str(ds.get("Modality") or "")
        checked += 1
    assert checked == 59
