"""The jobs of workitems: subscribers are told of ours; a peer's are found, claimed and performed.

Each goes by the tables alone and may be killed at any point: what it was about to send is sent again. A claim
is known by its Transaction UID, which is written down before it is first sent.
"""

import datetime as dt

import structlog
from pydicom import Dataset
from pydicom.uid import UID, generate_uid
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import JobRow, WorkitemReportRow, WorkitemRow
from node import workitem_states as states
from node.delivery import LONGEST_DELAY_S, peer_of
from node.dicom.ups_scu import Manager, find_scheduled, managed_by, send_report
from node.errors import RefusedError, SendError
from node.house import Node
from node.workitem_dataset import PERFORMED, PROGRESS, WorkitemError, decode, encode, is_for, only, study_of
from node.workitems import add_workitem, fill_in, note_state, perform_own
from pipeline.instance import UNREADABLE

log = structlog.get_logger()

SHORTEST_DELAY_S = 1
UPDATED = frozenset({states.SUCCESS, 0x0001, 0x0107, 0x0116, 0xB305})
"""An N-SET is kept, perhaps with a remark (PS3.4 table CC.2.6-1, PS3.7 annex C.4)."""
MAYBE_OURS = frozenset(
    {states.SUCCESS, states.NO_LONGER_UPDATED, states.WRONG_TRANSACTION_UID, states.ALREADY_IN_PROGRESS}
)
"""Answers to a claim that may have been ours before a crash: what follows shows who holds the lock."""
NOT_OURS = MAYBE_OURS | {states.NO_SUCH_WORKITEM, states.NOT_IN_PROGRESS}
ENDED = {states.COMPLETED: states.ALREADY_COMPLETED, states.CANCELED: states.ALREADY_CANCELED}


def notify(node: Node, claim: Claim) -> None:
    """Tell a subscriber of an event, after all before; one that cannot be told in time is lost."""
    with node.database.reading() as session:
        row = session.get_one(WorkitemReportRow, int(claim.subject_id))
        is_first = _next_report(session, row.ae_title) == row.id
    error = _send(node, row) if is_first else "others are to be told before"
    with node.database.writing() as session:
        waited_s = (utc_now() - row.created_at).total_seconds()
        if error is None or (is_first and waited_s > node.settings.delivery_deadline_s):
            _drop(session, node, session.get_one(WorkitemReportRow, row.id), error)
            node.jobs.finish(session, claim)
        else:  # as long again as it has lasted, between the bounds
            delay_s = min(max(waited_s, SHORTEST_DELAY_S), LONGEST_DELAY_S)
            node.jobs.postpone(session, claim, utc_now() + dt.timedelta(seconds=delay_s))


def pull(node: Node, claim: Claim) -> None:
    """Ask a peer what it has scheduled for this node, and again after its `workitem_period_s`."""
    peer, found = node.settings.peer(claim.subject_id), list[Dataset]()
    is_asked = peer is not None and peer.workitem_period_s > 0
    try:
        found = find_scheduled(peer_of(node, claim.subject_id), node.settings) if is_asked else []
    except (SendError, RefusedError) as error:
        log.warning("workitems_not_asked", peer=claim.subject_id, error=str(error))
    with node.database.writing() as session:
        for ds in found:
            _take(session, node, ds, claim.subject_id)
        if is_asked:
            node.jobs.postpone(session, claim, _next_time(node, claim.subject_id))
        else:
            node.jobs.finish(session, claim)


def perform(node: Node, claim: Claim) -> None:
    """Bring a workitem to where its exam is; of a peer's, that peer is told, and first asked for it."""
    with node.database.writing() as session:
        row = session.get_one(WorkitemRow, int(claim.subject_id), with_for_update=True)
        ds = decode(row.dataset)
        due = fill_in(session, node, row, ds) if row.state in states.OPEN else None
        if due is not None and not row.is_foreign:
            perform_own(session, node, row, ds, due)
        if due is None or not row.is_foreign:
            node.jobs.finish(session, claim)
            return
        row.transaction_uid = row.transaction_uid or generate_uid(prefix=None)
    try:
        with managed_by(peer_of(node, row.peer_ae_title), node.settings) as manager:
            state = _tell_manager(manager, row, ds, due)
    except (SendError, RefusedError) as error:
        uid, peer = row.sop_instance_uid, row.peer_ae_title
        log.warning("workitem_not_performed", workitem=uid, peer=peer, error=str(error))
        with node.database.writing() as session:
            node.jobs.postpone(session, claim, _next_time(node, peer))
        return
    with node.database.writing() as session:
        row = session.get_one(WorkitemRow, row.id, with_for_update=True)
        if row.state == states.SCHEDULED and state in states.FINAL:
            note_state(session, row, ds, states.IN_PROGRESS)
        if row.state in states.OPEN and row.state != state:
            note_state(session, row, ds, state)
        row.dataset = encode(ds)
        node.jobs.finish(session, claim)


