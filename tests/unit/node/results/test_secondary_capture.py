import datetime as dt
import io
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import ImageCms
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.results.envelope import COPIED
from node.results.page import draw_pages
from node.results.report import EncodedObject, Report, SourceReference
from node.results.secondary_capture import build_secondary_capture, to_single_frames
from node.results.uids import device_uid
from tests.unit.node.results.conftest import (
    LOSSLESS,
    LOSSY,
    MULTI_FRAME,
    NAMES,
    make_exam,
    make_panel,
    make_report,
    make_source,
    make_template,
    raw_template,
)


def build(
    report: Report | None = None,
    *,
    template: Dataset | None = None,
    sources: Sequence[SourceReference] = (LOSSLESS,),
    timezone: str = "",
    **of_exam: Any,
) -> EncodedObject:
    exam = replace(make_exam(template, timezone=timezone), **of_exam)
    return build_secondary_capture(report or make_report(), exam, sources=sources)


def read(encoded: EncodedObject) -> Dataset:
    return dcmread(io.BytesIO(encoded.data))


@pytest.mark.parametrize(
    "transfer_syntax_uid", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
)
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        *NAMES.items(),
        ("ISO_IR 192", NAMES[None]),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$@;3ED\x1b(J^\x1b$@BB@O:\x1b(J"),
    ],
    ids=[*map(str, NAMES), "192 that is not", "IR 87 of 1978"],
)
def test_a_name_leaves_in_the_bytes_it_came_in(
    character_set: str | None, name: bytes, transfer_syntax_uid: str
) -> None:
    """A transcoded or restamped name files the result under another patient, also where the source errs."""
    template = raw_template(name, character_set, transfer_syntax_uid)
    for encoded in (multi := build(template=template), *to_single_frames(multi.data)):
        ds = dcmread(io.BytesIO(encoded.data))
        assert ds.get_item("PatientName").value.rstrip(b" ") == name
        stated = ds.get("SpecificCharacterSet")
        assert stated == (
            character_set.split("\\") if character_set and "\\" in character_set else character_set
        )


def test_bytes_without_a_character_set_are_reported_and_not_guessed() -> None:
    """The defect is the source's; an operator can only mend what is told of."""
    with structlog.testing.capture_logs() as logs:
        build(template=raw_template(NAMES[None], None, "1.2.840.10008.1.2.1"))
    assert [entry["event"] for entry in logs] == ["character_set_not_stated"]
    assert "ller" not in str(logs)


def test_patient_and_study_are_those_of_the_source() -> None:
    """The result must be filed where its images are: every identifier, and the empty accession number."""
    ds, source = read(build()), make_source()
    for keyword in COPIED:
        if keyword in source:
            assert ds[keyword].value == source[keyword].value, keyword
    assert ds.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.40"
    assert ds.AccessionNumber == ""


def test_what_the_source_lacks_is_empty_where_the_standard_wants_it() -> None:
    """Type 2 attributes (PS3.3 C.7.1.1, C.7.2.1) are present in every object."""
    ds = read(
        build(template=make_template(PatientName=None, StudyID=None, PatientSex=None, IssuerOfPatientID=None))
    )
    assert ds.StudyID == ds.PatientSex == ""
    assert str(ds.PatientName) == ""
    assert "IssuerOfPatientID" not in ds


def test_the_same_inputs_give_the_same_bytes() -> None:
    """A result made twice after a crash must be one object to the PACS, not two that differ."""
    assert build().data == build().data


@pytest.mark.parametrize(
    "changes",
    [
        {"installation_id": "other"},
        {"exam_key": "other"},
        {"report": make_report(revision=2, supersedes=1)},
        {"report": make_report(model_digest="00" * 32)},
        {"report": make_report(settings_digest="00" * 32)},
    ],
    ids=["installation", "exam", "revision", "model", "settings"],
)
def test_another_result_has_other_uids(changes: dict[str, Any]) -> None:
    """Two contents under one UID is what a PACS silently drops the second of."""
    first, other = build(), build(**changes)
    assert first.sop_instance_uid != other.sop_instance_uid
    assert first.series_instance_uid != other.series_instance_uid


def test_the_object_says_what_it_is() -> None:
    """Viewers, PACS rules and our own loop guard go by these attributes."""
    ds = read(build(make_report(revision=2, supersedes=1), sources=[LOSSLESS, MULTI_FRAME]))
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7.4"
    assert ds.ImageType == ["DERIVED", "SECONDARY"]
    assert (ds.Modality, ds.ConversionType, ds.BodyPartExamined) == ("OT", "WSD", "COLON")
    assert "Laterality" not in ds
    assert (ds.ContentQualification, ds.BurnedInAnnotation) == ("RESEARCH", "NO")
    assert ds.SeriesNumber == 9021
    assert ds.SeriesDescription == "AI IBD evidence (research use), revision 2, replaces 1"
    assert (ds.NumberOfFrames, ds.FrameIncrementPointer, ds.PageNumberVector) == (3, 0x00182001, [1, 2, 3])
    assert "RescaleSlope" not in ds
    assert "WindowCenter" not in ds
    (device,) = ds.ContributingEquipmentSequence
    assert device.DeviceUID == device_uid("5d1f5e5e-0000-4000-8000-000000000001", "ab" * 32)
    assert device.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


