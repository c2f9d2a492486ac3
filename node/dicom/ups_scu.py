"""Workitems that a peer manages (PS3.4 annex CC): UPS Pull and Watch as SCU. Reports on ours: UPS Event."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)

from node.dicom.scu import named, open_association, shown
from node.errors import RefusedError, SendError
from node.settings import Peer, Settings
from node.workitem_states import SCHEDULED

MOST_ITEMS = 100
"""More are not waited for: they come with a later question."""
CHANGE_STATE, SUBSCRIBE = 1, 3
"""Action Type IDs (PS3.4 tables CC.2.1-1, CC.2.3-1)."""
RETURNED = (
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "InputInformationSequence",
    "ReferencedRequestSequence", "ScheduledWorkitemCodeSequence", "ProcedureStepLabel", "InputReadinessState",
)  # fmt: skip


class Manager:
    """A peer that manages workitems, on an open association; `SendError` where it gives no answer."""

    def __init__(self, assoc: Association, peer: Peer, ae_title: str) -> None:
        self._assoc, self._peer, self._ae_title = assoc, peer, ae_title

    def change(self, sop_instance_uid: str, state: str, transaction_uid: str) -> int:
        """Ask for a change of state (PS3.4 CC.2.1); return the status."""
        ds, pull = Dataset(), UnifiedProcedureStepPull
        ds.ProcedureStepState, ds.TransactionUID = state, transaction_uid
        return _ask(self._peer, self._assoc.send_n_action, ds, CHANGE_STATE, uid=sop_instance_uid, meta=pull)

    def update(self, sop_instance_uid: str, changes: Dataset, transaction_uid: str) -> int:
        """Have changes written down (N-SET, PS3.4 CC.2.6); return the status."""
        changes.TransactionUID, pull = transaction_uid, UnifiedProcedureStepPull
        return _ask(self._peer, self._assoc.send_n_set, changes, uid=sop_instance_uid, meta=pull)

    def watch(self, sop_instance_uid: str) -> None:
        """Subscribe to what others want of a workitem (PS3.4 CC.2.3), where the peer offers that."""
        ds, watch = Dataset(), UnifiedProcedureStepWatch
        ds.ReceivingAE, ds.DeletionLock = self._ae_title, "FALSE"
        if any(each.abstract_syntax == watch for each in self._assoc.accepted_contexts):
            _ask(self._peer, self._assoc.send_n_action, ds, SUBSCRIBE, uid=sop_instance_uid, meta=watch)


@contextmanager
def managed_by(peer: Peer, settings: Settings) -> Iterator[Manager]:
    """Open an association with a peer that manages workitems.

    Raises `SendError` where it cannot be reached, `RefusedError` where it lets nobody perform its workitems.
    """
    with _associate(peer, settings) as assoc:
        yield Manager(assoc, peer, settings.ae_title)


def find_scheduled(peer: Peer, settings: Settings) -> list[Dataset]:
    """Return what a peer has scheduled for this node (PS3.4 CC.2.8), as far as it can match by that.

    Raises as `managed_by`; `SendError` also where no answer comes within ``query_timeout_s``, or a failure.
    """
    keys, station = Dataset(), Dataset()
    for keyword in RETURNED:
        setattr(keys, keyword, [] if keyword.endswith("Sequence") else "")
    station.CodeValue, station.CodingSchemeDesignator, station.CodeMeaning = settings.ae_title, "", ""
    keys.ProcedureStepState, keys.ScheduledStationNameCodeSequence = SCHEDULED, [station]
    found: list[Dataset] = []
    until, status = time.monotonic() + settings.query_timeout_s, Dataset()
    with _associate(peer, settings) as assoc:
        for status, match in assoc.send_c_find(keys, UnifiedProcedureStepPull):
            if match is not None:
                found.append(match)
            if "Status" not in status or time.monotonic() > until or len(found) >= MOST_ITEMS:
                assoc.abort()
                break
    if status.get("Status") != 0 and len(found) < MOST_ITEMS:
        raise SendError(
            f"{named(peer)}: the query for workitems was answered {shown(status)}, 0x0000 expected"
        )
    return found


def send_report(
    peer: Peer, settings: Settings, sop_instance_uid: str, *, event_type: int, information: Dataset
) -> int:
    """Report an event (PS3.4 CC.2.4) on an association that we open, as SCP; return the status of the answer.

    Raises `SendError` where no answer comes, `RefusedError` where the peer takes no reports.
    """
    event, timeout_s = UnifiedProcedureStepEvent, settings.network_timeout_s
    roles = [build_role(event, scp_role=True)]
    with open_association(peer, settings, [build_context(event)], timeout_s, roles=roles) as assoc:
        send = assoc.send_n_event_report
        return _ask(peer, send, information, event_type, uid=sop_instance_uid, meta=event)


@contextmanager
def _associate(peer: Peer, settings: Settings) -> Iterator[Association]:
    contexts = [build_context(UnifiedProcedureStepPull), build_context(UnifiedProcedureStepWatch)]
    with open_association(peer, settings, contexts, settings.query_timeout_s) as assoc:
        if not any(each.abstract_syntax == UnifiedProcedureStepPull for each in assoc.accepted_contexts):
            raise RefusedError(f"{named(peer)}: {UnifiedProcedureStepPull.name} is not accepted there")
        yield assoc


def _ask(peer: Peer, send: Callable[..., Any], *arguments: Any, uid: str, meta: str) -> int:
    try:
        answer, _ = send(*arguments, UnifiedProcedureStepPush, uid, meta_uid=meta)
    except RuntimeError as error:  # it has ended
        raise SendError(f"{named(peer)}: the association ended before all was said of a workitem") from error
    if "Status" not in answer:
        raise SendError(f"{named(peer)}: what was said of a workitem was not answered in time")
    return int(answer.Status)
