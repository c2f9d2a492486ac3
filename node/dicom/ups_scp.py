"""Workitems on the network (PS3.4 annex CC): UPS Push and Watch as SCP, and events of those of others."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import structlog
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt

from node.catalogue import tell
from node.dicom.find_scp import CANCELLED, PENDING
from node.dicom.identifier import UNABLE_TO_PROCESS, QueryError
from node.house import Node
from node.workitem_dataset import only
from node.workitem_requests import (
    cancel_workitem,
    create_workitem,
    find_workitems,
    get_workitem,
    subscribe,
    take_event,
    unsubscribe,
)

log = structlog.get_logger()

Answer: TypeAlias = tuple[int | Dataset, Dataset | None]

SUCCESS, PROCESSING_FAILURE, NO_SUCH_ACTION = 0x0000, 0x0110, 0x0123  # PS3.7 annex C
NOT_ALL_THERE = 0x0001
"""Requested optional attributes are not supported (PS3.4 table CC.2.7-1)."""

REQUEST_CANCEL = 2
SUBSCRIPTIONS: Mapping[int, Callable[[Node, str, Dataset, str], None]] = {
    3: subscribe, 4: unsubscribe, 5: functools.partial(unsubscribe, only_new=True),
}  # fmt: skip
"""By Action Type ID (PS3.4 tables CC.2.2-1, CC.2.3-1); 1, a change of state, is ours alone to make."""


def _refusing(answer: Callable[[evt.Event, Node], Answer]) -> Callable[[evt.Event, Node], Answer]:
    """Let why a request is refused, or has failed, be what it is answered with."""

    @functools.wraps(answer)
    def answer_or_refuse(event: evt.Event, node: Node) -> Answer:
        refusal = Dataset()
        try:
            return answer(event, node)
        except QueryError as error:
            refusal.Status, refusal.ErrorComment = error.status, str(error)[:64]
        except Exception as error:  # noqa: BLE001 - outermost: whatever it is, the peer may ask again
            refusal.Status, refusal.ErrorComment = PROCESSING_FAILURE, type(error).__name__[:64]
        log.warning(
            "workitem_request_refused", calling_ae_title=_caller(event),
            status=f"0x{refusal.Status:04X}", reason=refusal.ErrorComment,
        )  # fmt: skip
        return refusal, None

    return answer_or_refuse


@_refusing
def answer_create(event: evt.Event, node: Node) -> Answer:
    """Answer an N-CREATE (PS3.4 CC.2.5)."""
    uid, reply = event.request.AffectedSOPInstanceUID, Dataset()
    if uid is None:
        uid = reply.AffectedSOPInstanceUID = generate_uid(prefix=None)
    create_workitem(node, str(uid), event.attribute_list, _caller(event))
    return SUCCESS, reply


@_refusing
def answer_action(event: evt.Event, node: Node) -> Answer:
    """Answer an N-ACTION: a request to cancel, or to be told of changes (PS3.4 CC.2.2, CC.2.3)."""
    uid, asked = str(event.request.RequestedSOPInstanceUID), event.action_information
    if event.action_type == REQUEST_CANCEL:
        return cancel_workitem(node, uid, asked, _caller(event)), None
    if event.action_type not in SUBSCRIPTIONS:
        return NO_SUCH_ACTION, None
    SUBSCRIPTIONS[event.action_type](node, uid, asked, _caller(event))
    return SUCCESS, None


@_refusing
def answer_get(event: evt.Event, node: Node) -> Answer:
    """Answer an N-GET (PS3.4 CC.2.7) with what was asked for, or with everything."""
    ds = get_workitem(node, str(event.request.RequestedSOPInstanceUID))
    wanted = event.attribute_identifiers or list(ds.keys())
    is_all_there = all(tag in ds for tag in wanted)
    _tell_query(event, node, ["SOPInstanceUID"], 1)
    return SUCCESS if is_all_there else NOT_ALL_THERE, only(ds, wanted)


@_refusing
def answer_event(event: evt.Event, node: Node) -> Answer:
    """Answer an N-EVENT-REPORT of a peer that manages workitems (PS3.4 CC.2.4.2)."""
    uid = str(event.request.AffectedSOPInstanceUID)
    take_event(node, uid, event.event_type, event.event_information, _caller(event))
    return SUCCESS, None


def answer_workitem_find(event: evt.Event, node: Node) -> Iterator[Answer]:
    """Answer a C-FIND (PS3.4 CC.2.8) match by match; the query is an audit event."""
    keys, found = Dataset(), 0
    try:
        keys = event.identifier
        for ds in find_workitems(node, keys):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            if ds is not None:
                found += 1
                answer = only(ds, ("SOPClassUID", "SOPInstanceUID", *keys.keys()))
                for key in keys:
                    if key.tag not in answer:
                        answer.add_new(key.tag, key.VR, [] if key.VR == "SQ" else None)
                yield PENDING, answer
    except Exception as error:  # noqa: BLE001 - outermost, as above
        log.warning("workitem_request_refused", calling_ae_title=_caller(event), reason=type(error).__name__)
        yield UNABLE_TO_PROCESS, None
    finally:
        asked = sorted(key.keyword or f"{key.tag:08X}" for key in keys)
        _tell_query(event, node, asked, found)


def _tell_query(event: evt.Event, node: Node, keys: list[str], matches: int) -> None:
    asked = str(event.context.abstract_syntax)
    tell(
        node, "dicom_queried", _caller(event),
        sop_class_uid=asked, level="WORKITEM", keys=keys, matches=matches,
    )  # fmt: skip


def _caller(event: evt.Event) -> str:
    return str(event.assoc.requestor.ae_title).strip()
