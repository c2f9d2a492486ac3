"""The result as DICOM: a multi-frame true-colour Secondary Capture, or one single-frame object a page.

The multi-frame form is PS3.3 A.8.5, the single-frame form A.8.1. What names patient and study is copied from
a source as raw bytes; what is ours is ASCII, which reads the same in every character set of DICOM.
"""

import datetime as dt
import io
import math
import re
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import structlog
from PIL import ImageCms
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from node.results.identity import is_anonymous
from node.results.page import draw_pages
from node.results.raw import copy_raw, keep_raw, raw_value
from node.results.report import EncodedObject, Report, SourceReference
from node.results.uids import IMPLEMENTATION_CLASS_UID, derive_uid, device_uid
from pipeline.frame import Pixels

log = structlog.get_logger()

MULTI_FRAME_TRUE_COLOUR_SC = "1.2.840.10008.5.1.4.1.1.7.4"
SINGLE_FRAME_SC = "1.2.840.10008.5.1.4.1.1.7"
SERIES_NUMBER_BASE = 9000
"""Far above what a processor counts to: our series come last in a viewer's list."""

MANUFACTURER = "endonode"
PAGE_NUMBER_VECTOR = 0x00182001
UTC_OFFSET = r"[+-](0\d|1[0-4])[0-5]\d"
"""What Timezone Offset From UTC may be (PS3.3 C.12.1.1.8); anything else is as good as none."""

COPIED = (
    "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "StudyDescription", "PatientName", "PatientID", "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyInstanceUID", "StudyID", "TimezoneOffsetFromUTC",
)  # fmt: skip
"""Patient and General Study (PS3.3 C.7.1.1, C.7.2.1), as the source has them, with its character set."""

TYPE_2 = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "StudyID",
)  # fmt: skip
"""Of these, the ones an object holds even where the source does not: empty."""


def build_secondary_capture(
    report: Report,
    *,
    template: Dataset,
    sources: Sequence[SourceReference],
    installation_id: str,
    exam_key: str,
    timezone: str,
) -> EncodedObject:
    """Return the report as an encoded multi-frame Secondary Capture; the same inputs give the same bytes.

    Parameters
    ----------
    template
        Header of the exam's first source, freshly read: its elements still raw.
    sources
        What the pages show, or everything that was read where they show nothing.
    timezone
        IANA name, or ``""``: then dates of ours are those of ``report.created_at`` as it stands.
    """
    ds = _copied_from(template)
    made_at = _local(report.created_at, ds, timezone)
    basis = (installation_id, exam_key, report.revision, report.settings_digest, report.model_digest, "sc")
    ds.SOPClassUID = MULTI_FRAME_TRUE_COLOUR_SC
    ds.SOPInstanceUID = derive_uid(*basis, MULTI_FRAME_TRUE_COLOUR_SC, 1)
    ds.SeriesInstanceUID = derive_uid(*basis, "series")
    _add_series(ds, report, made_at)
    _add_equipment(ds, report, made_at, installation_id)
    _add_image(ds, report, sources)
    ds.BurnedInAnnotation = "NO" if is_anonymous(report, template) else "YES"
    _add_pixels(ds, draw_pages(report))
    return _encoded(ds, "multi_frame", 1)


def to_single_frames(multi_frame: bytes) -> list[EncodedObject]:
    """Return one single-frame Secondary Capture a page, made from the stored multi-frame bytes alone."""
    whole = dcmread(io.BytesIO(multi_frame))
    pixels = whole.PixelData
    size = whole.Rows * whole.Columns * 3
    objects = []
    for item in range(1, int(whole.NumberOfFrames) + 1):
        ds = dcmread(io.BytesIO(multi_frame), stop_before_pixels=True)
        for keyword in ("NumberOfFrames", "FrameIncrementPointer", "PageNumberVector"):
            ds.pop(keyword, None)
        ds.SOPClassUID = SINGLE_FRAME_SC
        ds.SOPInstanceUID = derive_uid(whole.SOPInstanceUID, SINGLE_FRAME_SC, item)
        ds.InstanceNumber = item
        ds.PixelData = pixels[(item - 1) * size : item * size]
        ds["PixelData"].VR = "OB"
        objects.append(_encoded(ds, "single_frame", item))
    return objects


def _copied_from(template: Dataset) -> Dataset:
    ds = Dataset()
    for keyword in ("SpecificCharacterSet", *COPIED):
        copy_raw(template, ds, keyword)
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    if "SpecificCharacterSet" not in ds and not all(raw_value(ds, keyword).isascii() for keyword in COPIED):
        log.warning("character_set_not_stated", study_instance_uid=str(ds.StudyInstanceUID))
    return ds


