"""The structured report's content tree, row by row of the templates it claims to follow."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from db.tables import OrderRow
from node.orders import request_of
from node.results import words
from node.results.report import EncodedObject, Report, SourceReference
from node.results.structured_report import REASONS, SCHEME, build_structured_report, to_comprehensive
from node.results.uids import derive_uid, device_uid
from tests.unit.node.results.conftest import (
    INSTALLATION_ID,
    LOSSLESS,
    MULTI_FRAME,
    NAMES,
    REPORTS,
    make_exam,
    make_report,
    raw_template,
)

SR_3D, SR = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"
IBD = ("24526004", "SCT")
VIDEO = SourceReference("1.2.3.6.1", "1.2.840.10008.5.1.4.1.1.77.1.1.1", "1.2.3.6", None, (1, 26))

Row = tuple[str, str, tuple[str, str]]
"""Relationship type, value type and concept name of a content item."""

HAS_MOD, HAS_CONTEXT, CONTAINS = "HAS CONCEPT MOD", "HAS OBS CONTEXT", "CONTAINS"
TID_1500: tuple[Row, ...] = (
    (HAS_MOD, "CODE", ("121049", "DCM")),  # row 2, TID 1204
    (HAS_CONTEXT, "CODE", ("121005", "DCM")),  # row 3, TID 1001, 1002
    (HAS_CONTEXT, "UIDREF", ("121012", "DCM")),  # TID 1004, as the next three
    (HAS_CONTEXT, "TEXT", ("121013", "DCM")),
    (HAS_CONTEXT, "TEXT", ("121014", "DCM")),
    (HAS_CONTEXT, "TEXT", ("121015", "DCM")),
    (HAS_MOD, "CODE", ("121058", "DCM")),  # row 4
    (CONTAINS, "CONTAINER", ("126010", "DCM")),  # row 6
)
TID_1501_HEAD: tuple[Row, ...] = (
    (HAS_CONTEXT, "TEXT", ("112039", "DCM")),
    (HAS_CONTEXT, "UIDREF", ("112040", "DCM")),
)
TID_4019: tuple[Row, ...] = (
    (HAS_MOD, "TEXT", ("111001", "DCM")),  # row 1
    (HAS_MOD, "TEXT", ("111003", "DCM")),  # row 2
    (HAS_MOD, "TEXT", ("122405", "DCM")),
    *[(HAS_MOD, "TEXT", ("111002", "DCM"))] * 4,  # row 3: t, k, quantisation, weights
    (HAS_MOD, "CODE", ("111000", "DCM")),
)
PROBABILITY: Row = (CONTAINS, "NUM", ("111012", "DCM"))
READING: Row = (CONTAINS, "CODE", IBD)
REASON: Row = (CONTAINS, "CODE", ("ABSTAINED-AS", SCHEME))
SOURCE: Row = (CONTAINS, "IMAGE", ("121112", "DCM"))
COMMENT: Row = (CONTAINS, "TEXT", ("121106", "DCM"))


def build(
    report: Report | None = None, *, template: Dataset | None = None, timezone: str = "", **changes: Any
) -> EncodedObject:
    given = {"sources": [LOSSLESS, MULTI_FRAME]} | changes
    return build_structured_report(report or make_report(), make_exam(template, timezone=timezone), **given)


def test_the_order_behind_the_exam_is_referred_to() -> None:
    """A RIS finds the report by its own numbers; the images' Accession Number stays what it was."""
    request = request_of(OrderRow(attributes={"RequestedProcedureID": "R1", "AccessionNumber": "X9"}), "1.2")
    with_order, without = read(build(request=request)), read(build())
    (referred,) = with_order.ReferencedRequestSequence
    assert (referred.RequestedProcedureID, referred.AccessionNumber) == ("R1", "X9")
    assert with_order.AccessionNumber == without.AccessionNumber != "X9"
    assert "ReferencedRequestSequence" not in without


