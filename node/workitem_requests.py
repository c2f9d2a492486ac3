"""What peers ask of the workitems that this node manages, and what they report of their own."""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import UID
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import WorkitemRow, WorkitemSubscriptionRow
from node import workitems
from node.dicom.find_scp import matches
from node.dicom.identifier import values_of
from node.house import Node
from node.workitem_dataset import (
    UPS_CLASS,
    WorkitemError,
    cancel,
    check_new,
    decode,
    encode,
    moment,
    only,
    study_of,
)
from node.workitem_states import CANCELED, FINAL, IN_PROGRESS, NO_SUCH_WORKITEM, OPEN, SUCCESS, request_cancel

GLOBAL, FILTERED_GLOBAL = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
"""Well-known UIDs of the subscriptions to every workitem (PS3.4 CC.2.3.1)."""
DUPLICATE, INVALID_INSTANCE = 0x0111, 0x0117  # PS3.7 annex C.5
UNKNOWN_RECEIVER, NOT_FOR_THIS_INSTANCE = 0xC308, 0xC314  # PS3.4 table CC.2.3-3
WORKITEMS_AT_ONCE = 100


def create_workitem(node: Node, sop_instance_uid: str, ds: Dataset, ae_title: str) -> None:
    """Create a workitem, of which those who watch everything are told; raises `WorkitemError`."""
    if not UID(sop_instance_uid).is_valid:
        raise WorkitemError("SOP Instance UID: not valid", INVALID_INSTANCE)
    check_new(ds, node.settings.ae_title)
    study = study_of(ds)
    ds.SOPClassUID, ds.SOPInstanceUID = UPS_CLASS, sop_instance_uid
    ds.ScheduledProcedureStepModificationDateTime = moment(utc_now())
    with node.database.writing() as session:
        node.database.lock_study(session, sop_instance_uid)
        if _find(session, sop_instance_uid) is not None:
            raise WorkitemError("a workitem of that UID exists", DUPLICATE)
        row = workitems.add_workitem(session, node, ds, study, ae_title, is_foreign=False)
        everywhere = WorkitemSubscriptionRow.sop_instance_uid.in_((GLOBAL, FILTERED_GLOBAL))
        for each in session.scalars(select(WorkitemSubscriptionRow).where(everywhere)).all():
            if matches_all(decode(each.keys), ds):
                session.merge(_subscription(each.ae_title, sop_instance_uid))
        session.flush()
        workitems.report_state(session, node, row, ds)
        for keyword in ("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"):
            if ds.get(keyword):
                workitems.report(session, node, sop_instance_uid, workitems.ASSIGNED, only(ds, [keyword]))


def get_workitem(node: Node, sop_instance_uid: str) -> Dataset:
    """Return one of our own as it stands; raises `WorkitemError`."""
    keys = Dataset()
    keys.SOPInstanceUID = sop_instance_uid
    found = next(find_workitems(node, keys), None)
    if found is None:
        raise WorkitemError("no such workitem here", NO_SUCH_WORKITEM)
    return found


def find_workitems(node: Node, keys: Dataset) -> Iterator[Dataset | None]:
    """Give each of our own that matches, None for one that does not; no transaction stays open meanwhile."""
    known = {"ProcedureStepState": WorkitemRow.state, "SOPInstanceUID": WorkitemRow.sop_instance_uid}
    narrowed: list[ColumnElement[bool]] = [
        column.in_(values)
        for keyword, column in known.items()
        if (values := values_of(keys, keyword)) and "*" not in values[0] and "?" not in values[0]
    ]
    last: int | None = 0
    while last is not None:
        is_next = WorkitemRow.id > last, WorkitemRow.is_foreign.is_(False), *narrowed
        page = select(WorkitemRow).where(*is_next).order_by(WorkitemRow.id).limit(WORKITEMS_AT_ONCE)
        with node.database.reading() as session:
            rows = session.scalars(page).all()
        for row in rows:
            ds = decode(row.dataset)
            yield ds if matches_all(keys, ds) else None
        last = rows[-1].id if len(rows) == WORKITEMS_AT_ONCE else None


def matches_all(keys: Dataset, ds: Dataset) -> bool:
    """Match each key that has a value (PS3.4 C.2.2.2); those in a sequence by any one item that is there."""
    for key in keys:
        if key.VR == "SQ":
            asked = key.value[0] if key.value else Dataset()
            items = ds[key.tag].value if key.tag in ds else []
            is_match = any(matches_all(asked, item) for item in [*items, Dataset()])
        else:
            wanted = values_of(keys, key.keyword) if key.keyword != "SpecificCharacterSet" else []
            is_match = not wanted or matches(key.VR, wanted, values_of(ds, key.keyword))
        if not is_match:
            return False
    return True


def cancel_workitem(node: Node, sop_instance_uid: str, asked: Dataset, ae_title: str) -> int:
    """Cancel one of our own that has not begun (PS3.4 CC.2.2.3); return the status of the answer."""
    actor = f"ae:{ae_title}"
    with node.database.writing() as session:
        row = _own(session, sop_instance_uid)
        status, ds, uid = request_cancel(row.state), decode(row.dataset), sop_instance_uid
        detail = {"workitem": uid, "status": f"0x{status:04X}"}
        record(session, "workitem_cancel_requested", row.study_instance_uid, actor=actor, **detail)
        if status == SUCCESS:
            reason = str(asked.get("ReasonForCancellation") or f"Canceled by {ae_title}")
            codes = asked.get("ProcedureStepDiscontinuationReasonCodeSequence") or ()
            workitems.move(session, node, row, ds, IN_PROGRESS, actor=actor)  # no way leads past it
            cancel(ds, utc_now(), reason, codes)
            workitems.move(session, node, row, ds, CANCELED, actor=actor)
    return status


