"""BurnedInAnnotation NO is a promise; it is made only where it is known to hold."""

from typing import Any

import pytest
from pydicom import Dataset

from node.results.identity import is_anonymous, tells_who_or_when
from tests.unit.node.results.conftest import make_panel, make_report, make_template


def template(**changes: Any) -> Dataset:
    return make_template(AccessionNumber="ACC-77", **changes)


def test_pages_whose_frames_passed_name_nobody() -> None:
    assert is_anonymous(make_report(), template())
    assert is_anonymous(make_report(evidence=(make_panel(gate="blanked"),)), template())
    assert is_anonymous(make_report(evidence=()), template())


def test_a_plate_is_no_pass() -> None:
    """The gate could not tell text from tissue on it: nothing is promised of the others either."""
    report = make_report(evidence=(make_panel(), make_panel(gate="plate")))
    assert not is_anonymous(report, template())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_version": "2026-03-01"},
        {"model_version": "v1 (01.03.2026)"},
        {"model_name": "net 20260301"},
        {"model_name": "trained for Made"},
        {"model_name": "UP-net"},
        {"model_version": "p-1"},
        {"model_name": "acc-77"},
        {"reading": "unpredicted", "unpredicted_reason": "see_1970-01-01"},
        {"evidence": (make_panel(label="made"),)},
        {"evidence": (make_panel(reason="ask s7"),)},
    ],
)
def test_words_that_hold_a_date_a_name_or_a_number_of_the_patient_are_noticed(
    changes: dict[str, Any],
) -> None:
    """A package or a reason is worded elsewhere: what stands in it is drawn, so it is looked at."""
    assert not is_anonymous(make_report(**changes), template())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_digest": "20260301abcd" + "0" * 52},
        {"model_digest": "2026030119700101" + "0" * 48},
        {"model_version": "1.10.2"},
        {"model_name": "reference", "model_version": "3.1"},
    ],
)
def test_versions_and_digests_are_not_taken_for_dates_or_ids(changes: dict[str, Any]) -> None:
    """Or hardly a result would ever be called free of annotation."""
    assert is_anonymous(make_report(**changes), template(PatientID="10", StudyID="1"))


def test_names_are_compared_whatever_their_bytes() -> None:
    raw = template(PatientName="M\xfcller^J\xfcrgen=X", SpecificCharacterSet="ISO_IR 192")
    assert not tells_who_or_when(["reference", "1.0"], raw)
    decoded = template()
    decoded.PatientID = "MOVED-9"  # as a correction leaves it
    assert tells_who_or_when(["moved-9"], decoded)


def test_the_header_stays_raw() -> None:
    """What was decoded once is encoded anew when written: the name would leave in other bytes."""
    header = template()
    tells_who_or_when(["x"], header)
    assert isinstance(header.get_item("PatientName").value, bytes)
