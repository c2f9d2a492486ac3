"""Procedure steps between a receiver, its jobs and foreign peers: who asks, who watches, who manages."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import UnifiedProcedureStepPush
from sqlalchemy import select

from db.engine import utc_now
from db.jobs import Claim
from db.tables import (
    AuditEventRow,
    DeliveryRow,
    ExamRow,
    JobRow,
    PatientRow,
    ResultObjectRow,
    WorkitemReportRow,
    WorkitemRow,
    WorkitemSubscriptionRow,
)
from node.house import Node
from node.settings import Peer
from node.workitem_requests import report_restart
from node.workitem_steps import notify, on_buried, perform, pull, start_pulling
from node.workitems import follow
from tests.integration.receiving import receiving
from tests.integration.worklists import (
    FILTERED_GLOBAL,
    GLOBAL,
    Requester,
    Subscriber,
    Worklist,
    step,
    subscriber,
)

JOBS = {"notify": notify, "perform": perform, "pull": pull}


@dataclass
class Performing:
    """A node that performs steps, the peer that asks and watches, and what lies between."""

    node: Node
    port: int
    told: Subscriber
    peer: Requester

    def work(self, *kinds: str) -> None:
        """Run the jobs that are due, until none is."""
        while jobs := self.due(*kinds or ("notify", "perform")):
            for job in jobs:
                self.run(job)

    def run(self, job: JobRow) -> None:
        """Run a job once."""
        JOBS[job.kind](self.node, Claim(job.id, job.kind, job.subject_id, 1, "t"))

    def due(self, *kinds: str) -> list[JobRow]:
        """Return the jobs that are due."""
        is_due = JobRow.state == "queued", JobRow.kind.in_(kinds), JobRow.not_before_at <= utc_now()
        with self.node.database.reading() as session:
            return list(session.scalars(select(JobRow).where(*is_due).order_by(JobRow.created_at)))

    def exam(self, state: str, study: str = "1.2.3", *, of: str = "e1", **values: Any) -> None:
        """Let the exam of a study be in a state, as the job that brought it there says."""
        now = utc_now()
        with self.node.database.writing() as session:
            if session.get(PatientRow, 1) is None:
                session.add(PatientRow(id=1, patient_id="A", issuer_of_patient_id="HOUSE", created_at=now))
                session.flush()
            exam = session.get(ExamRow, of) or ExamRow(
                id=of, exam_key=study, revision=len(of), patient_row_id=1, study_instance_uid=study,
                opened_at=now, last_new_at=now, closes_at=now,
            )  # fmt: skip
            exam.state = state
            for name, value in values.items():
                setattr(exam, name, value)
            session.add(exam)
            follow(session, self.node, exam)
        self.work()

    def result(self, of: str = "e1", **values: Any) -> None:
        """Store a result of an exam, in the best form."""
        row: dict[str, Any] = {
            "kind": "sr", "form": "comprehensive_3d", "item": 1, "sop_instance_uid": f"1.9.{of[1:]}",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34", "series_instance_uid": "1.8",
        }  # fmt: skip
        with self.node.database.writing() as session:
            session.add(
                ResultObjectRow(exam_id=of, sha256="0", size_bytes=1, created_at=utc_now(), **row | values)
            )

    def hasten(self, uid: str) -> None:
        """Run the jobs of a workitem that wait."""
        with self.node.database.writing() as session:
            self.node.jobs.hasten(session, "perform", str(self.row(uid).id))
        self.work()

    def row(self, uid: str) -> WorkitemRow:
        """Return a workitem as the database has it."""
        with self.node.database.reading() as session:
            found = select(WorkitemRow).where(WorkitemRow.sop_instance_uid == uid)
            return session.scalars(found).one()

    def events(self, subject: str = "1.2.3") -> list[tuple[str, str]]:
        """Return the audit trail of a study: events, and states where they name one."""
        with self.node.database.reading() as session:
            rows = select(AuditEventRow).where(AuditEventRow.subject_id == subject).order_by(AuditEventRow.id)
            return [(row.event, row.detail.get("state", "")) for row in session.scalars(rows)]

    def count(self, row: type[Any]) -> int:
        """Return how many rows a table has."""
        with self.node.database.reading() as session:
            return len(session.scalars(select(row)).all())


@pytest.fixture(scope="module")
def listening() -> Iterator[Subscriber]:
    """Return a peer that is told; one for all tests, since it takes half a second to end."""
    with subscriber() as told:
        yield told


@pytest.fixture
def performing(tmp_path: Path, listening: Subscriber) -> Iterator[Performing]:
    """Return a node with one peer, which asks and is told."""
    listening.told.clear()
    peers = (Peer(ae_title="PACS", host="127.0.0.1", port=listening.port),)
    with receiving(tmp_path, peers=peers) as running:
        peer = Requester(running.port)
        yield Performing(running.node, running.port, listening, peer)
        peer.assoc.release()


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


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Worklist, int]]:
    """Return a foreign worklist, and the port that it is served on."""
    managed = Worklist()
    with managed.serve() as port:
        yield managed, port


@pytest.fixture
def pulling(tmp_path: Path, served: tuple[Worklist, int]) -> Iterator[tuple[Performing, Worklist]]:
    """Return a node that takes its steps from a peer's worklist, which is empty."""
    managed, port = served
    managed.clear()
    peers = (
        Peer(ae_title="RIS", host="127.0.0.1", port=port, workitem_period_s=60),
        Peer(ae_title="PACS", host="127.0.0.1", port=9),
    )
    with receiving(tmp_path, peers=peers, query_timeout_s=2) as running:
        performing = Performing(running.node, running.port, Subscriber(), Requester(running.port))
        yield performing, managed
        performing.peer.assoc.release()


