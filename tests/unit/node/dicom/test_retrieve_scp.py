"""Retrievals by real peers: what comes is what was emitted, byte for byte, and is counted right."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy import select

from db.tables import AuditEventRow, ExamRow
from node.dicom import retrieve_scp
from node.results.report import EncodedObject
from node.settings import Peer
from tests.integration.receiving import Receiving, free_port, image, receiving
from tests.unit.node.dicom.held import hold_result, store

SC = "1.2.840.10008.5.1.4.1.1.7.4"
GET, MOVE = StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove
SOURCE = "1.2.3.1.1"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Receiving, list[EncodedObject]]]:
    """Return a receiver with three answered studies of one patient, and the answers."""
    workstation = Peer(ae_title="WORKSTATION", host="127.0.0.1", port=free_port(), may_send=False)
    pacs = Peer(ae_title="PACS", host="127.0.0.1", port=free_port())
    with receiving(tmp_path, peers=(pacs, workstation), network_timeout_s=3) as house:
        answers = []
        for number in (1, 2, 3):
            study = f"1.2.3.{number}"
            ds = image(StudyInstanceUID=study, SeriesInstanceUID=f"{study}.9", SOPInstanceUID=f"{study}.1")
            store(house.port, ds, name=b"Doe^Jane", character_set="ISO_IR 100")
            answers.append(hold_result(house.node, study))
        yield house, answers


def identifier(level: str, **keys: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def get(
    house: Receiving,
    query: Dataset,
    *,
    calling: str = "WORKSTATION",
    syntax: str = ExplicitVRLittleEndian,
    answers: list[int] | None = None,
) -> tuple[list[Dataset], list[bytes], Dataset | None]:
    """Retrieve over one association; return the responses, the datasets' bytes, the last identifier."""
    got: list[bytes] = []

    def on_store(event: evt.Event) -> int:
        got.append(event.request.DataSet.getvalue())
        return answers.pop(0) if answers else 0x0000

    ae = AE(calling)
    ae.add_requested_context(GET)
    ae.add_requested_context(SC, syntax)
    role = build_role(SC, scp_role=True)
    assoc = ae.associate(
        "127.0.0.1", house.port, ae_title="ENDONODE", ext_neg=[role],
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )  # fmt: skip
    assert assoc.is_established
    responses, last = [], None
    for status, last in assoc.send_c_get(query, GET):  # noqa: B007 - the last one counts
        responses.append(status)
    assoc.release()
    return responses, got, last


def dataset_of(encoded: EncodedObject) -> bytes:
    """Return the bytes behind the file meta information."""
    length = int.from_bytes(encoded.data[140:144], "little")
    return encoded.data[144 + length :]