@pytest.mark.parametrize(
    "procedure",
    [["COLONOSCOPY-WITH-BIOPSY", "99SITE", "x"], ["C1", "99SITE", "x" * 65], ["C1", "99SITE", "größer"]],
)
def test_an_order_in_too_many_words_costs_the_exam_nothing_but_those(procedure: list[str]) -> None:
    """What a RIS may write and DICOM does not allow; a number cut off would be another number."""
    attributes = {
        "RequestedProcedureCode": procedure, "RequestedProcedureDescription": "y" * 90,
        "RequestedProcedureID": "R" * 17, "AccessionNumber": "A1", "StudyInstanceUID": "1.02",
        "PlacerOrderNumberImagingServiceRequest": "line\nfeed",
    }  # fmt: skip
    ds = read(build(request=request_of(OrderRow(attributes=attributes), "1.2")))
    (referred,) = ds.ReferencedRequestSequence
    assert (referred.AccessionNumber, referred.StudyInstanceUID) == ("A1", "1.2")
    assert referred.RequestedProcedureDescription == "y" * 64
    for keyword in (
        "RequestedProcedureCodeSequence", "RequestedProcedureID", "PlacerOrderNumberImagingServiceRequest",
    ):  # fmt: skip
        assert not referred[keyword].value


def read(encoded: EncodedObject) -> Dataset:
    return dcmread(io.BytesIO(encoded.data))


def coded(sequence: Any) -> tuple[str, str]:
    (item,) = sequence
    assert item.CodeMeaning
    return item.CodeValue, item.CodingSchemeDesignator


def rows(item: Dataset) -> list[Row]:
    return [
        (child.RelationshipType, child.ValueType, coded(child.ConceptNameCodeSequence))
        for child in item.ContentSequence
    ]


def group_of(ds: Dataset) -> Dataset:
    """Return the measurement group, the containers above it checked."""
    assert coded(ds.ConceptNameCodeSequence) == ("126000", "DCM")
    template = ds.ContentTemplateSequence[0]
    assert (template.MappingResource, template.TemplateIdentifier) == ("DCMR", "1500")
    assert (ds.ValueType, ds.ContinuityOfContent) == ("CONTAINER", "CONTINUOUS")
    assert tuple(rows(ds)) == TID_1500
    group: Dataset
    (group,) = ds.ContentSequence[-1].ContentSequence
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert (group.RelationshipType, coded(group.ConceptNameCodeSequence)) == (CONTAINS, ("125007", "DCM"))
    return group


def said(group: Dataset) -> dict[tuple[str, str], Any]:
    """Return concept name -> coded value, number or text of what a group contains."""
    found: dict[tuple[str, str], Any] = {}
    for item in group.ContentSequence:
        if item.RelationshipType == CONTAINS and item.ValueType != "IMAGE":
            name = coded(item.ConceptNameCodeSequence)
            if item.ValueType == "CODE":
                found[name] = coded(item.ConceptCodeSequence)
            elif item.ValueType == "NUM":
                found[name] = float(item.MeasuredValueSequence[0].NumericValue)
            else:
                found[name] = item.TextValue
    return found


FINDINGS: dict[str, tuple[Row, ...]] = {
    "ibd": (PROBABILITY, READING, SOURCE, SOURCE),
    "healthy": (PROBABILITY, READING, SOURCE, SOURCE),
    "not_lower_gi": (READING, REASON),
    "failed": (
        (CONTAINS, "CODE", ("111065", "DCM")),
        (CONTAINS, "CODE", ("FAILED-STEP", SCHEME)),
    ),
}


@pytest.mark.parametrize("form", ["comprehensive_3d", "comprehensive"])
@pytest.mark.parametrize("name", sorted(REPORTS))
def test_every_row_is_one_of_its_template(name: str, form: str) -> None:
    """Validators do not look at templates; who reads the report by machine goes by nothing else."""
    encoded = build(REPORTS[name]())
    encoded = encoded if form == "comprehensive_3d" else to_comprehensive(encoded.data)
    found = FINDINGS.get(name, (READING, REASON, SOURCE, SOURCE))
    assert tuple(rows(group_of(read(encoded)))) == (*TID_1501_HEAD, *TID_4019, *found, COMMENT)
    assert (encoded.kind, encoded.form, encoded.item) == ("sr", form, 1)


