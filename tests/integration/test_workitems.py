"""Procedure steps that this node manages: who asks, who watches, and what became of them."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import UnifiedProcedureStepPush
from sqlalchemy import select

from db.engine import utc_now
from db.tables import (
    DeliveryRow,
    WorkitemReportRow,
    WorkitemRow,
    WorkitemSubscriptionRow,
)
from node.workitem_requests import report_restart
from tests.integration.performing import Performing, listening, performing
from tests.integration.worklists import (
    FILTERED_GLOBAL,
    GLOBAL,
    Requester,
    step,
)

__all__ = ["listening", "performing"]


@pytest.mark.parametrize("comes_first", ["study", "workitem"])
def test_a_step_ends_with_its_outputs_whichever_came_first(performing: Performing, comes_first: str) -> None:
    """A requester may send the images before the order, or after."""
    assert performing.peer.watch(GLOBAL) == 0x0000
    uid = ""
    if comes_first == "workitem":
        uid = performing.peer.create(step("1.2.3"))[1]
        performing.exam("receiving")
        assert performing.row(uid).state == "SCHEDULED"
    performing.exam("reading")
    performing.result()
    performing.result(kind="sc", form="single_frame", sop_instance_uid="1.9.9")
    if comes_first == "study":
        performing.exam("delivered")
        uid = performing.peer.create(step("1.2.3"))[1]
    performing.exam("delivered")
    assert performing.told.states(uid) == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    status, ds = performing.peer.get(uid, "UnifiedProcedureStepPerformedProcedureSequence")
    assert status == 0x0000
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    (output,) = performed.OutputInformationSequence
    assert [each.ReferencedSOPInstanceUID for each in output.ReferencedSOPSequence] == ["1.9.1"]
    assert output.DICOMRetrievalSequence[0].RetrieveAETitle == "ENDONODE"
    assert performed.PerformedStationNameCodeSequence[0].CodeValue == "ENDONODE"
    changes = [state for event, state in performing.events() if event == "workitem_changed"]
    assert changes == ["IN PROGRESS", "COMPLETED"]
    assert performing.peer.act(uid, 2) == 0xC311
    assert performing.count(WorkitemReportRow) == 0


def test_a_failure_is_a_cancellation_with_its_reason(performing: Performing) -> None:
    """Who waits must learn that nothing will come, and why."""
    uid = performing.peer.create(step("1.2.3"))[1]
    assert performing.peer.watch(uid) == 0x0000
    performing.exam("failed", error_step="read", error_text="the worker died")
    assert performing.told.states(uid) == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    _, _, last = performing.told.told[-1]
    assert last.ReasonForCancellation == "The exam failed at the step: read"
    assert last.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110501"
    assert performing.peer.act(uid, 2) == 0xB304


def test_a_later_revision_carries_the_step_on(performing: Performing) -> None:
    """What a late image replaces is not what the requester gets."""
    uid = performing.peer.create(step("1.2.3"))[1]
    performing.exam("reading")
    performing.exam("receiving", of="e12")
    performing.exam("delivered", superseded_by="e12")
    assert performing.row(uid).state == "IN PROGRESS"
    performing.result("e12", sop_instance_uid="1.9.12")
    performing.exam("delivered", of="e12")
    _, ds = performing.peer.get(uid)
    (output,) = ds.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.9.12"


@pytest.mark.parametrize("of_another", [{"PatientID": "B"}, {"IssuerOfPatientID": "OTHER"}])
def test_another_patients_exam_is_never_taken(performing: Performing, of_another: dict[str, str]) -> None:
    """One study, two patients: an order for one must not end with the other's result."""
    uid = performing.peer.create(step("1.2.3", **of_another))[1]
    performing.exam("reading")
    performing.exam("delivered")
    assert performing.row(uid).state == "SCHEDULED"


def test_results_on_their_way_are_progress(performing: Performing) -> None:
    """Read is not yet delivered; a delivery that is there makes the difference."""
    uid = performing.peer.create(step("1.2.3"))[1]
    performing.peer.watch(uid)
    performing.exam("reading")
    with performing.node.database.writing() as session:
        session.add(DeliveryRow(exam_id="e1", peer_ae_title="PACS", state="pending", deadline_at=utc_now()))
    performing.exam("read")
    performing.exam("delivering")
    assert performing.row(uid).state == "IN PROGRESS"
    progress = [
        ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgressDescription
        for kind, _, ds in performing.told.told
        if kind == 3
    ]
    assert progress == ["Reading", "Sending"]
    assert performing.peer.act(uid, 2) == 0xC313