def _local(created_at: dt.datetime, ds: Dataset, timezone: str) -> dt.datetime:
    """Return the time in the source's offset, else in the configured zone, which is then stated."""
    offset = raw_value(ds, "TimezoneOffsetFromUTC").decode("ascii", "replace").strip(" \0")
    if re.fullmatch(UTC_OFFSET, offset):
        return created_at.astimezone(dt.datetime.strptime(offset, "%z").tzinfo)
    ds.pop("TimezoneOffsetFromUTC", None)
    if not timezone:
        return created_at
    made_at = created_at.astimezone(ZoneInfo(timezone))
    ds.TimezoneOffsetFromUTC = made_at.strftime("%z")
    return made_at


def _add_series(ds: Dataset, report: Report, made_at: dt.datetime) -> None:
    description = f"AI IBD evidence (research use), revision {report.revision}"
    if report.supersedes is not None:
        description += f", replaces {report.supersedes}"
    ds.Modality = "OT"
    ds.SeriesNumber = SERIES_NUMBER_BASE + 10 * report.revision + 1
    ds.SeriesDescription = description
    ds.SeriesDate = ds.InstanceCreationDate = ds.ContentDate = made_at.strftime("%Y%m%d")
    ds.SeriesTime = ds.InstanceCreationTime = ds.ContentTime = made_at.strftime("%H%M%S")
    if report.unpredicted_reason == "not_lower_gi":
        ds.Laterality = ""  # unknown to us, and so is the body part
    else:
        ds.BodyPartExamined = "COLON"


def _add_equipment(ds: Dataset, report: Report, made_at: dt.datetime, installation_id: str) -> None:
    """General and SC Equipment, and what processed the images (PS3.3 C.12.1, CID 7005)."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MANUFACTURER
    ds.ConversionType = "WSD"
    device = Dataset()
    device.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    device.Manufacturer = MANUFACTURER
    device.ManufacturerModelName = report.model_name[:64]
    device.SoftwareVersions = [report.model_version, report.model_digest[:12]]
    device.DeviceUID = device_uid(installation_id, report.model_digest)
    device.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S")
    device.ContributionDescription = "Reading of endoscopic images, research use"
    ds.ContributingEquipmentSequence = [device]


def _add_image(ds: Dataset, report: Report, sources: Sequence[SourceReference]) -> None:
    ds.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    ds.InstanceNumber = 1
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = ""
    ds.ContentQualification = "RESEARCH"
    ds.DerivationDescription = (
        f"Pages that state an AI reading and show original frames beside class activations; "
        f"t {report.threshold:g}, k {report.top_k}, model digest {report.model_digest[:12]}"
    )
    ds.SourceImageSequence = [_source(source) for source in sources]
    ds.ReferencedSeriesSequence = _by_series(sources)
    _add_compression(ds, sources)


def _source(source: SourceReference) -> Dataset:
    item = _reference(source)
    if source.frame_numbers:
        item.ReferencedFrameNumber = list(source.frame_numbers)
    item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    return item


def _by_series(sources: Sequence[SourceReference]) -> list[Dataset]:
    series: dict[str, Dataset] = {}
    for source in sources:
        item = series.setdefault(source.series_instance_uid, Dataset())
        item.SeriesInstanceUID = source.series_instance_uid
        item.ReferencedInstanceSequence = [*item.get("ReferencedInstanceSequence", []), _reference(source)]
    return list(series.values())


def _reference(source: SourceReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _add_compression(ds: Dataset, sources: Sequence[SourceReference]) -> None:
    """Say that pixels were compressed with loss where those of a source were (PS3.3 C.7.6.1.1.5)."""
    lossy = [source.lossy for source in sources if source.lossy is not None]
    ds.LossyImageCompression = "01" if lossy else "00"
    ratio, method = max(lossy, key=_total_ratio, default=("", ""))
    if method and _total_ratio((ratio, method)):
        ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = ratio, method


def _total_ratio(lossy: tuple[str, str]) -> float:
    """Return the product over the steps, or 0 where the source states no number."""
    try:
        ratio = math.prod(float(step) for step in lossy[0].split("\\"))
    except ValueError:
        return 0.0
    return ratio if math.isfinite(ratio) else 0.0


def _add_pixels(ds: Dataset, pages: Sequence[Pixels]) -> None:
    ds.Rows, ds.Columns = pages[0].shape[:2]
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation = "RGB"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.NumberOfFrames = len(pages)
    if len(pages) > 1:  # PS3.3 C.8.6.3: with one frame there is nothing to step through
        ds.FrameIncrementPointer = PAGE_NUMBER_VECTOR
        ds.PageNumberVector = list(range(1, len(pages) + 1))
    ds.ICCProfile = _srgb()
    ds.add_new("PixelData", "OB", b"".join(page.tobytes() for page in pages))


def _srgb() -> bytes:
    """Return an ICC profile of sRGB; its creation date (ICC.1 7.2.8) is blanked, or no two would be equal."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")
    return bytes(profile)


def _encoded(ds: Dataset, form: str, item: int) -> EncodedObject:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = MANUFACTURER.upper()
    ds.file_meta = meta
    keep_raw(ds, is_implicit_vr=False)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return EncodedObject(
        kind="sc",
        form=form,
        item=item,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        data=buffer.getvalue(),
    )
