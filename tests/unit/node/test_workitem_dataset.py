"""What a workitem must say at first, and says in the end."""

import datetime as dt
from typing import Any

import pytest
from pydicom import Dataset

from node.workitem_dataset import (
    PERFORMED,
    TYPE_1,
    TYPE_2,
    WorkitemError,
    begin,
    cancel,
    check_new,
    complete,
    decode,
    encode,
    is_for,
    is_ready,
    study_of,
    tell_progress,
)
from tests.integration.worklists import step

NOW = dt.datetime(2026, 1, 2, 4, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=1)))


def refused(ds: Dataset) -> tuple[int, str]:
    try:
        check_new(ds, "ENDONODE")
        study_of(ds)
    except WorkitemError as refusal:
        return refusal.status, str(refusal)
    return 0x0000, ""


@pytest.mark.parametrize("keyword", TYPE_1)
def test_what_must_have_a_value_is_missed_by_name(keyword: str) -> None:
    """Its requester corrects what the answer names."""
    without, empty = step("1.2.3"), step("1.2.3")
    setattr(empty, keyword, None)
    del without[keyword]
    assert refused(without) == (0x0120, f"{keyword}: missing")
    if keyword != "ProcedureStepState":
        assert refused(empty) == (0x0121, f"{keyword}: has no value")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, 0xC309),
        ({"ScheduledProcedureStepPriority": "STAT"}, 0x0106),
        ({"InputReadinessState": "MAYBE"}, 0x0106),
        ({"TransactionUID": "1.2"}, 0x0106),
        ({PERFORMED: [Dataset()]}, 0x0106),
        ({"InputInformationSequence": []}, 0x0121),
        ({"StudyInstanceUID": "1.02"}, 0x0106),
    ],
)
def test_what_no_workitem_may_begin_with_is_refused(attributes: dict[str, Any], status: int) -> None:
    """Each with the status that the Standard has for it (PS3.4 CC.2.5.4, PS3.7 C.5)."""
    assert refused(step("1.2.3", **attributes))[0] == status


def test_one_study_is_named_wherever_the_standard_has_a_place_for_it() -> None:
    """Requesters differ; two studies are in doubt, and what is in doubt is not read."""
    two = step("1.2.3")
    other = Dataset()
    other.StudyInstanceUID = "1.2.4"
    two.InputInformationSequence.append(other)
    assert refused(two)[0] == 0x0106
    assert study_of(step("1.2.3")) == "1.2.3"
    two.StudyInstanceUID = "1.2.4"
    assert study_of(two) == "1.2.4"
    request = step("1.2.3", InputInformationSequence=[], ReferencedRequestSequence=[other])
    assert study_of(request) == "1.2.4"


def test_what_may_be_empty_may_be_absent() -> None:
    """Few requesters send all attributes of type 2; what they leave out comes back empty."""
    ds = step("1.2.3")
    check_new(ds, "ENDONODE")
    assert all(keyword in ds for keyword in TYPE_2)
    assert "TransactionUID" not in ds
    assert ds.WorklistLabel == "ENDONODE"


def test_a_step_is_ready_for_its_end_only_once_it_says_how_it_ended() -> None:
    """PS3.4 table CC.2.5-3: final state codes P for COMPLETED, X for CANCELED."""
    ds = step("1.2.3")
    assert not is_ready(ds, "COMPLETED")
    begin(ds, "ENDONODE", NOW)
    assert not is_ready(ds, "COMPLETED")
    outputs = [("1.2.5", ("ENDONODE", "PACS"), "1.2.6", f"1.2.7.{each}") for each in (1, 2)]
    complete(ds, NOW, "1.2.3", [*outputs, ("1.2.8", ("ENDONODE",), "1.2.6", "1.2.9")])
    assert is_ready(ds, "COMPLETED")
    performed = ds[PERFORMED].value[0]
    assert performed.PerformedProcedureStepEndDateTime == "20260102030405+0000"
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "READ"
    first, second = performed.OutputInformationSequence
    assert [each.ReferencedSOPInstanceUID for each in first.ReferencedSOPSequence] == ["1.2.7.1", "1.2.7.2"]
    assert [each.RetrieveAETitle for each in first.DICOMRetrievalSequence] == ["ENDONODE", "PACS"]
    assert (second.SeriesInstanceUID, second.StudyInstanceUID) == ("1.2.8", "1.2.3")
    assert not is_ready(ds, "CANCELED")
    cancel(ds, NOW, "the disk is full", failed=True)
    assert is_ready(ds, "CANCELED")
    reason = ds.ProcedureStepProgressInformationSequence[0]
    assert reason.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeMeaning == "Equipment failure"


def test_what_is_kept_comes_back_and_progress_is_told_once() -> None:
    """A name in another alphabet goes through the database as the bytes that it came in."""
    ds = step("1.2.3", station="ENDONODE", SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎")
    assert tell_progress(ds, 10, "Reading")
    kept = decode(encode(ds))
    assert kept == ds
    assert not tell_progress(kept, 10, "Reading")
    assert tell_progress(kept, 90, "Sending")
    assert is_for(kept, "ENDONODE")
    assert not is_for(kept, "ENDO")