def test_a_cancel_before_the_study_is_granted_with_the_reason_given(performing: Performing) -> None:
    """The requester has changed its mind; what comes later is read, and no step with it."""
    uid = performing.peer.create(step("1.2.3"))[1]
    performing.peer.watch(uid)
    assert performing.peer.act(uid, 2, ReasonForCancellation="ordered twice") == 0x0000
    performing.work()
    assert performing.told.states(uid) == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert performing.told.told[-1][2].ReasonForCancellation == "ordered twice"
    performing.exam("delivered")
    assert performing.row(uid).state == "CANCELED"
    assert ("workitem_cancel_requested", "") in performing.events()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_second_workitem_of_one_uid_is_refused_and_one_of_none_gets_one(performing: Performing) -> None:
    """PS3.7 10.1.5: the provider names what its user did not."""
    answer, uid = performing.peer.create(step("1.2.3"))
    assert answer.Status == 0x0000
    again, _ = performing.peer.create(step("1.2.4"), uid)
    assert (again.Status, again.ErrorComment) == (0x0111, "a workitem of that UID exists")
    unnamed, _ = performing.peer.assoc.send_n_create(step("1.2.4"), UnifiedProcedureStepPush)
    assert unnamed.Status == 0x0000
    refused, _ = performing.peer.create(step("1.2.3", ScheduledProcedureStepPriority="STAT"))
    assert refused.Status == 0x0106
    assert performing.peer.create(step("1.2.3"), "1.02")[0].Status == 0x0117
    assert refused.ErrorComment.startswith("ScheduledProcedureStepPriority")
    assert performing.count(WorkitemRow) == 2


def test_a_search_matches_as_the_standard_has_it(performing: Performing) -> None:
    """By state, by a name with wildcards, by station within its sequence, by a range of times."""
    peer = performing.peer
    first = peer.create(step("1.2.3", station="ENDONODE"))[1]
    second = peer.create(step("1.2.4", PatientName="Roe^Richard", ProcedureStepLabel="Other"))[1]
    station = Dataset()
    station.CodeValue = "ENDONODE"

    def found(**keys: Any) -> list[str]:
        return [ds.SOPInstanceUID for ds in peer.find(**keys)]

    assert found(ProcedureStepState="SCHEDULED") == [first, second]
    assert found(ProcedureStepState="COMPLETED") == []
    assert found(ProcedureStepState="SCHED*") == [first, second]
    assert found(PatientName="doe*") == [first]
    assert found(ScheduledStationNameCodeSequence=[station]) == [first]
    assert found(ScheduledStationNameCodeSequence=[Dataset()], ProcedureStepLabel="Oth?r") == [second]
    assert found(ScheduledProcedureStepStartDateTime="20260102-20260103") == [first, second]
    assert found(ScheduledProcedureStepStartDateTime="-20260101") == []
    (match,) = peer.find(SOPInstanceUID=first, PatientName="", AdmissionID="", StudyInstanceUID="")
    assert (match.PatientName, match.AdmissionID, match.StudyInstanceUID) == ("Doe^Jane", "", "")
    assert "TransactionUID" not in match


def test_what_is_not_here_is_said_to_be_so(performing: Performing) -> None:
    """Each with the status that tells the asker which of its mistakes it was."""
    peer = performing.peer
    uid = peer.create(step("1.2.3"))[1]
    assert peer.get("1.2.9")[0] == 0xC307
    assert peer.get(uid, "ProcedureStepLabel", "BeamNumber")[0] == 0x0001
    assert peer.act("1.2.9", 2) == 0xC307
    assert peer.watch("1.2.9") == 0xC307
    assert peer.watch(uid, receiver="NOBODY") == 0xC308
    assert peer.act(uid, 5, ReceivingAE="PACS") == 0xC314
    assert peer.act(uid, 1, ProcedureStepState="IN PROGRESS", TransactionUID="1.2") == 0x0123
    assert peer.act("1.2.9", 4, ReceivingAE="PACS") == 0xC307


