"""The reading as coded content: a TID 1500 report, as Comprehensive 3D or Comprehensive SR.

The document is PS3.3 A.35.13 (A.35.3), the templates PS3.16 TID 1500, 1501 and 4019. What was not found is
not coded: an abstention is Undetermined with its reason, and a reading that failed has no finding at all.
"""

import io
from collections.abc import Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.results import words
from node.results.envelope import MANUFACTURER, Exam, begin_object, by_study, encode
from node.results.iod import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR
from node.results.report import EncodedObject, Report, SourceReference
from node.results.uids import derive_uid, device_uid

SCHEME = "99ENDONODE"
"""Of codes that no scheme of DICOM's has: private, hence the digits (PS3.3 8.2)."""

IBD = CodedConcept("24526004", "SCT", "Inflammatory bowel disease")
COLONOSCOPY = CodedConcept("73761001", "SCT", "Colonoscopy")
ENDOSCOPY = CodedConcept("423827005", "SCT", "Endoscopy")
REASON = CodedConcept("ABSTAINED-AS", SCHEME, "Reason for abstention")
FAILED_STEP = CodedConcept("FAILED-STEP", SCHEME, "Step that failed")
READING_STEP = CodedConcept("READING", SCHEME, "Reading of the images")

READINGS = {
    "ibd": codes.SCT.Present,
    "healthy": codes.SCT.Absent,
    "unpredicted": codes.SCT.Undetermined,
}
REASONS = {
    reason: CodedConcept(value, SCHEME, meaning)
    for reason, value, meaning in (
        ("no_frames", "NO-FRAMES", "No frame was fit to be read"),
        ("below_threshold", "BELOW-THRESHOLD", "No frame reached the confidence threshold"),
        ("no_images", "NO-IMAGES", "The images were set aside"),
        ("images_purged", "IMAGES-PURGED", "Earlier images were purged"),
        ("not_lower_gi", "NOT-LOWER-GI", "Not of the lower gastrointestinal tract"),
        ("rests_on_filled", "RESTS-ON-FILLED", "What reached the threshold rests on filled pixels"),
        ("out_of_distribution", "UNLIKE-LEARNT", "Frames unlike those learnt from"),
    )
}
"""By the machine value of `node.results.words.REASONS`."""

LEAST_PERCENT, MOST_PERCENT = 0.01, 99.99
"""No certainty that was not computed is stated."""


def build_structured_report(
    report: Report,
    exam: Exam,
    *,
    sources: Sequence[SourceReference],
    predecessors: Sequence[SourceReference] = (),
    request: Dataset | None = None,
) -> EncodedObject:
    """Return the report as an encoded Comprehensive 3D SR; the same inputs give the same bytes.

    Parameters
    ----------
    sources
        The images of the evidence frames, or everything that was read where there are none.
    predecessors
        Structured reports, Comprehensive 3D, of the revisions that this one replaces.
    request
        Item of the Referenced Request Sequence: the order behind the exam, where it is known.
    """
    ds = begin_object("sr", COMPREHENSIVE_3D_SR, report, exam)
    tracking_uid = derive_uid("tracking", exam.installation_id, exam.exam_key)
    observer = device_observer(report, exam.installation_id)
    ds.update(_content(report, observer, tracking_uid, sources)[0])
    ds.ReferencedPerformedProcedureStepSequence = ds.PerformedProcedureCodeSequence = []
    if sources:
        ds.CurrentRequestedProcedureEvidenceSequence = by_study(ds.StudyInstanceUID, sources)
    if request is not None:
        ds.ReferencedRequestSequence = [request]
    if predecessors:
        ds.PredecessorDocumentsSequence = by_study(ds.StudyInstanceUID, predecessors)
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    if (what_lacks := _incomplete(report)) is not None:
        ds.CompletionFlag, ds.CompletionFlagDescription = "PARTIAL", what_lacks
    if report.reading not in ("ibd", "healthy"):  # those two need no code of ours
        scheme = Dataset()
        scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Private codes of endonode"
        scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
        ds.CodingSchemeIdentificationSequence = [scheme]
    return encode(ds, "sr", "comprehensive_3d", 1)


