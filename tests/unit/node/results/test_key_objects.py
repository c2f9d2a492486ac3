"""Key object selections, row by row of TID 2010."""

import io
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from node.results.key_objects import build_key_objects, build_rejection_note
from node.results.report import EncodedObject, Report, SourceReference
from tests.unit.node.results.conftest import (
    LOSSLESS,
    MULTI_FRAME,
    NAMES,
    make_exam,
    make_panel,
    make_report,
    raw_template,
)
from tests.unit.node.results.test_structured_report import CONTAINS, HAS_CONTEXT, HAS_MOD, coded, rows

REJECTED = [
    SourceReference("2.25.1", "1.2.840.10008.5.1.4.1.1.7.4", "2.25.2", None, ()),
    SourceReference("2.25.3", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.4", None, ()),
    SourceReference("2.25.5", "1.2.840.10008.5.1.4.1.1.88.59", "2.25.6", None, ()),
]
OBSERVER = (
    (HAS_CONTEXT, "CODE", ("121005", "DCM")),
    (HAS_CONTEXT, "UIDREF", ("121012", "DCM")),
    (HAS_CONTEXT, "TEXT", ("121013", "DCM")),
    (HAS_CONTEXT, "TEXT", ("121014", "DCM")),
    (HAS_CONTEXT, "TEXT", ("121015", "DCM")),
)
DESCRIPTION = (CONTAINS, "TEXT", ("113012", "DCM"))


def build(
    report: Report | None = None, *, template: Dataset | None = None, timezone: str = "", **changes: Any
) -> EncodedObject:
    given = {"sources": [LOSSLESS, MULTI_FRAME]} | changes
    return build_key_objects(report or make_report(), make_exam(template, timezone=timezone), **given)


def reject() -> EncodedObject:
    report = make_report(revision=2, supersedes=1)
    return build_rejection_note(report, make_exam(), rejected=REJECTED)


def read(encoded: EncodedObject) -> Dataset:
    ds = dcmread(io.BytesIO(encoded.data))
    template = ds.ContentTemplateSequence[0]
    assert (template.MappingResource, template.TemplateIdentifier) == ("DCMR", "2010")
    assert (encoded.sop_class_uid, encoded.form) == ("1.2.840.10008.5.1.4.1.1.88.59", "key_object")
    return ds


def referred(ds: Dataset) -> dict[str, Any]:
    """Return SOP Instance UID -> frames of the tree, which must be those of the evidence."""
    items = [item.ReferencedSOPSequence[0] for item in ds.ContentSequence if "ReferencedSOPSequence" in item]
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == ds.StudyInstanceUID
    listed = {
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed == {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in items}
    return {item.ReferencedSOPInstanceUID: item.get("ReferencedFrameNumber") for item in items}


def test_the_best_of_a_study_are_the_original_frames() -> None:
    """A viewer opens them in place of the series: they must be the PACS's own, by frame."""
    ds = read(build())
    assert coded(ds.ConceptNameCodeSequence) == ("113013", "DCM")
    assert rows(ds) == [
        (HAS_MOD, "CODE", ("113011", "DCM")), *OBSERVER, DESCRIPTION,
        *[(CONTAINS, "IMAGE", ("260753009", "SCT"))] * 2,
    ]  # fmt: skip
    assert coded(ds.ContentSequence[0].ConceptCodeSequence) == ("113014", "DCM")
    assert referred(ds) == {"1.2.3.4.5": None, "1.2.3.5.1": [3, 7]}
    assert (ds.Modality, ds.SeriesNumber) == ("KO", 9013)


@pytest.mark.parametrize(("voted", "said"), [(True, "rests on"), (False, "abstention")])
def test_frames_that_did_not_vote_are_not_called_what_the_reading_rests_on(*, voted: bool, said: str) -> None:
    """They are shown so that a person may judge, and are evidence of nothing."""
    ds = read(build(make_report(evidence=(make_panel(voted=voted),))))
    (text,) = [item.TextValue for item in ds.ContentSequence if item.get("ValueType") == "TEXT"][-1:]
    assert said in text


def test_a_rejection_note_names_every_object_of_the_set() -> None:
    """What is left out stays beside the result that replaces it (IHE RAD, IOCM)."""
    encoded = reject()
    ds = read(encoded)
    assert coded(ds.ConceptNameCodeSequence) == ("113001", "DCM")
    composite = (CONTAINS, "COMPOSITE", ("260753009", "SCT"))
    assert rows(ds) == [
        *OBSERVER, DESCRIPTION, (CONTAINS, "IMAGE", ("260753009", "SCT")), composite, composite,
    ]  # fmt: skip
    assert set(referred(ds)) == {"2.25.1", "2.25.3", "2.25.5"}
    assert (encoded.kind, ds.SeriesNumber) == ("rn", 9024)
    assert encoded.series_instance_uid != build(make_report(revision=2)).series_instance_uid


def test_the_same_inputs_give_the_same_bytes() -> None:
    """Made twice after a crash, it must be one object to the PACS."""
    assert (build().data, reject().data) == (build().data, reject().data)


@pytest.mark.parametrize(("character_set", "name"), NAMES.items(), ids=map(str, NAMES))
def test_a_name_leaves_in_the_bytes_it_came_in(character_set: str | None, name: bytes) -> None:
    """A selection under a transcoded name is filed under another patient."""
    ds = read(build(template=raw_template(name, character_set, "1.2.840.10008.1.2.1")))
    assert ds.get_item("PatientName").value.rstrip(b" ") == name