def test_a_name_keeps_its_letters_in_either_transfer_syntax(performing: Performing) -> None:
    """A requester of Kyoto gets back what it wrote."""
    explicit = Requester(performing.port, syntax=ExplicitVRLittleEndian)
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    ds = step("1.2.3", PatientName=name, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    uid = explicit.create(ds)[1]
    for each in (explicit, performing.peer):
        assert each.get(uid, "PatientName")[1].PatientName == name
    explicit.assoc.release()


def test_subscriptions_follow_their_own_rules(performing: Performing) -> None:
    """PS3.4 table CC.2.3-2: to one, to all that are and come, to those that match; suspended and ended."""
    peer, told = performing.peer, performing.told
    early = peer.create(step("1.2.3"))[1]
    assert peer.watch(GLOBAL) == 0x0000
    late = peer.create(step("1.2.4", station="ENDONODE"))[1]
    performing.work()
    assert (told.states(early), told.states(late)) == (["SCHEDULED"], ["SCHEDULED"])
    assert [kind for kind, of, _ in told.told if of == late] == [1, 5]
    assert peer.act(early, 4, ReceivingAE="PACS") == 0x0000
    assert peer.act(GLOBAL, 5, ReceivingAE="PACS") == 0x0000
    unseen = peer.create(step("1.2.5"))[1]
    performing.exam("reading", "1.2.3")
    performing.exam("reading", "1.2.4", of="e22")
    assert (told.states(early), told.states(unseen)) == (["SCHEDULED"], [])
    assert told.states(late) == ["SCHEDULED", "IN PROGRESS"]
    assert peer.act(GLOBAL, 4, ReceivingAE="PACS") == 0x0000
    assert performing.count(WorkitemSubscriptionRow) == 0
    assert peer.watch(FILTERED_GLOBAL, ProcedureStepLabel="Urgent") == 0x0000
    urgent = peer.create(step("1.2.6", ProcedureStepLabel="Urgent"))[1]
    other = peer.create(step("1.2.7"))[1]
    performing.work()
    assert (told.states(urgent), told.states(other), told.states(unseen)) == (["SCHEDULED"], [], [])


def test_a_subscriber_that_was_away_is_told_everything_in_order(performing: Performing) -> None:
    """Its port is closed for a while; nothing is told twice or in another order, and nobody else waits."""
    uid = performing.peer.create(step("1.2.3"))[1]
    performing.peer.watch(uid)
    performing.work()
    node = performing.node
    away = node.settings.peers[0].model_copy(update={"port": 9})
    performing.node = replace(node, settings=node.settings.model_copy(update={"peers": (away,)}))
    performing.exam("reading")
    performing.exam("failed", error_step="close")
    assert performing.told.states(uid) == ["SCHEDULED"]
    assert performing.count(WorkitemReportRow) == 3
    performing.node = node
    with node.database.reading() as session:
        first, *_, last = session.scalars(select(WorkitemReportRow.id).order_by(WorkitemReportRow.id)).all()
    for each, expected in ((last, []), (first, ["IN PROGRESS", "CANCELED"])):
        with node.database.writing() as session:
            node.jobs.hasten(session, "notify", str(each))
        performing.work()
        assert performing.told.states(uid) == ["SCHEDULED", *expected]
    assert performing.count(WorkitemReportRow) == 0


def test_a_subscriber_that_never_comes_back_is_given_up(performing: Performing) -> None:
    """Its events must not lie there for ever; that they were lost is on record."""
    uid = performing.peer.create(step("1.2.3"))[1]
    performing.peer.watch(uid)
    performing.work()
    node = performing.node
    performing.node = replace(node, settings=node.settings.model_copy(update={"peers": ()}))
    performing.exam("reading")
    with node.database.writing() as session:
        rows = session.scalars(select(WorkitemReportRow).order_by(WorkitemReportRow.id)).all()
        for row in rows:
            row.created_at -= dt.timedelta(days=30)
        node.jobs.hasten(session, "notify", str(rows[0].id))
    performing.work()
    assert performing.count(WorkitemReportRow) == 0
    assert performing.events(uid)[-2:] == [("workitem_report_lost", ""), ("workitem_report_lost", "")]


def test_a_restart_is_told_to_who_watches(performing: Performing) -> None:
    """It may have missed nothing; the Standard lets it be sure."""
    performing.peer.watch(GLOBAL)
    report_restart(performing.node)
    performing.work()
    ((kind, uid, said),) = performing.told.told
    assert (kind, uid, said.SCPStatus, said.SubscriptionListStatus) == (4, GLOBAL, "RESTARTED", "WARM START")
