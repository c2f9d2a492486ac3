"""Key object selections (PS3.3 A.35.4, PS3.16 TID 2010): an exam's best frames, and what is withdrawn."""

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from node.results.envelope import Exam, begin_object, by_study, encode
from node.results.iod import KEY_OBJECT_SELECTION, MULTI_FRAME_TRUE_COLOUR_SC, SINGLE_FRAME_SC
from node.results.report import EncodedObject, Report, SourceReference
from node.results.structured_report import device_observer

KEY_OBJECT_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
PURPOSE = Code("260753009", "SCT", "Source")
PAGES = (MULTI_FRAME_TRUE_COLOUR_SC, SINGLE_FRAME_SC)


def build_key_objects(report: Report, exam: Exam, *, sources: Sequence[SourceReference]) -> EncodedObject:
    """Return the evidence frames, as the PACS holds them, as the best of their study.

    `sources` are their images; at least one, since a selection may not be empty.
    """
    ds = begin_object("ko", KEY_OBJECT_SELECTION, report, exam)
    voted = report.evidence[0].voted
    said = "Frames that an AI reading rests on" if voted else "Most confident frames of an AI abstention"
    modifier = CodeContentItem(
        codes.DCM.DocumentTitleModifier, codes.DCM.Study, RelationshipTypeValues.HAS_CONCEPT_MOD
    )
    images = [
        ImageContentItem(
            PURPOSE, each.sop_class_uid, each.sop_instance_uid, list(each.frame_numbers) or None,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        for each in sources
    ]  # fmt: skip
    head = [modifier, *device_observer(report, exam.installation_id), _described(f"{said}; research use")]
    return _selection(ds, codes.DCM.BestInSet, [*head, *images], sources, kind="ko")


def build_rejection_note(report: Report, exam: Exam, *, rejected: Sequence[SourceReference]) -> EncodedObject:
    """Return a note that these results of earlier revisions must no longer be used (IHE RAD, IOCM)."""
    ds = begin_object("rn", KEY_OBJECT_SELECTION, report, exam)
    objects = [
        (ImageContentItem if each.sop_class_uid in PAGES else CompositeContentItem)(
            PURPOSE, each.sop_class_uid, each.sop_instance_uid,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        for each in rejected
    ]  # fmt: skip
    said = _described(f"AI results that revision {report.revision} replaces")
    head = [*device_observer(report, exam.installation_id), said]
    return _selection(ds, codes.DCM.RejectedForQualityReasons, [*head, *objects], rejected, kind="rn")


def _selection(
    ds: Dataset, title: Code, content: list[ContentItem], objects: Sequence[SourceReference], *, kind: str
) -> EncodedObject:
    root = ContainerContentItem(title, is_content_continuous=False, template_id="2010")
    root.ContentSequence = ContentSequence(content)
    ds.update(root)
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = by_study(ds.StudyInstanceUID, objects)
    return encode(ds, kind, "key_object", 1)


def _described(text: str) -> TextContentItem:
    return TextContentItem(KEY_OBJECT_DESCRIPTION, text, RelationshipTypeValues.CONTAINS)