def test_a_probability_names_what_it_is_of() -> None:
    """Four per cent beside "absent" must not read as how sure the absence is."""
    group = group_of(read(build(make_report(reading="healthy", probability=0.04))))
    (number,) = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    (measured,) = number.MeasuredValueSequence
    assert (measured.NumericValue, coded(measured.MeasurementUnitsCodeSequence)) == (4.0, ("%", "UCUM"))
    assert rows(number) == [(HAS_MOD, "CODE", ("121071", "DCM"))]
    assert coded(number.ContentSequence[0].ConceptCodeSequence) == IBD
    assert said(group)[IBD] == ("272519000", "SCT")


@pytest.mark.parametrize(("probability", "percent"), [(0.970449, 97.04), (1.0, 99.99), (0.0, 0.01)])
def test_no_certainty_is_stated_that_was_not_computed(probability: float, percent: float) -> None:
    """A network is never sure, however many digits are cut off."""
    assert said(group_of(read(build(make_report(probability=probability)))))[("111012", "DCM")] == percent


@pytest.mark.parametrize("reason", sorted(words.REASONS))
def test_an_abstention_is_undetermined_for_a_coded_reason(reason: str) -> None:
    """It is no finding, and no number stands beside it."""
    report = make_report(reading="unpredicted", unpredicted_reason=reason, probability=None)
    found = said(group_of(read(build(report))))
    assert found[IBD] == ("373068000", "SCT")
    assert found["ABSTAINED-AS", SCHEME] == (REASONS[reason].value, SCHEME)
    assert ("111012", "DCM") not in found
    assert words.REASONS[reason] in found["121106", "DCM"]


def test_every_reason_has_a_code_of_its_own() -> None:
    """Two reasons under one code could not be told apart by a machine."""
    assert REASONS.keys() == words.REASONS.keys()
    assert len({code.value for code in REASONS.values()}) == len(REASONS)


def test_a_failed_reading_is_not_an_unsure_one() -> None:
    """One says that the images leave it open; the other that nobody has looked."""
    ds = read(build(REPORTS["failed"]()))
    found = said(group_of(ds))
    assert found.pop(("121106", "DCM")).startswith(words.FAILURE)
    assert found == {
        ("111065", "DCM"): ("111224", "DCM"),
        ("FAILED-STEP", SCHEME): ("READING", SCHEME),
    }
    assert (ds.CompletionFlag, ds.CompletionFlagDescription) == ("PARTIAL", "The reading failed")


def test_a_scheme_of_our_own_is_named_where_it_is_used() -> None:
    """Private codes mean nothing to a reader who cannot tell whose they are (PS3.3 C.12.1.1.7)."""
    (scheme,) = read(build(REPORTS["failed"]())).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == SCHEME
    assert "CodingSchemeIdentificationSequence" not in read(build())


def test_evidence_is_named_by_the_frames_of_its_source() -> None:
    """Whoever doubts the reading must find the frame it rests on, in a video too."""
    ds = read(build(sources=[LOSSLESS, MULTI_FRAME, VIDEO]))
    images = [item for item in group_of(ds).ContentSequence if item.ValueType == "IMAGE"]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item.ReferencedSOPSequence[0].get(
            "ReferencedFrameNumber"
        )
        for item in images
    }
    assert named == {"1.2.3.4.5": None, "1.2.3.5.1": [3, 7], "1.2.3.6.1": [1, 26]}
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == "1.2.3"
    assert set(evidence(ds)) == set(named)


def evidence(ds: Dataset) -> Iterator[str]:
    for study in ds.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            yield from (item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence)