@pytest.mark.parametrize(
    "report",
    [make_report(evidence=(make_panel(gate="plate"),)), make_report(model_version="2026-03-01")],
    ids=["a frame did not pass", "a date of ours"],
)
def test_burned_in_annotation_is_admitted_where_it_is_not_ruled_out(report: Report) -> None:
    """Both forms of the result say it: a rule that forwards to research goes by this attribute."""
    multi = build(report)
    for encoded in (multi, *to_single_frames(multi.data)):
        assert read(encoded).BurnedInAnnotation == "YES"


def test_sources_are_named_with_their_frames() -> None:
    """Whoever doubts the result must find the frame it rests on."""
    ds = read(build(sources=[LOSSLESS, LOSSY, MULTI_FRAME]))
    named = {
        item.ReferencedSOPInstanceUID: item.get("ReferencedFrameNumber") for item in ds.SourceImageSequence
    }
    assert named == {"1.2.3.4.5": None, "1.2.3.4.6": None, "1.2.3.5.1": [3, 7]}
    assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.SourceImageSequence} == {"121322"}
    series = {
        item.SeriesInstanceUID: len(item.ReferencedInstanceSequence) for item in ds.ReferencedSeriesSequence
    }
    assert series == {"1.2.3.4": 2, "1.2.3.5": 1}


@pytest.mark.parametrize(
    ("sources", "stated"),
    [
        ([LOSSLESS], ("00", None, None)),
        ([LOSSLESS, LOSSY], ("01", 12.5, "ISO_10918_1")),
        ([SourceReference("1.2", "1.3", "1.4", ("", ""), ())], ("01", None, None)),
        ([SourceReference("1.2", "1.3", "1.4", ("12,5", "ISO_10918_1"), ())], ("01", None, None)),
        (
            [LOSSY, SourceReference("1.2", "1.3", "1.4", ("4\\5", "ISO_15444_1\\ISO_10918_1"), ())],
            ("01", [4, 5], ["ISO_15444_1", "ISO_10918_1"]),
        ),
    ],
    ids=["lossless", "lossy", "ratio not stated", "ratio unreadable", "twice"],
)
def test_loss_is_stated_where_a_source_had_it(
    sources: list[SourceReference], stated: tuple[str, object, object]
) -> None:
    """PS3.3 C.7.6.1.1.5: once lossy, always lossy, and the strongest is what counts."""
    ds = read(build(sources=sources))
    found = (
        ds.LossyImageCompression,
        ds.get("LossyImageCompressionRatio"),
        ds.get("LossyImageCompressionMethod"),
    )
    assert found == stated


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the host stand where it is nine hours later."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize(
    ("offset", "timezone", "date", "time_of_day", "stated"),
    [
        ("", "", "20260305", "073005", None),
        ("", "Europe/Berlin", "20260304", "233005", "+0100"),
        ("+0500", "Europe/Berlin", "20260305", "033005", "+0500"),
    ],
)
def test_times_are_local_to_what_states_the_zone(
    offset: str, timezone: str, date: str, time_of_day: str, stated: str | None
) -> None:
    """An offset that nobody stated is not invented (PS3.3 C.12.1.1.8); a stated one holds for all times.

    A Study Time without one is a wall's: so are ours then, or the result is dated to another day.
    """
    template = make_template(TimezoneOffsetFromUTC=offset or None)
    ds = read(build(template=template, timezone=timezone))
    assert (ds.ContentDate, ds.ContentTime) == (date, time_of_day)
    assert (ds.SeriesDate, ds.InstanceCreationTime) == (date, time_of_day)
    assert ds.get("TimezoneOffsetFromUTC") == stated


