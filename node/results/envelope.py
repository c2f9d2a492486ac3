"""What every object of ours shares: whose it is, its series, its equipment, what it refers to, its encoding.

What names patient and study is copied from a source as raw bytes; what is ours is ASCII, which reads the same
in every character set of DICOM.
"""

import datetime as dt
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import structlog
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from node.results.iod import check_object, defect_of_codes
from node.results.raw import copy_raw, keep_raw, raw_value
from node.results.report import EncodedObject, Report, SourceReference
from node.results.uids import IMPLEMENTATION_CLASS_UID, derive_uid, device_uid

log = structlog.get_logger()

SERIES_NUMBER_BASE = 9000
"""Far above what a processor counts to: our series come last in a viewer's list."""

SERIES = {
    "sc": (1, "OT", "AI IBD evidence"),
    "sr": (2, "SR", "AI IBD reading"),
    "ko": (3, "KO", "AI IBD key images"),
    "rn": (4, "KO", "AI IBD rejection note"),
}
"""By kind: what is added to the Series Number, Modality, and how the Series Description begins."""

MANUFACTURER = "endonode"
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


@dataclass(frozen=True, slots=True)
class Exam:
    """Whose results they are, and who states them.

    Attributes
    ----------
    template
        Header of the exam's first source, freshly read: its elements still raw.
    timezone
        IANA name, or ``""``: the zone of this machine, whose offset is then not stated.
    """

    template: Dataset
    installation_id: str
    exam_key: str
    timezone: str


def begin_object(kind: str, sop_class_uid: str, report: Report, exam: Exam) -> Dataset:
    """Return a dataset that holds all but the content: patient, study, series, equipment, UIDs and times.

    `kind` is a key of `SERIES`.
    """
    ds = _copied_from(exam.template)
    made_at = _local(report.created_at, ds, exam.timezone)
    reading = report.revision, report.settings_digest, report.model_digest
    basis = (exam.installation_id, exam.exam_key, *reading, kind)
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = derive_uid(*basis, sop_class_uid, 1)
    ds.SeriesInstanceUID = derive_uid(*basis, "series")
    ds.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    ds.InstanceNumber = 1
    number, ds.Modality, description = SERIES[kind]
    ds.SeriesNumber = SERIES_NUMBER_BASE + 10 * report.revision + number
    replaced = "" if report.supersedes is None else f", replaces {report.supersedes}"
    ds.SeriesDescription = f"{description} (research use), revision {report.revision}{replaced}"
    ds.SeriesDate = ds.InstanceCreationDate = ds.ContentDate = made_at.strftime("%Y%m%d")
    ds.SeriesTime = ds.InstanceCreationTime = ds.ContentTime = made_at.strftime("%H%M%S")
    ds.Manufacturer = ds.ManufacturerModelName = MANUFACTURER
    device = Dataset()
    device.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    device.Manufacturer = MANUFACTURER
    device.ManufacturerModelName = report.model_name[:64]
    device.SoftwareVersions = [report.model_version, report.model_digest[:12]]
    device.DeviceUID = device_uid(exam.installation_id, report.model_digest)
    device.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S")
    device.ContributionDescription = "Reading of endoscopic images, research use"
    ds.ContributingEquipmentSequence = [device]
    return ds


def encode(ds: Dataset, kind: str, form: str, item: int) -> EncodedObject:
    """Return the dataset as it is stored and sent. Raises `InvalidResultError` where its IOD is not met."""
    check_object(ds)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = MANUFACTURER.upper()
    ds.file_meta = meta
    keep_raw(ds, is_implicit_vr=False)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return EncodedObject(
        kind=kind,
        form=form,
        item=item,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        data=buffer.getvalue(),
    )


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Return an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def reference(source: SourceReference) -> Dataset:
    """Return a reference to one object (PS3.3 10.8, SOP Instance Reference Macro)."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    return item


def by_study(study_instance_uid: str, sources: Sequence[SourceReference]) -> list[Dataset]:
    """Return references to objects of one study, by series (PS3.3 C.17.2.1)."""
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = by_series(sources, "ReferencedSOPSequence")
    return [study]


def by_series(sources: Sequence[SourceReference], keyword: str) -> list[Dataset]:
    """Return one item a series, whose sequence of that keyword refers to its objects."""
    series: dict[str, Dataset] = {}
    for source in sources:
        item = series.setdefault(source.series_instance_uid, Dataset())
        item.SeriesInstanceUID = source.series_instance_uid
        setattr(item, keyword, [*item.get(keyword, []), reference(source)])
    return list(series.values())


def _copied_from(template: Dataset) -> Dataset:
    ds = Dataset()
    for keyword in ("SpecificCharacterSet", *COPIED):
        copy_raw(template, ds, keyword)
        is_sequence = keyword in ds and ds.get_item(keyword).VR == "SQ"
        if is_sequence and defect_of_codes(ds[keyword].value, keyword) is not None:
            del ds[keyword]  # a code without its meaning would make the result invalid too
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    if "SpecificCharacterSet" not in ds and not all(raw_value(ds, keyword).isascii() for keyword in COPIED):
        log.warning("character_set_not_stated", study_instance_uid=str(ds.StudyInstanceUID))
    return ds


def _local(created_at: dt.datetime, ds: Dataset, timezone: str) -> dt.datetime:
    """Return the time in the source's offset, else in the configured zone, which is then stated, else here.

    A Study Time without an offset is a wall's; ours beside it, in UTC, would lie hours and days apart.
    """
    offset = raw_value(ds, "TimezoneOffsetFromUTC").decode("ascii", "replace").strip(" \0")
    if re.fullmatch(UTC_OFFSET, offset):
        return created_at.astimezone(dt.datetime.strptime(offset, "%z").tzinfo)
    ds.pop("TimezoneOffsetFromUTC", None)
    if not timezone:
        return created_at.astimezone()
    made_at = created_at.astimezone(ZoneInfo(timezone))
    ds.TimezoneOffsetFromUTC = made_at.strftime("%z")
    return made_at