def subscribe(node: Node, sop_instance_uid: str, asked: Dataset, ae_title: str) -> None:
    """Let an AE be told of one workitem, or of all that are open and to come; raises `WorkitemError`.

    A deletion lock is granted by itself: no workitem is ever deleted.
    """
    receiver, keys = _receiver(node, asked), Dataset()
    if sop_instance_uid == FILTERED_GLOBAL:
        keys = only(asked, [key.tag for key in asked if key.keyword not in ("ReceivingAE", "DeletionLock")])
    with node.database.writing() as session:
        if sop_instance_uid in (GLOBAL, FILTERED_GLOBAL):
            session.merge(_subscription(receiver, sop_instance_uid, keys))
            is_open = WorkitemRow.is_foreign.is_(False), WorkitemRow.state.in_(OPEN)
            rows = list(session.scalars(select(WorkitemRow).where(*is_open).with_for_update()))
        else:
            rows = [_own(session, sop_instance_uid)]
        for row in rows:
            ds = decode(row.dataset)
            if matches_all(keys, ds):
                session.merge(_subscription(receiver, row.sop_instance_uid))
                workitems.report_state(session, node, row, ds, [receiver])
        actor = f"ae:{ae_title}"
        record(session, "workitem_subscribed", sop_instance_uid, actor=actor, receiver=receiver)


def unsubscribe(
    node: Node, sop_instance_uid: str, asked: Dataset, ae_title: str, *, only_new: bool = False
) -> None:
    """Tell an AE no more of one workitem, of any, or of those to come alone; raises `WorkitemError`."""
    receiver, row = _receiver(node, asked), WorkitemSubscriptionRow
    is_global = sop_instance_uid in (GLOBAL, FILTERED_GLOBAL)
    if only_new and not is_global:
        raise WorkitemError("only a global subscription is suspended", NOT_FOR_THIS_INSTANCE)
    with node.database.writing() as session:
        if not is_global:
            _own(session, sop_instance_uid)
        is_all = is_global and not only_new
        of = [row.ae_title == receiver, *([] if is_all else [row.sop_instance_uid == sop_instance_uid])]
        session.execute(delete(row).where(*of))
        actor = f"ae:{ae_title}"
        record(session, "workitem_unsubscribed", sop_instance_uid, actor=actor, receiver=receiver)


def take_event(node: Node, sop_instance_uid: str, event_type: int, said: Dataset, ae_title: str) -> None:
    """Write down what a peer reports of a workitem that it manages and we perform (PS3.4 CC.2.4.2).

    A request to cancel stays one: what is being read is read to its end, as with one of our own.
    """
    with node.database.writing() as session:
        row, actor = _find(session, sop_instance_uid), f"ae:{ae_title}"
        if row is None or not row.is_foreign or row.peer_ae_title != ae_title:
            return
        state, study, uid = said.get("ProcedureStepState"), row.study_instance_uid, sop_instance_uid
        if event_type == workitems.CANCEL_REQUESTED:
            record(session, "workitem_cancel_requested", study, actor=actor, workitem=uid)
        elif event_type == workitems.STATE_REPORT and state in FINAL and row.state in OPEN:
            workitems.note_state(session, row, decode(row.dataset), state, actor=actor)


def report_restart(node: Node) -> None:
    """Tell every subscriber that this node is back, and has forgotten nothing (PS3.4 CC.2.4.3)."""
    said = Dataset()
    said.SCPStatus = "RESTARTED"
    said.SubscriptionListStatus = said.UnifiedProcedureStepListStatus = "WARM START"
    with node.database.writing() as session:
        ae_titles = session.scalars(select(WorkitemSubscriptionRow.ae_title).distinct()).all()
        workitems.report(session, node, GLOBAL, workitems.SCP_STATUS_CHANGE, said, ae_titles)


def _find(session: Session, sop_instance_uid: str) -> WorkitemRow | None:
    named = WorkitemRow.sop_instance_uid == sop_instance_uid
    return session.scalars(select(WorkitemRow).where(named).with_for_update()).first()


def _own(session: Session, sop_instance_uid: str) -> WorkitemRow:
    row = _find(session, sop_instance_uid)
    if row is None or row.is_foreign:
        raise WorkitemError("no such workitem here", NO_SUCH_WORKITEM)
    return row


def _receiver(node: Node, asked: Dataset) -> str:
    receiver = str(asked.get("ReceivingAE") or "").strip()
    if node.settings.peer(receiver) is None:
        raise WorkitemError("ReceivingAE: no peer of this node", UNKNOWN_RECEIVER)
    return receiver


def _subscription(ae_title: str, uid: str, keys: Dataset | None = None) -> WorkitemSubscriptionRow:
    return WorkitemSubscriptionRow(ae_title=ae_title, sop_instance_uid=uid, keys=encode(keys or Dataset()))