def ask(performing: Performing) -> None:
    """Ask the worklist once, and perform what can be."""
    start_pulling(performing.node)
    with performing.node.database.writing() as session:
        performing.node.jobs.hasten(session, "pull", "RIS")
    (job,) = performing.due("pull")
    performing.run(job)
    performing.work()


def test_a_peers_workitem_is_claimed_filled_in_and_completed(pulling: tuple[Performing, Worklist]) -> None:
    """It learns the outputs before the end, under the lock that it was given."""
    performing, managed = pulling
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    others = managed.add(step("1.2.3", station="SOMEONE")), managed.add(step("1.2.3"))
    managed.add(step("1.2.3", station="ENDONODE", InputInformationSequence=[]))  # of no study
    ask(performing)
    assert (managed.state(uid), performing.count(WorkitemRow)) == ("SCHEDULED", 1)
    performing.exam("reading")
    assert (managed.state(uid), managed.watchers) == ("IN PROGRESS", {uid: "ENDONODE"})
    assert managed.locks[uid] == performing.row(uid).transaction_uid
    performing.result()
    performing.exam("delivered")
    assert (managed.state(uid), performing.row(uid).state) == ("COMPLETED", "COMPLETED")
    (performed,) = managed.items[uid].UnifiedProcedureStepPerformedProcedureSequence
    output = performed.OutputInformationSequence[0]
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.9.1"
    assert {managed.state(each) for each in others} == {"SCHEDULED"}
    assert performing.peer.get(uid)[0] == 0xC307  # another's, not managed here


def test_a_failure_ends_a_peers_workitem_too(pulling: tuple[Performing, Worklist]) -> None:
    """Claimed and given up in one go, where the exam had failed before it was found."""
    performing, managed = pulling
    performing.exam("failed", error_step="read")
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    ask(performing)
    assert (managed.state(uid), performing.row(uid).state) == ("CANCELED", "CANCELED")
    progress = managed.items[uid].ProcedureStepProgressInformationSequence[0]
    assert progress.ReasonForCancellation == "The exam failed at the step: read"


def test_a_claim_that_another_has_won_is_left_alone(pulling: tuple[Performing, Worklist]) -> None:
    """Nothing more is said of it, whatever becomes of the exam."""
    performing, managed = pulling
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    ask(performing)
    managed.items[uid].ProcedureStepState, managed.locks[uid] = "IN PROGRESS", "1.2.3.4"
    performing.exam("reading")
    assert performing.row(uid).state == "LOST"
    asked = list(managed.asked)
    performing.exam("delivered")
    assert (managed.asked, managed.state(uid)) == (asked, "IN PROGRESS")


@pytest.mark.parametrize("at", ["claim", "end"])
def test_what_was_said_before_a_crash_is_known_again(pulling: tuple[Performing, Worklist], at: str) -> None:
    """The answer never came: the lock that was written down shows that it is ours."""
    performing, managed = pulling
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    ask(performing)
    if at == "end":
        performing.exam("reading")
        performing.result()
    managed.forgets = True
    performing.exam("delivered" if at == "end" else "reading")
    assert performing.row(uid).state == ("IN PROGRESS" if at == "end" else "SCHEDULED")
    performing.hasten(uid)
    expected = "COMPLETED" if at == "end" else "IN PROGRESS"
    assert (performing.row(uid).state, managed.state(uid)) == (expected, expected)


def test_a_worklist_that_is_away_or_fails_is_asked_again(pulling: tuple[Performing, Worklist]) -> None:
    """It is down over night; nothing is lost, and nothing is claimed twice."""
    performing, managed = pulling
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    node = performing.node
    away = tuple(peer.model_copy(update={"port": 9}) for peer in node.settings.peers)
    performing.node = replace(node, settings=node.settings.model_copy(update={"peers": away}))
    ask(performing)
    assert performing.count(WorkitemRow) == 0
    performing.node = node
    ask(performing)
    managed.refuses = 1
    performing.exam("reading")
    assert performing.row(uid).state == "SCHEDULED"
    performing.hasten(uid)
    assert managed.state(uid) == "IN PROGRESS"


def test_what_a_manager_reports_is_understood(pulling: tuple[Performing, Worklist]) -> None:
    """A request to cancel is on record, and the reading goes on; an end that others made is taken over."""
    performing, managed = pulling
    uid = managed.add(step("1.2.3", station="ENDONODE"))
    ask(performing)
    performing.exam("reading")
    asked, ended = Dataset(), Dataset()
    asked.RequestingAE = "PACS"
    assert managed.report(performing.port, uid, 2, asked) == 0x0000
    assert performing.events()[-1] == ("workitem_cancel_requested", "")
    assert performing.row(uid).state == "IN PROGRESS"
    ended.ProcedureStepState = "CANCELED"
    assert managed.report(performing.port, "1.2.9", 1, ended) == 0x0000
    assert managed.report(performing.port, uid, 1, ended) == 0x0000
    assert performing.row(uid).state == "CANCELED"


def test_one_job_asks_a_worklist_for_ever(pulling: tuple[Performing, Worklist]) -> None:
    """Two workers that start do not ask twice; three errors do not end it; a changed setting does."""
    performing, _ = pulling
    start_pulling(performing.node)
    start_pulling(performing.node)
    (job,) = performing.due("pull")
    claim = Claim(job.id, job.kind, job.subject_id, 3, "t")
    with performing.node.database.writing() as session:
        performing.node.jobs.bury(session, claim, "three times")
        on_buried(session, performing.node, claim, "three times")
        performing.node.jobs.hasten(session, "pull", "RIS")
    (job,) = performing.due("pull")
    performing.node = replace(
        performing.node, settings=performing.node.settings.model_copy(update={"peers": ()})
    )
    performing.run(job)
    assert performing.due("pull") == []
