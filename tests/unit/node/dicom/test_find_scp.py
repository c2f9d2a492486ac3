"""Queries of a real peer over what a real receiver has taken in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)
from sqlalchemy import select

from db.engine import utc_now
from db.tables import AuditEventRow, DeliveryRow, ExamRow
from node.dicom.find_scp import CREATOR, GROUP, matches
from node.settings import Peer
from tests.integration.receiving import Receiving, image, receiving
from tests.unit.node.dicom.held import hold_result, store

STUDY_ROOT, PATIENT_ROOT = (
    StudyRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelFind,
)
YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(J^\x1b$BB@\x1b$BO:\x1b(J"
"""It switches to JIS X 0208 once more than it need: no encoder writes it so."""

Find = Callable[..., tuple[int, list[Dataset]]]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    """Return a receiver that holds two studies, one of them answered."""
    with receiving(tmp_path_factory.mktemp("held")) as house:
        for number in (1, 2):
            store(
                house.port,
                image(
                    StudyInstanceUID="1.2.3", SeriesInstanceUID=f"1.2.3.{number}", PatientID="P1",
                    AccessionNumber="A1", StudyDate="20260105", StudyTime="101500", SeriesNumber=number,
                ),
                name=YAMADA, character_set="ISO 2022 IR 13\\ISO 2022 IR 87",
            )  # fmt: skip
        other = image(
            StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1", PatientID="P2", AccessionNumber="A2",
            StudyDate="20260207",
        )  # fmt: skip
        store(house.port, other, name=b"Doe^Jane", character_set="ISO_IR 100")
        hold_result(house.node, "1.2.3")
        yield house


def find(
    port: int, model: str = STUDY_ROOT, *, stop_after: int = 0, heard: list[bytes] | None = None, **keys: Any
) -> tuple[int, list[Dataset]]:
    """Query as PACS; return the last status and the matches, their bytes in `heard`."""
    query = Dataset()
    for keyword, value in keys.items():
        if keyword == "state":
            query[GROUP, 0x10] = DataElement((GROUP, 0x10), "LO", CREATOR)
            for number in value:
                query[GROUP, 0x1000 | number] = DataElement((GROUP, 0x1000 | number), "LO", value[number])
        else:
            setattr(query, keyword, value)
    ae = AE("PACS")
    ae.add_requested_context(model)
    answers = [] if heard is None else heard

    def hear(event: evt.Event) -> None:
        answers.append(event.message.data_set.getvalue())

    assoc = ae.associate("127.0.0.1", port, ae_title="ENDONODE", evt_handlers=[(evt.EVT_DIMSE_RECV, hear)])
    assert assoc.is_established
    found = []
    status = Dataset()
    for status, match in assoc.send_c_find(query, model, msg_id=7):  # noqa: B007 - the last one counts
        if match is not None:
            found.append(match)
            if stop_after == len(found):
                assoc.send_c_cancel(7, query_model=model)
    assoc.release()
    return int(status.Status), found


def uids(found: list[Dataset], keyword: str = "StudyInstanceUID") -> set[str]:
    return {str(match[keyword].value) for match in found}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"1.2.3", "1.2.4"}),
        ({"StudyInstanceUID": ["1.2.3", "1.9"]}, {"1.2.3"}),
        ({"StudyDate": "20260101-20260131"}, {"1.2.3"}),
        ({"StudyDate": "20260201-"}, {"1.2.4"}),
        ({"StudyDate": "20260207"}, {"1.2.4"}),
        ({"StudyTime": "1000-1100"}, {"1.2.3"}),
        ({"AccessionNumber": "A?", "PatientID": "*2"}, {"1.2.4"}),
        ({"PatientID": "P1"}, {"1.2.3"}),
        ({"PatientID": "p1"}, set()),
        ({"PatientName": "yamada*"}, {"1.2.3"}),
        ({"PatientName": "山田*", "SpecificCharacterSet": "ISO_IR 192"}, {"1.2.3"}),
        ({"PatientName": "DOE^JANE"}, {"1.2.4"}),
        ({"ModalitiesInStudy": "SR"}, set()),
        ({"ModalitiesInStudy": "OT"}, {"1.2.3"}),
        ({"PatientID": "[P]1"}, set()),
    ],
)
def test_studies_are_matched_as_the_standard_says(
    held: Receiving, keys: dict[str, Any], expected: set[str]
) -> None:
    """PS3.4 C.2.2.2: universal, list of UID, range, wildcard and single value; names in any case."""
    query = {"StudyInstanceUID": "", "QueryRetrieveLevel": "STUDY", **keys}
    status, found = find(held.port, **query)
    assert status == 0
    assert uids(found) == expected


def test_the_name_comes_back_in_its_own_bytes(held: Receiving) -> None:
    """Encoded anew, a name of ISO 2022 may look right and yet be filed as another patient's."""
    answers: list[bytes] = []
    _, (match,) = find(
        held.port, StudyInstanceUID="1.2.3", QueryRetrieveLevel="STUDY", PatientName="", PatientID="",
        NumberOfStudyRelatedInstances="", NumberOfStudyRelatedSeries="", ModalitiesInStudy="", heard=answers,
    )  # fmt: skip
    assert YAMADA in answers[0]
    assert match.SpecificCharacterSet == ["ISO 2022 IR 13", "ISO 2022 IR 87"]
    assert (match.NumberOfStudyRelatedInstances, match.NumberOfStudyRelatedSeries) == (3, 3)
    assert match.ModalitiesInStudy == ["ES", "OT"]
    assert (match.RetrieveAETitle, match.InstanceAvailability) == ("ENDONODE", "UNAVAILABLE")


