"""What a Unified Procedure Step says (PS3.4 table CC.2.5-3): as it comes, and as its performer fills it."""

import datetime as dt
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import groupby

from pydicom import Dataset
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from node.dicom.identifier import QueryError, values_of
from node.workitem_states import CANCELED, COMPLETED, SCHEDULED

UPS_CLASS = "1.2.840.10008.5.1.4.34.6.1"
"""UPS Push SOP Class: of every workitem, whichever class it is spoken of under (PS3.4 CC.3.1)."""
INVALID_VALUE, MISSING_ATTRIBUTE, MISSING_VALUE = 0x0106, 0x0120, 0x0121  # PS3.7 annex C.5
NOT_SCHEDULED = 0xC309  # PS3.4 table CC.2.5-4

PROGRESS, PERFORMED = (
    "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence",
)  # fmt: skip
TYPE_1 = (
    "ProcedureStepLabel", "ScheduledProcedureStepStartDateTime", "ScheduledProcedureStepPriority",
    "InputReadinessState", "ProcedureStepState",
)  # fmt: skip
TYPE_2 = (
    "WorklistLabel", "ScheduledProcessingParametersSequence", "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence", "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence", "CommentsOnTheScheduledProcedureStep", "InputInformationSequence",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence", PROGRESS, PERFORMED,
)  # fmt: skip
TERMS = {
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW"),
    "InputReadinessState": ("INCOMPLETE", "UNAVAILABLE", "READY"),
}
"""PS3.3 C.30.2."""
NOT_TOLD = (
    "PerformedStationClassCodeSequence", "PerformedStationGeographicLocationCodeSequence",
    "PerformedProcessingParametersSequence",
)  # fmt: skip
FINAL_NEEDS = {
    COMPLETED: (PERFORMED, (
        "PerformedStationNameCodeSequence", "PerformedWorkitemCodeSequence", "OutputInformationSequence",
        "PerformedProcedureStepStartDateTime", "PerformedProcedureStepEndDateTime",
    )),
    CANCELED: (PROGRESS, (
        "ProcedureStepCancellationDateTime", "ProcedureStepDiscontinuationReasonCodeSequence",
    )),
}  # fmt: skip
"""Final state codes P and X."""

DIAGNOSIS = ("110003", "DCM", "Computer Aided Diagnosis")  # PS3.16 CID 9231
FAILED, UNSPECIFIED = ("110501", "Equipment failure"), ("110513", "Discontinued for unspecified reason")
"""PS3.16 CID 9300."""
REASON_LENGTH = 1024  # PS3.5 6.2: an ST


class WorkitemError(QueryError):
    """A request about a workitem that is refused; `status` is what it is answered with."""


def encode(ds: Dataset) -> bytes:
    """Encode a dataset as the tables keep it: Implicit VR Little Endian."""
    buffer = BytesIO()
    file = DicomIO(buffer)
    file.is_implicit_VR, file.is_little_endian = True, True
    write_dataset(file, ds)
    return buffer.getvalue()


def decode(data: bytes) -> Dataset:
    """Read what `encode` has written."""
    return read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)


def check_new(ds: Dataset, worklist_label: str) -> None:
    """Hold a workitem that is to be created against the Standard; what may be empty may be absent.

    Raises `WorkitemError` where a value is missing, or none that is allowed.
    """
    if ds.get("ProcedureStepState", SCHEDULED) != SCHEDULED:
        raise WorkitemError("ProcedureStepState: SCHEDULED expected", NOT_SCHEDULED)
    for keyword in TYPE_1:
        if keyword not in ds:
            raise WorkitemError(f"{keyword}: missing", MISSING_ATTRIBUTE)
        if not values_of(ds, keyword):
            raise WorkitemError(f"{keyword}: has no value", MISSING_VALUE)
        if ds[keyword].value not in TERMS.get(keyword, [ds[keyword].value]):
            raise WorkitemError(f"{keyword}: {', '.join(TERMS[keyword])} expected", INVALID_VALUE)
    for keyword in ("TransactionUID", PROGRESS, PERFORMED):
        if ds.get(keyword):
            raise WorkitemError(f"{keyword}: no value expected", INVALID_VALUE)
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, [] if keyword.endswith("Sequence") else "")
    ds.WorklistLabel = ds.WorklistLabel or worklist_label
    ds.pop("TransactionUID", None)


