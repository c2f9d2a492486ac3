"""The order behind an exam is taken only where a worklist leaves no doubt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityWorklistInformationFind

from db.engine import utc_now
from db.tables import ExamRow, OrderRow, PatientRow
from node.house import Node
from node.orders import ask_for_order, request_of, write_order
from node.settings import Peer
from tests.integration.receiving import free_port


def code(value: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "99SITE", "Doe, the referring one"
    return ds


def item(**keys: Any) -> Dataset:
    """Return a worklist item of the exam's patient."""
    ds = Dataset()
    ds.PatientID, ds.PatientName, ds.RequestedProcedureID = "P1", "Doe^Jane", "R1"
    ds.AccessionNumber, ds.StudyInstanceUID = "A1", "1.2.3"
    ds.RequestedProcedureDescription = "Colonoscopy"
    ds.RequestedProcedureCodeSequence = [code("C1")]
    person = Dataset()
    person.PersonIdentificationCodeSequence = [code("D7")]
    ds.ReferringPhysicianIdentificationSequence = [person]
    ds.ReferringPhysicianName = "Doe^Referring"
    step = Dataset()
    step.ScheduledProcedureStepID = "S1"
    ds.ScheduledProcedureStepSequence = [step]
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


@contextmanager
def worklist(*items: Dataset, status: int = 0x0000) -> Iterator[Peer]:
    """Serve the items whatever is asked, as many worklists do with keys they do not know."""

    def on_find(_event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for each in items:
            yield 0xFF00, each
        if status:
            yield status, None

    ae = AE("RIS")
    ae.add_supported_context(ModalityWorklistInformationFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)])
    try:
        yield Peer(ae_title="RIS", host="127.0.0.1", port=server.server_address[1], worklist=True)
    finally:
        server.shutdown()


@pytest.fixture
def ask(node: Node) -> Callable[..., OrderRow | None]:
    """Return what asks a peer for the order of an exam of P1, study 1.2.3, accession A1."""
    now = utc_now()
    with node.database.writing() as session:
        session.add(PatientRow(id=1, patient_id="P1", issuer_of_patient_id="HOUSE", created_at=now))
        session.flush()
        exam = ExamRow(
            id="e1", exam_key="e1", revision=1, patient_row_id=1, study_instance_uid="1.2.3",
            accession_number="A1", state="receiving", opened_at=now, last_new_at=now, closes_at=now,
        )  # fmt: skip
        session.add(exam)

    def ask_of(*peers: Peer) -> OrderRow | None:
        settings = node.settings.model_copy(update={"peers": peers, "query_timeout_s": 2})
        return ask_for_order(replace(node, settings=settings), exam)

    return ask_of


def test_an_order_is_found_by_study_and_told_without_names(
    ask: Callable[..., OrderRow | None], node: Node
) -> None:
    """What a modality got from the worklist carries its Study Instance UID: the surest match."""
    with worklist(item(), item(StudyInstanceUID="1.2.4", PatientID="P2")) as peer:
        order = ask(peer)
    assert order is not None
    assert (order.matched_by, order.reason) == ("study", None)
    assert order.attributes["RequestedProcedureCode"][:2] == ["C1", "99SITE"]
    assert order.attributes["ReferringPhysicianCodes"] == [["D7", "99SITE"]]
    assert order.attributes["ScheduledProcedureStepID"] == "S1"
    assert "Doe" not in str({**order.attributes, "RequestedProcedureCode": ""})
    with node.database.writing() as session:
        write_order(session, order)
    request = request_of(order, "1.2.3")
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("R1", "A1")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([item(StudyInstanceUID="1.9")], ("accession", None)),
        ([item(StudyInstanceUID="1.9", IssuerOfPatientID="HOUSE")], ("accession", None)),
        ([item(StudyInstanceUID="1.9", IssuerOfPatientID="OTHER")], (None, "mismatch")),
        ([item(StudyInstanceUID="1.9", PatientID="P2")], (None, "mismatch")),
        ([item(PatientID="P2")], (None, "mismatch")),
        ([item(StudyInstanceUID="1.9"), item(StudyInstanceUID="1.8")], (None, "several")),
        ([item(), item(RequestedProcedureID="R2")], (None, "several")),
        ([item(StudyInstanceUID="1.9", AccessionNumber="A2")], (None, "no_match")),
        ([], (None, "no_match")),
    ],
)
def test_what_is_in_doubt_is_not_taken(
    ask: Callable[..., OrderRow | None], items: list[Dataset], expected: tuple[str | None, str | None]
) -> None:
    """A wrong order in a report is worse than none."""
    with worklist(*items) as peer:
        order = ask(peer)
    assert order is not None
    assert (order.matched_by, order.reason) == expected
    assert bool(order.attributes) == (expected[0] is not None)


def test_a_worklist_that_fails_holds_nothing_up(ask: Callable[..., OrderRow | None]) -> None:
    """The exam is closed all the same, and says why it knows no order."""
    with worklist(status=0xC001) as peer:
        failing = ask(peer)
    down = ask(Peer(ae_title="RIS", host="127.0.0.1", port=free_port(), worklist=True))
    assert failing is not None
    assert down is not None
    assert failing.reason == down.reason == "no_answer"
    assert ask(Peer(ae_title="PACS", host="127.0.0.1", port=free_port())) is None