def start_pulling(node: Node) -> None:
    """See that each peer which manages workitems is asked for them, by one job that goes on for ever."""
    with node.database.writing() as session:
        for peer in node.settings.peers:
            node.database.lock_study(session, f"pull {peer.ae_title}")
            of_peer = JobRow.kind == "pull", JobRow.subject_id == peer.ae_title
            is_asked = exists().where(*of_peer, JobRow.state.in_(("queued", "running")))
            if peer.workitem_period_s and not session.scalar(select(is_asked)):
                node.jobs.enqueue(session, "pull", peer.ae_title)


def on_buried(session: Session, node: Node, claim: Claim, error_text: str) -> None:
    """Let what has failed thrice stand in nobody's way: later events are told, a peer is asked again."""
    if claim.kind == "pull":
        node.jobs.enqueue(session, "pull", claim.subject_id, not_before_at=_next_time(node, claim.subject_id))
    elif claim.kind == "notify":
        _drop(session, node, session.get_one(WorkitemReportRow, int(claim.subject_id)), error_text)


def _send(node: Node, row: WorkitemReportRow) -> str | None:
    """Send a report; return why it could not be, or None where it was answered, however."""
    said, kind = decode(row.information), row.event_type
    try:
        peer, uid = peer_of(node, row.ae_title), row.sop_instance_uid
        status = send_report(peer, node.settings, uid, event_type=kind, information=said)
    except (SendError, RefusedError) as error:
        log.warning("workitem_report_not_sent", peer=row.ae_title, error=str(error))
        return str(error)
    if status != states.SUCCESS:
        log.warning("workitem_report_refused", peer=row.ae_title, status=f"0x{status:04X}")
    return None


def _drop(session: Session, node: Node, row: WorkitemReportRow, error: str | None) -> None:
    """End a report, told or lost, and let the next to the same subscriber go at once."""
    if error is not None:
        uid, peer = row.sop_instance_uid, row.ae_title
        record(session, "workitem_report_lost", uid, peer=peer, event_type=row.event_type, error=error)
    session.delete(row)
    session.flush()
    following = _next_report(session, row.ae_title)
    if following is not None:
        node.jobs.hasten(session, "notify", str(following))


def _next_report(session: Session, ae_title: str) -> int | None:
    to_peer = WorkitemReportRow.ae_title == ae_title
    return session.scalar(select(func.min(WorkitemReportRow.id)).where(to_peer))


def _take(session: Session, node: Node, ds: Dataset, ae_title: str) -> None:
    """Note a peer's workitem that is new, is for this node, and names the study that it is about."""
    try:
        uid = UID(str(ds.SOPInstanceUID))
        is_known = session.scalar(select(exists().where(WorkitemRow.sop_instance_uid == uid)))
        if uid.is_valid and not is_known and is_for(ds, node.settings.ae_title):
            add_workitem(session, node, ds, study_of(ds), ae_title, is_foreign=True)
    except (WorkitemError, *UNREADABLE) as error:
        log.warning("workitem_not_taken", peer=ae_title, error=type(error).__name__)


def _tell_manager(manager: Manager, row: WorkitemRow, ds: Dataset, due: str) -> str:
    """Claim a workitem, fill it in and end it, as is due; return its state, LOST where another holds it."""
    uid, lock, is_last = row.sop_instance_uid, row.transaction_uid, due in states.FINAL
    if row.state == states.SCHEDULED:
        status = manager.change(uid, states.IN_PROGRESS, lock)
        if status not in MAYBE_OURS:
            return _lost(status)
    status = manager.update(uid, only(ds, (PROGRESS, PERFORMED)), lock)
    if status not in UPDATED and not (status == states.NO_LONGER_UPDATED and is_last):
        return _lost(status)
    if row.state == states.SCHEDULED:
        manager.watch(uid)
    if is_last:
        status = manager.change(uid, due, lock)
        if status not in (states.SUCCESS, ENDED[due]):
            return _lost(status)
    return due


def _lost(status: int) -> str:
    if status in NOT_OURS:
        return states.LOST
    raise SendError(f"what was said of a workitem was answered 0x{status:04X}, 0x0000 was expected")


def _next_time(node: Node, ae_title: str) -> dt.datetime:
    peer = node.settings.peer(ae_title)
    return utc_now() + dt.timedelta(seconds=(peer and peer.workitem_period_s) or LONGEST_DELAY_S)
