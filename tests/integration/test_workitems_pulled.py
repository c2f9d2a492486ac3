"""Procedure steps that a peer manages: found, claimed, performed, and won by others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from db.jobs import Claim
from db.tables import (
    WorkitemRow,
)
from node.settings import Peer
from node.workitem_steps import on_buried, start_pulling
from tests.integration.performing import Performing, listening, performing
from tests.integration.receiving import receiving
from tests.integration.worklists import (
    Requester,
    Subscriber,
    Worklist,
    step,
)

__all__ = ["listening", "performing"]


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
