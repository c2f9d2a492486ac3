"""An object that is not what its IOD demands is found before it is written, and the attribute named."""

import io
from collections.abc import Callable

import pytest
from pydicom import Dataset, dcmread

from node.errors import InvalidResultError
from node.results.iod import check_object
from node.results.key_objects import build_key_objects
from node.results.secondary_capture import build_secondary_capture, to_single_frames
from node.results.structured_report import build_structured_report, to_comprehensive
from tests.unit.node.results.conftest import LOSSLESS, make_exam, make_report, make_template

SOURCES = [LOSSLESS]


def capture() -> Dataset:
    return dcmread(io.BytesIO(build_secondary_capture(make_report(), make_exam(), sources=SOURCES).data))


def page() -> Dataset:
    data = build_secondary_capture(make_report(), make_exam(), sources=SOURCES).data
    return dcmread(io.BytesIO(to_single_frames(data)[0].data))


def document() -> Dataset:
    return dcmread(io.BytesIO(build_structured_report(make_report(), make_exam(), sources=SOURCES).data))


def fallback() -> Dataset:
    data = build_structured_report(make_report(), make_exam(), sources=SOURCES).data
    return dcmread(io.BytesIO(to_comprehensive(data).data))


def selection() -> Dataset:
    return dcmread(io.BytesIO(build_key_objects(make_report(), make_exam(), sources=SOURCES).data))


def group(ds: Dataset) -> Dataset:
    found: Dataset = ds.ContentSequence[-1].ContentSequence[0]
    return found


def item(ds: Dataset, value_type: str) -> Dataset:
    found: Dataset = next(each for each in group(ds).ContentSequence if each.ValueType == value_type)
    return found


Made = Callable[[], Dataset]
EVERY: tuple[Made, ...] = (capture, page, document, fallback, selection)
COMMON = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "SeriesNumber", "PatientName",
    "PatientID", "AccessionNumber", "StudyID", "InstanceNumber",
)  # fmt: skip
OF_DOCUMENTS = (
    "ContentDate", "ConceptNameCodeSequence", "ValueType", "ContentTemplateSequence", "ContinuityOfContent",
    "ContentSequence", "ReferencedPerformedProcedureStepSequence",
)  # fmt: skip
OF_REPORTS = ("CompletionFlag", "VerificationFlag", "PerformedProcedureCodeSequence")
OF_IMAGES = ("Rows", "Columns", "BitsAllocated", "PixelRepresentation", "ConversionType")


@pytest.mark.parametrize("made", EVERY)
def test_what_we_make_is_what_its_iod_demands(made: Made) -> None:
    """The check must not stand in the way of what is well."""
    check_object(made())


@pytest.mark.parametrize(
    ("made", "keyword"),
    [
        *[(made, keyword) for made in EVERY for keyword in COMMON],
        *[(made, keyword) for made in (document, fallback, selection) for keyword in OF_DOCUMENTS],
        *[(made, keyword) for made in (document, fallback) for keyword in OF_REPORTS],
        *[(made, keyword) for made in (capture, page) for keyword in OF_IMAGES],
        (capture, "NumberOfFrames"),
        (capture, "BurnedInAnnotation"),
        (selection, "CurrentRequestedProcedureEvidenceSequence"),
    ],
)
def test_an_attribute_that_is_missing_is_named(made: Made, keyword: str) -> None:
    """Type 1 and 2 alike: an operator must not search for what a validator at the PACS rejects."""
    ds = made()
    del ds[keyword]
    with pytest.raises(InvalidResultError, match=keyword):
        check_object(ds)


@pytest.mark.parametrize(
    ("made", "keyword", "value"),
    [
        (capture, "Rows", None),
        (capture, "StudyInstanceUID", ""),
        (page, "PhotometricInterpretation", " "),
        (document, "ContentDate", ""),
        (document, "ConceptNameCodeSequence", []),
        (selection, "CurrentRequestedProcedureEvidenceSequence", []),
    ],
)
def test_an_attribute_of_type_1_may_not_be_empty(made: Made, keyword: str, value: object) -> None:
    """Present and empty is what a forgotten value looks like."""
    ds = made()
    setattr(ds, keyword, value)
    with pytest.raises(InvalidResultError, match=f"{keyword}.* empty"):
        check_object(ds)


def test_an_attribute_of_type_2_may_be_empty() -> None:
    """A patient without a birth date gets a result too."""
    ds = document()
    ds.PatientBirthDate = ds.PatientName = ""
    check_object(ds)


def spoil_relationship(ds: Dataset) -> None:
    del item(ds, "IMAGE").RelationshipType


def spoil_name(ds: Dataset) -> None:
    del item(ds, "CODE").ConceptNameCodeSequence


def spoil_number(ds: Dataset) -> None:
    item(ds, "NUM").MeasuredValueSequence[0].NumericValue = None


def spoil_reference(ds: Dataset) -> None:
    item(ds, "IMAGE").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = ""


def spoil_type(ds: Dataset) -> None:
    item(ds, "TEXT").ValueType = "TXT"


def spoil_meaning(ds: Dataset) -> None:
    del item(ds, "CODE").ConceptCodeSequence[0].CodeMeaning


def spoil_code(ds: Dataset) -> None:
    item(ds, "CODE").ConceptCodeSequence[0].CodeValue = "X" * 17


def spoil_scheme(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_relationship, "ContentSequence > RelationshipType"),
        (spoil_name, "ContentSequence > ConceptNameCodeSequence"),
        (spoil_number, "MeasuredValueSequence > NumericValue"),
        (spoil_reference, "ReferencedSOPSequence > ReferencedSOPInstanceUID"),
        (spoil_type, "ContentSequence > ValueType"),
        (spoil_meaning, "ConceptCodeSequence > CodeMeaning"),
        (spoil_code, "ConceptCodeSequence > CodeValue has more than 16 characters"),
        (spoil_scheme, "PurposeOfReferenceCodeSequence > CodingSchemeDesignator"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*SH.*")
def test_what_is_nested_is_looked_at_too(spoil: Callable[[Dataset], None], named: str) -> None:
    """A report's content is all below its first level."""
    ds = document()
    spoil(ds)
    with pytest.raises(InvalidResultError, match=named):
        check_object(ds)


def test_a_class_that_we_do_not_make_is_refused() -> None:
    """What cannot be looked at is not taken for good."""
    ds = document()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(InvalidResultError, match="SOPClassUID"):
        check_object(ds)


def test_the_error_names_no_patient() -> None:
    """It is logged and listed."""
    ds = document()
    del ds.SeriesNumber
    with pytest.raises(InvalidResultError) as error:
        check_object(ds)
    assert not any(word in str(error.value) for word in ("P-1", "Made", "1970"))


def test_a_code_that_a_source_states_badly_is_left_out() -> None:
    """The exam keeps its result; the source's own slip is not repeated."""
    bad = Dataset()
    bad.CodeValue, bad.CodingSchemeDesignator = "113100", "DCM"
    template = make_template(DeidentificationMethodCodeSequence=[bad])
    data = build_structured_report(make_report(), make_exam(template), sources=SOURCES).data
    assert "DeidentificationMethodCodeSequence" not in dcmread(io.BytesIO(data))