def test_only_what_was_emitted_is_online(held: Receiving) -> None:
    """A viewer that is told ONLINE of the source images would ask for them in vain."""
    _, series = find(
        held.port, StudyInstanceUID="1.2.3", QueryRetrieveLevel="SERIES", SeriesInstanceUID="", Modality="",
        NumberOfSeriesRelatedInstances="", SeriesNumber="",
    )  # fmt: skip
    assert sorted((match.Modality, match.InstanceAvailability) for match in series) == [
        ("ES", "UNAVAILABLE"), ("ES", "UNAVAILABLE"), ("OT", "ONLINE"),
    ]  # fmt: skip
    ours = next(match for match in series if match.Modality == "OT")
    _, (instance,) = find(
        held.port, StudyInstanceUID="1.2.3", QueryRetrieveLevel="IMAGE", SOPInstanceUID="", SOPClassUID="",
        SeriesInstanceUID=ours.SeriesInstanceUID, Rows=None,
    )  # fmt: skip
    assert instance.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7.4"
    assert instance.InstanceAvailability == "ONLINE"
    assert instance.Rows > 0


def test_patients_are_found_with_their_counts(held: Receiving) -> None:
    """Patient Root has one level more, and its keys belong to that alone."""
    status, found = find(
        held.port, PATIENT_ROOT, QueryRetrieveLevel="PATIENT", PatientID="", PatientName="",
        NumberOfPatientRelatedStudies="", NumberOfPatientRelatedInstances="",
    )  # fmt: skip
    assert status == 0
    assert {(match.PatientID, match.NumberOfPatientRelatedInstances) for match in found} == {
        ("P1", 3), ("P2", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (STUDY_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": ""}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": ""}),
        (STUDY_ROOT, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2.3"}),
        (PATIENT_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}),
        (PATIENT_ROOT, {"QueryRetrieveLevel": "STUDY", "PatientID": "P*"}),
        (STUDY_ROOT, {"StudyInstanceUID": ""}),
    ],
)
def test_a_query_that_the_model_does_not_know_is_refused(
    held: Receiving, model: str, keys: dict[str, Any]
) -> None:
    """PS3.4 C.4.1.1.4: 0xA900, rather than an answer to another question."""
    assert find(held.port, model, **keys) == (0xA900, [])


def test_the_reading_is_told_only_where_it_is_asked_for(held: Receiving) -> None:
    """Private elements that nobody asked for would reach systems that show them as findings."""
    _, (plain,) = find(held.port, StudyInstanceUID="1.2.3", QueryRetrieveLevel="STUDY")
    assert not [element for element in plain if element.tag.is_private]
    _, (told,) = find(
        held.port, StudyInstanceUID="1.2.3", QueryRetrieveLevel="STUDY", state={1: "", 5: ""}
    )  # fmt: skip
    block = told.private_block(GROUP, CREATOR)
    assert block[0x01].value == "READ"
    assert block[0x05].value == 1
    assert 0x02 not in block
    _, found = find(held.port, StudyInstanceUID="", QueryRetrieveLevel="STUDY", state={1: "READ"})
    assert uids(found) == {"1.2.3"}