def to_comprehensive(comprehensive_3d: bytes) -> EncodedObject:
    """Return the same document as a Comprehensive SR, made from the stored bytes alone.

    What it replaces is then named as a peer that takes no Comprehensive 3D SR got it.
    """
    ds = dcmread(io.BytesIO(comprehensive_3d))
    items = [
        item
        for study in ds.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    for item in items:
        item.ReferencedSOPClassUID = COMPREHENSIVE_SR
        item.ReferencedSOPInstanceUID = derive_uid(item.ReferencedSOPInstanceUID, COMPREHENSIVE_SR, 1)
    ds.SOPClassUID = COMPREHENSIVE_SR
    ds.SOPInstanceUID = derive_uid(ds.SOPInstanceUID, COMPREHENSIVE_SR, 1)
    return encode(ds, "sr", "comprehensive", 1)


def device_observer(report: Report, installation_id: str) -> ObserverContext:
    """Return who observed: this installation with this model (TID 1002, 1004)."""
    attributes = DeviceObserverIdentifyingAttributes(
        uid=device_uid(installation_id, report.model_digest),
        name=f"{MANUFACTURER}, research use",
        manufacturer_name=MANUFACTURER,
        model_name=report.model_name,
    )
    return ObserverContext(codes.DCM.Device, attributes)


def _content(
    report: Report, observer: ObserverContext, tracking_uid: str, sources: Sequence[SourceReference]
) -> MeasurementReport:
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid, "AI reading for inflammatory bowel disease"),
        algorithm_id=AlgorithmIdentification(
            name=report.model_name,
            version=report.model_version,
            parameters=[
                f"t = {report.threshold:g}",
                f"k = {report.top_k}",
                f"quantisation = {report.quantisation}",
                f"weights SHA-256 = {report.weights_digest}",
            ],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=MANUFACTURER,
        ),
        measurements=_probability(report),
        qualitative_evaluations=[QualitativeEvaluation(name, value) for name, value in _evaluations(report)],
        source_images=[
            SourceImageForMeasurementGroup(
                each.sop_class_uid, each.sop_instance_uid, list(each.frame_numbers) or None
            )
            for each in sources
            if report.evidence
        ],
    )
    comment = TextContentItem(codes.DCM.Comment, _comment(report), RelationshipTypeValues.CONTAINS)
    group[0].ContentSequence.append(comment)
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=ENDOSCOPY if report.unpredicted_reason == "not_lower_gi" else COLONOSCOPY,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _evaluations(report: Report) -> list[tuple[CodedConcept | Code, CodedConcept | Code]]:
    """Return the reading as name and value; of a failed one the status (CID 6042) and the step alone."""
    if report.reading == "failed":
        return [(codes.DCM.SummaryOfAnalyses, codes.DCM.Failed), (FAILED_STEP, READING_STEP)]
    reading = [(IBD, READINGS[report.reading])]
    if report.unpredicted_reason is not None:
        reading.append((REASON, REASONS[report.unpredicted_reason]))
    return reading


def _probability(report: Report) -> list[Measurement]:
    """Return the calibrated probability that the finding is there, which the item itself names."""
    if report.probability is None or report.reading not in ("ibd", "healthy"):
        return []
    percent = min(max(round(100 * report.probability, 2), LEAST_PERCENT), MOST_PERCENT)
    measurement = Measurement(name=codes.DCM.CertaintyOfFinding, value=percent, unit=codes.UCUM.Percent)
    of_what = CodeContentItem(codes.DCM.Finding, IBD, RelationshipTypeValues.HAS_CONCEPT_MOD)
    measurement[0].ContentSequence = [of_what]
    return [measurement]


def _comment(report: Report) -> str:
    """Return what a reader must know besides the codes, in words: those of the first page."""
    if report.reading == "failed":
        said = [words.FAILURE]
    else:
        said = [f"{words.READINGS[report.reading]}."]
        if report.unpredicted_reason is not None:
            said.append(words.REASONS[report.unpredicted_reason])
        counts = f"{report.frames_received} frames received, {report.frames_kept} fit to be read"
        said.append(f"{counts}, {report.frames_used} voted.")
    return " ".join([*said, *(text for text, _ in words.notes(report)), f"{words.CAUTIONARY}."])


def _incomplete(report: Report) -> str | None:
    """Return what makes the document partial (PS3.3 C.17.2), in an LO's 64 characters, or None."""
    if report.reading == "failed":
        return "The reading failed"
    lacks = []
    if report.completeness_verdict == "incomplete":
        lacks.append(f"{words.images(report.missing_count)} did not arrive")
    if unreadable := report.objects_unreadable:
        lacks.append(f"{unreadable if lacks else words.images(unreadable)} unreadable")
    return f"Incomplete exam: {', '.join(lacks)}" if lacks else None