def test_c_get_gives_the_very_bytes(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """A result that was encoded anew on its way is another object under the same UID."""
    house, answers = held
    query = identifier("STUDY", StudyInstanceUID=["1.2.3.1", "1.2.3.2"])
    responses, got, _ = get(house, query)
    assert got == [dataset_of(each) for each in answers[:2]] or got == [
        dataset_of(each) for each in reversed(answers[:2])
    ]
    last = responses[-1]
    assert last.Status == 0x0000
    assert (last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (2, 0)
    assert "NumberOfRemainingSuboperations" not in last
    assert [status.Status for status in responses[:-1]] == [0xFF00]


def told(house: Receiving, *names: str) -> list[AuditEventRow]:
    with house.node.database.reading() as session:
        found = select(AuditEventRow).where(AuditEventRow.event.in_(names)).order_by(AuditEventRow.id)
        return list(session.scalars(found))


def test_the_trail_says_whose_results_went_where(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """Of each study, before the first object goes and after the last; what did not arrive is named."""
    house, answers = held
    get(house, identifier("STUDY", StudyInstanceUID=["1.2.3.1", "1.2.3.2"]), answers=[0x0000, 0xA700])
    events = told(house, "results_retrieving", "results_retrieved")
    with house.node.database.reading() as session:
        studies = {exam.id: exam.study_instance_uid for exam in session.scalars(select(ExamRow))}
    uids = {"1.2.3.1": answers[0].sop_instance_uid, "1.2.3.2": answers[1].sop_instance_uid}
    assert [event.event for event in events] == ["results_retrieving"] * 2 + ["results_retrieved"] * 2
    assert {event.actor for event in events} == {"ae:WORKSTATION"}
    for began, ended in zip(events[:2], events[2:], strict=True):
        uid = uids[studies[began.subject_id]]
        assert began.subject_id == ended.subject_id
        assert began.detail == {
            "level": "STUDY", "destination": "WORKSTATION", "instances": [uid], "failed": [],
            "sop_classes": {SC: 1},
        }  # fmt: skip
        assert ended.detail["instances"] + ended.detail["failed"] == [uid]
        assert ended.detail["status"] == "0xB000"
    assert sorted(len(event.detail["failed"]) for event in events[2:]) == [0, 1]


def test_a_retrieval_that_dies_has_left_a_trace(
    held: tuple[Receiving, list[EncodedObject]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, _ = held

    def die(*_: object, **__: object) -> int:
        raise RuntimeError("died")

    monkeypatch.setattr(retrieve_scp, "store", die)
    get(house, identifier("STUDY", StudyInstanceUID="1.2.3.1"))
    assert [event.event for event in told(house, "results_retrieving", "results_retrieved")] == [
        "results_retrieving"
    ]


def test_a_retrieval_that_finds_nothing_is_told_as_the_query_that_it_is(
    held: tuple[Receiving, list[EncodedObject]],
) -> None:
    house, _ = held
    get(house, identifier("STUDY", StudyInstanceUID="1.9"))
    (event,) = told(house, "dicom_queried", "results_retrieved")
    assert (event.event, event.subject_id, event.actor) == ("dicom_queried", "", "ae:WORKSTATION")
    assert event.detail == {
        "sop_class_uid": GET, "matches": 0, "level": "STUDY", "destination": "WORKSTATION",
        "status": "0x0000",
    }  # fmt: skip


def test_what_is_refused_is_counted_and_named(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """PS3.4 C.4.3.1.3.2: 0xB000 with the list of what failed, 0xA702 where nothing was stored."""
    house, _ = held
    everything = identifier("STUDY", StudyInstanceUID=["1.2.3.1", "1.2.3.2", "1.2.3.3"])
    responses, _, failures = get(house, everything, answers=[0xA700, 0xB000, 0x0000])
    last = responses[-1]
    counts = [
        last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
    ]  # fmt: skip
    assert (last.Status, counts) == (0xB000, [1, 1, 1])
    assert failures is not None
    assert "FailedSOPInstanceUIDList" in failures
    responses, got, _ = get(house, everything, syntax=ImplicitVRLittleEndian, answers=[0xA700] * 3)
    assert responses[-1].Status == 0xA702
    assert responses[-1].NumberOfFailedSuboperations == len(got) == 3


def test_a_received_image_is_not_given(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """The node is no archive: an image named is a failed sub-operation, not a silent nothing."""
    house, _ = held
    query = identifier(
        "IMAGE", StudyInstanceUID="1.2.3.1", SeriesInstanceUID="1.2.3.1.9", SOPInstanceUID=SOURCE
    )
    responses, got, failures = get(house, query)
    assert (responses[-1].Status, got) == (0xA702, [])
    assert failures is not None
    assert failures.FailedSOPInstanceUIDList == SOURCE


def test_who_may_not_send_cannot_by_way_of_retrieval(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """A context accepted for C-GET must not become a door for C-STORE."""
    house, _ = held
    ae = AE("WORKSTATION")
    ae.add_requested_context(SC)
    assert not ae.associate("127.0.0.1", house.port, ae_title="ENDONODE").is_established
    assoc = ae.associate(
        "127.0.0.1", house.port, ae_title="ENDONODE", ext_neg=[build_role(SC, scu_role=True, scp_role=True)]
    )
    (context,) = assoc.accepted_contexts
    assert (context.as_scu, context.as_scp) == (False, True)
    assoc.release()


@contextmanager
def workstation(house: Receiving, *statuses: int, gate: threading.Event | None = None) -> Iterator[list[Any]]:
    """Serve as WORKSTATION; give what was stored there, with its originator."""
    stored: list[Any] = []
    answers = list(statuses)

    def on_store(event: evt.Event) -> int:
        request = event.request
        stored.append(
            (request.DataSet.getvalue(), request.MoveOriginatorApplicationEntityTitle,
             request.MoveOriginatorMessageID)
        )  # fmt: skip
        if gate is not None:
            gate.wait(5)
        return answers.pop(0) if answers else 0x0000

    ae = AE("WORKSTATION")
    ae.add_supported_context(SC, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    peer = house.node.settings.peer("WORKSTATION")
    assert peer is not None
    server = ae.start_server(
        ("127.0.0.1", peer.port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    try:
        yield stored
    finally:
        server.shutdown()


def move(
    house: Receiving,
    query: Dataset,
    destination: str = "WORKSTATION",
    *,
    cancel: threading.Event | None = None,
) -> Dataset:
    """Move as PACS; return the last response."""
    ae = AE("PACS")
    ae.add_requested_context(MOVE)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="ENDONODE")
    assert assoc.is_established
    last = Dataset()
    responses = assoc.send_c_move(query, destination, MOVE, msg_id=9)
    if cancel is not None:
        assoc.send_c_cancel(9, query_model=MOVE)
        threading.Timer(0.5, cancel.set).start()
    for last, _ in responses:  # noqa: B007
        pass
    assoc.release()
    return last


def test_c_move_sends_to_a_peer_and_says_for_whom(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """The destination learns who asked (PS3.7 9.1.1.1), and gets what is stored here."""
    house, answers = held
    with workstation(house) as stored:
        last = move(house, identifier("STUDY", StudyInstanceUID="1.2.3.1"))
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0x0000, 1)
    assert stored == [(dataset_of(answers[0]), "PACS", 9)]
    event = told(house, "results_retrieved")[-1]
    assert (event.actor, event.detail["destination"]) == ("ae:PACS", "WORKSTATION")


def test_c_move_goes_nowhere_else(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """PS3.4 table C.4-2: a destination that is not configured is 0xA801; one that is down fails them all."""
    house, _ = held
    query = identifier("STUDY", StudyInstanceUID="1.2.3.1")
    assert move(house, query, "STRANGER").Status == 0xA801
    last = move(house, query)
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xA702, 1)
    assert move(house, identifier("STUDY", StudyInstanceUID="")).Status == 0xA900
    assert move(house, identifier("STUDY", StudyInstanceUID="1.9")).Status == 0x0000


def test_a_move_can_be_cancelled(held: tuple[Receiving, list[EncodedObject]]) -> None:
    """0xFE00 with what remained (PS3.4 C.4.2.2.2)."""
    house, _ = held
    gate = threading.Event()
    with workstation(house, gate=gate) as stored:
        query = identifier("STUDY", StudyInstanceUID=["1.2.3.1", "1.2.3.2", "1.2.3.3"])
        last = move(house, query, cancel=gate)
    assert last.Status == 0xFE00
    assert last.NumberOfRemainingSuboperations + len(stored) == 3