def test_what_is_not_supported_is_said(held: Receiving) -> None:
    """PS3.4 C.4.1.1.4: 0xFF01 where a key of the query is not answered."""
    ae = AE("PACS")
    ae.add_requested_context(STUDY_ROOT)
    assoc = ae.associate("127.0.0.1", held.port, ae_title="ENDONODE")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientComments = "STUDY", "1.2.3", ""
    statuses = [status.Status for status, _ in assoc.send_c_find(query, STUDY_ROOT)]
    assoc.release()
    assert statuses == [0xFF01, 0x0000]


def test_a_query_is_audited_without_its_values(held: Receiving) -> None:
    """Who asked and by which keys is the trail's; what they asked for names a patient."""
    find(held.port, StudyInstanceUID="", QueryRetrieveLevel="STUDY", PatientName="Doe*")
    with held.node.database.reading() as session:
        events = select(AuditEventRow).where(AuditEventRow.event == "dicom_queried")
        event = list(session.scalars(events.order_by(AuditEventRow.id)))[-1]
    assert event.actor == "ae:PACS"
    assert event.detail == {
        "sop_class_uid": STUDY_ROOT,
        "level": "STUDY", "keys": ["PatientName", "QueryRetrieveLevel", "StudyInstanceUID"], "matches": 1,
    }  # fmt: skip


def test_thousands_of_matches_can_be_cancelled(tmp_path: Path) -> None:
    """A viewer whose user has moved on must not be sent the rest."""
    with receiving(tmp_path) as house:
        now = utc_now()
        with house.node.database.writing() as session:
            session.add_all(
                ExamRow(
                    id=f"x{number}", exam_key=f"x{number}", revision=1, state="read", opened_at=now,
                    study_instance_uid=f"1.5.{number}", last_new_at=now, closes_at=now,
                )
                for number in range(1000)
            )  # fmt: skip
        status, found = find(house.port, StudyInstanceUID="", QueryRetrieveLevel="STUDY")
        assert (status, len(uids(found))) == (0, 1000)
        status, found = find(house.port, StudyInstanceUID="", QueryRetrieveLevel="STUDY", stop_after=5)
        assert status == 0xFE00
        assert len(found) < 1000


def test_what_was_withdrawn_unsent_is_not_offered(tmp_path: Path) -> None:
    """A viewer would show a reading that never counted; and of nothing, nothing is online."""
    with receiving(tmp_path) as house:
        now = utc_now()
        with house.node.database.writing() as session:
            session.add(
                ExamRow(
                    id="x", exam_key="x", revision=1, state="read", study_instance_uid="1.5", opened_at=now,
                    last_new_at=now, closes_at=now,
                )
            )  # fmt: skip
            session.flush()
            session.add(DeliveryRow(exam_id="x", peer_ae_title="PACS", state="withdrawn", deadline_at=now))
        hold_result(house.node, "1.5")
        _, (study,) = find(
            house.port, StudyInstanceUID="1.5", QueryRetrieveLevel="STUDY", NumberOfStudyRelatedInstances=""
        )
    assert (study.NumberOfStudyRelatedInstances, study.InstanceAvailability) == (0, "UNAVAILABLE")


def test_a_peer_that_may_not_query_is_not_offered_it(tmp_path: Path) -> None:
    """What is rejected at negotiation cannot be tried."""
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=4242, may_query=False)
    with receiving(tmp_path, peers=(peer,)) as house:
        ae = AE("PACS")
        ae.add_requested_context(STUDY_ROOT)
        assoc = ae.associate("127.0.0.1", house.port, ae_title="ENDONODE")
        assert not assoc.is_established


def test_a_hostile_pattern_is_answered_at_once() -> None:
    """A wildcard matcher that backtracks would hold a thread for hours."""
    assert not matches("LO", ["*a" * 30 + "b"], ["a" * 64])