def study_of(ds: Dataset) -> str:
    """Return the one study that a workitem is about; `WorkitemError` where it names none, or several."""
    named = set(values_of(ds, "StudyInstanceUID"))
    for keyword in ("InputInformationSequence", "ReferencedRequestSequence"):
        if not named:
            named = {uid for item in ds.get(keyword) or () for uid in values_of(item, "StudyInstanceUID")}
    if len(named) != 1 or not UID(min(named)).is_valid:
        status = INVALID_VALUE if named else MISSING_VALUE
        raise WorkitemError("InputInformationSequence: one study expected", status)
    return named.pop()


def is_for(ds: Dataset, ae_title: str) -> bool:
    """Tell whether a workitem is scheduled for the station of that name."""
    stations = ds.get("ScheduledStationNameCodeSequence") or ()
    return any(ae_title in values_of(station, "CodeValue") for station in stations)


def only(ds: Dataset, names: Iterable[str | int]) -> Dataset:
    """Return these of a dataset's attributes, by keyword or tag, and what tells how its text is encoded."""
    part = Dataset()
    for name in ("SpecificCharacterSet", *names):
        if name in ds:
            part[name] = ds[name]
    return part


def begin(ds: Dataset, ae_title: str, now: dt.datetime) -> None:
    """Write down who performs a step, what and since when."""
    performed = Dataset()
    performed.PerformedStationNameCodeSequence = [_code(ae_title, "99ENDONODE", ae_title)]
    performed.PerformedWorkitemCodeSequence = ds.get("ScheduledWorkitemCodeSequence") or [_code(*DIAGNOSIS)]
    performed.PerformedProcedureStepStartDateTime = moment(now)
    for keyword in NOT_TOLD:
        setattr(performed, keyword, [])
    setattr(ds, PERFORMED, [performed])


def tell_progress(ds: Dataset, percent: int, description: str) -> bool:
    """Write down how far a step has come; return whether that is news."""
    told = ds.get(PROGRESS) or [Dataset()]
    item = Dataset()
    item.ProcedureStepProgress, item.ProcedureStepProgressDescription = str(percent), description
    setattr(ds, PROGRESS, [item])
    return bool(item != told[0])


def complete(
    ds: Dataset, now: dt.datetime, study: str, outputs: Sequence[tuple[str, Sequence[str], str, str]]
) -> None:
    """Write down that a step is done, and what it has brought forth (PS3.3 table 10-3b).

    Parameters
    ----------
    outputs
        Series Instance UID, the AE titles to retrieve it from, SOP Class and SOP Instance UID of each object.
    """
    performed = ds[PERFORMED].value[0]
    performed.PerformedProcedureStepEndDateTime = moment(now)
    performed.OutputInformationSequence = []
    for (series, ae_titles), objects in groupby(sorted(outputs), key=lambda output: output[:2]):
        item = Dataset()
        item.TypeOfInstances, item.StudyInstanceUID, item.SeriesInstanceUID = "DICOM", study, series
        item.ReferencedSOPSequence, item.DICOMRetrievalSequence = [], []
        for *_, sop_class_uid, sop_instance_uid in objects:
            referenced = Dataset()
            referenced.ReferencedSOPClassUID = sop_class_uid
            referenced.ReferencedSOPInstanceUID = sop_instance_uid
            item.ReferencedSOPSequence.append(referenced)
        for ae_title in ae_titles:
            source = Dataset()
            source.RetrieveAETitle = ae_title
            item.DICOMRetrievalSequence.append(source)
        performed.OutputInformationSequence.append(item)
    tell_progress(ds, 100, "Done")


def cancel(
    ds: Dataset, now: dt.datetime, reason: str, codes: Sequence[Dataset] = (), *, failed: bool = False
) -> None:
    """Write down when and why a step was given up."""
    item = Dataset()
    item.ProcedureStepCancellationDateTime = moment(now)
    item.ReasonForCancellation = reason[:REASON_LENGTH]
    value, meaning = FAILED if failed else UNSPECIFIED
    item.ProcedureStepDiscontinuationReasonCodeSequence = list(codes) or [_code(value, "DCM", meaning)]
    setattr(ds, PROGRESS, [item])


def is_ready(ds: Dataset, state: str) -> bool:
    """Tell whether a workitem meets what a state demands of it, if that is a final one."""
    sequence, keywords = FINAL_NEEDS.get(state, (PROGRESS, ()))
    items = ds.get(sequence) or [Dataset()]
    return all(items[0].get(keyword) for keyword in keywords)


def moment(now: dt.datetime) -> str:
    """Return an instant as a DT (PS3.5 6.2)."""
    return now.astimezone(dt.UTC).strftime("%Y%m%d%H%M%S+0000")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