def test_who_observed_is_the_device_and_the_algorithm_says_how() -> None:
    """Other weights are another device, and a reading is only as good as its threshold."""
    ds = read(build())
    group = group_of(ds)
    assert device_uid(INSTALLATION_ID, "ab" * 32) == ds.ContentSequence[2].UID
    assert [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"][1:8] == [
        "reference", "1.0", "endonode", "t = 0.93", "k = 6",
        "quantisation = ptq, weights 8 bit, activations 8 bit", "weights SHA-256 = " + "ef" * 32,
    ]  # fmt: skip


def test_a_revision_names_what_it_replaces_in_the_class_that_was_sent() -> None:
    """A peer that got the fallback of the first must find that one named in the fallback of the second."""
    first = build()
    earlier = SourceReference(
        first.sop_instance_uid, first.sop_class_uid, first.series_instance_uid, None, ()
    )
    second = build(make_report(revision=2, supersedes=1), predecessors=[earlier])
    fallbacks = to_comprehensive(first.data), to_comprehensive(second.data)
    for replaced, encoded, sop_class in ((first, second, SR_3D), (*fallbacks, SR)):
        (study,) = read(encoded).PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        (item,) = series.ReferencedSOPSequence
        assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", first.series_instance_uid)
        assert item.ReferencedSOPInstanceUID == replaced.sop_instance_uid
        assert item.ReferencedSOPClassUID == encoded.sop_class_uid == sop_class
    assert first.series_instance_uid != second.series_instance_uid
    tracked = [group_of(read(each)).ContentSequence[1].UID for each in (first, second)]
    assert tracked[0] == tracked[1]
    assert "PredecessorDocumentsSequence" not in read(first)


def test_it_is_preliminary_unverified_and_partial_where_images_are_missing() -> None:
    """No machine's reading is final, and one of half an exam says so where software looks."""
    ds = read(build())
    flags = (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    ds = read(build(make_report(completeness_verdict="incomplete", missing_count=3)))
    assert (ds.CompletionFlag, ds.CompletionFlagDescription) == (
        "PARTIAL",
        "Incomplete exam: 3 images did not arrive",
    )
    ds = read(build(make_report(objects_unreadable=7)))
    assert (ds.CompletionFlag, ds.CompletionFlagDescription) == (
        "PARTIAL",
        "Incomplete exam: 7 images unreadable",
    )
    most = {"completeness_verdict": "incomplete", "missing_count": 99_999, "objects_unreadable": 99_999}
    assert len(read(build(make_report(**most))).CompletionFlagDescription) <= 64


def test_the_comment_warns_of_all_that_the_first_page_does(report: Report) -> None:
    """Who reads the report alone must not know less of what it is worth."""
    comment = said(group_of(read(build(report))))["121106", "DCM"]
    assert all(note in comment for note, _ in words.notes(report))
    assert comment.isascii()


def test_the_series_is_its_own_and_says_what_it_is() -> None:
    """One series a revision and modality: no viewer shows a report among the pages."""
    ds = read(build(make_report(revision=2, supersedes=1)))
    assert (ds.Modality, ds.SeriesNumber) == ("SR", 9022)
    assert ds.SeriesDescription == "AI IBD reading (research use), revision 2, replaces 1"


def test_a_fallback_follows_from_the_stored_bytes_alone() -> None:
    """It is made at the first refusal, maybe twice after a crash: the same UID, the same bytes."""
    assert build().data == build().data
    first, second = to_comprehensive(build().data), to_comprehensive(build().data)
    assert first == second
    assert first.sop_instance_uid == derive_uid(build().sop_instance_uid, SR, 1)


@pytest.mark.parametrize(("character_set", "name"), NAMES.items(), ids=map(str, NAMES))
def test_a_name_leaves_in_the_bytes_it_came_in(character_set: str | None, name: bytes) -> None:
    """A report under a transcoded name is filed under another patient."""
    template = raw_template(name, character_set, "1.2.840.10008.1.2.1")
    for encoded in (whole := build(template=template), to_comprehensive(whole.data)):
        ds = read(encoded)
        assert ds.get_item("PatientName").value.rstrip(b" ") == name
        group_of(ds)