@pytest.mark.parametrize("offset", ["0100", "+010", "CET", "+9900", "Z"])
def test_an_offset_that_is_none_gives_way_to_the_configured_zone(offset: str) -> None:
    """One malformed header value must not cost the exam its result, nor be sent on as if it were one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        template = make_template(TimezoneOffsetFromUTC=offset)
    assert read(build(template=template, timezone="Europe/Berlin")).TimezoneOffsetFromUTC == "+0100"
    assert "TimezoneOffsetFromUTC" not in read(build(template=template))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("IssuerOfPatientIDQualifiersSequence", "LO", b"HOSPITAL"),
        ("IssuerOfPatientIDQualifiersSequence", "SQ", b"garbage that is no item "),
        ("StudyDescription", "SQ", b"\xfe\xff\x00\xe0\x00\x00\x00\x00"),
        ("StudyID", "US", b"\x01\x02"),
        ("PatientSex", "OB", b"\x00\xff"),
    ],
)
def test_an_element_that_is_not_what_its_tag_says_is_not_copied(keyword: str, vr: str, value: bytes) -> None:
    """A header element in another VR would fail the exam, or put binary into the archive's text."""
    template = make_template(StudyDescription="Colonoscopy")
    tag = Tag(keyword)
    template[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    ds = read(build(template=template))
    assert not ds.get(keyword)
    assert ds.PatientID == "P-1"


@pytest.mark.parametrize("ratio", ["nan", "1e999", "none", ""])
def test_a_ratio_that_is_no_number_is_not_sent_on(ratio: str) -> None:
    """That pixels lost something is still said; by how much, the source does not know."""
    source = SourceReference("1.2.3.4.6", "1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.3.4", (ratio, "X"), ())
    ds = read(build(sources=[source]))
    assert (ds.LossyImageCompression, "LossyImageCompressionRatio" in ds) == ("01", False)


def test_an_exam_that_is_not_lower_gi_is_not_called_a_colon() -> None:
    """The model was not run because it is not one."""
    report = make_report(
        reading="unpredicted", unpredicted_reason="not_lower_gi", probability=None, evidence=()
    )
    assert "BodyPartExamined" not in read(build(report))


def test_pixels_are_the_pages_in_both_forms(report: Report) -> None:
    """What was drawn is what is sent, whichever form the PACS takes."""
    pages = draw_pages(report)
    multi = build(report)
    shown = read(multi).pixel_array.reshape(len(pages), 960, 1280, 3)
    assert np.array_equal(shown, np.stack(pages))
    singles = to_single_frames(multi.data)
    assert [single.item for single in singles] == list(range(1, len(pages) + 1))
    for page, single in zip(pages, singles, strict=True):
        ds = read(single)
        assert np.array_equal(ds.pixel_array, page)
        assert ds.SOPClassUID == single.sop_class_uid == "1.2.840.10008.5.1.4.1.1.7"
        assert ds.InstanceNumber == single.item
        assert "NumberOfFrames" not in ds
        assert ds.SeriesInstanceUID == multi.series_instance_uid


def test_single_frames_follow_from_the_stored_bytes_alone() -> None:
    """They are made at the first refusal, maybe twice after a crash: the same UIDs, the same bytes."""
    data = build().data
    assert to_single_frames(data) == to_single_frames(data)
    uids = {single.sop_instance_uid for single in to_single_frames(data)}
    assert len(uids) == 3
    assert not uids & {single.sop_instance_uid for single in to_single_frames(build(exam_key="other").data)}


def test_a_corrected_patient_id_is_taken_over() -> None:
    """After a study is moved its sources still name the old patient; the header handed over says the new."""
    template = make_template(SpecificCharacterSet="ISO_IR 100")
    template.PatientID, template.PatientName = "P-2", ""
    ds = read(build(template=template))
    assert (ds.PatientID, str(ds.PatientName)) == ("P-2", "")


def test_the_colour_space_is_stated() -> None:
    """Without a profile every display shows another red."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(read(build()).ICCProfile))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_a_report_of_another_zone_is_the_same_instant() -> None:
    """The UIDs and bytes may not hang on the host that made them."""
    berlin = dt.timezone(dt.timedelta(hours=1))
    local = make_report(created_at=dt.datetime(2026, 3, 4, 23, 30, 5, tzinfo=berlin))
    assert build(local, timezone="UTC").data == build(timezone="UTC").data


@pytest.mark.acceptance
@pytest.mark.parametrize("new", [[], ["-new"]], ids=["", "new"])
@pytest.mark.parametrize(
    ("character_set", "sources"),
    [
        ("ISO_IR 100", [LOSSLESS]),
        ("ISO_IR 192", [LOSSY, MULTI_FRAME]),
        ("GB18030", [LOSSY]),
        ("\\ISO 2022 IR 87", [LOSSLESS, MULTI_FRAME]),
    ],
)
def test_dciodvfy_finds_no_error(
    report: Report, character_set: str, sources: list[SourceReference], new: list[str], tmp_path: Path
) -> None:
    """An object a validator faults is one that some viewer will not show."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    template = raw_template(NAMES[character_set], character_set, "1.2.840.10008.1.2.1")
    multi = build(report, template=template, sources=sources, timezone="Europe/Berlin")
    for number, encoded in enumerate([multi, *to_single_frames(multi.data)]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(encoded.data)
        said = subprocess.run(["dciodvfy", *new, path], capture_output=True, text=True, check=False)
        faults = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
        assert faults == []
