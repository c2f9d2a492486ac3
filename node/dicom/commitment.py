"""Storage commitment on the network (PS3.4 annex J, Push Model): what is asked of a peer, what it reports."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from node.dicom.scu import named, open_association, shown
from node.errors import SendError
from node.settings import Peer, Settings

log = structlog.get_logger()

REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 table J.3-1)."""
EVENT_TYPES = frozenset({1, 2})
"""Event Type IDs (PS3.4 table J.3-2): all is committed; there are failures. The lists say which."""

PROCESSING_FAILURE = 0x0110  # PS3.7 annex C.5.16; in a report: PS3.3 C.14.1.1
NO_SUCH_EVENT_TYPE = 0x0113  # PS3.7 annex C.5.11

LISTEN_S = 5.0
"""How long a report may come on the association of its request; later, the peer has to open one."""
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A request that is written down: `references` are SOP Class and SOP Instance UIDs."""

    transaction_uid: str
    references: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a peer says of one request.

    Attributes
    ----------
    committed
        SOP Instance UIDs that it answers for from now on.
    failed
        SOP Instance UID -> Failure Reason (PS3.3 C.14.1.1) of those that it does not.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


TakeReport: TypeAlias = Callable[[CommitmentReport, str], int]
"""Makes a report of the AE title named durable and returns the status that it is answered with."""


def request_commitment(
    peer: Peer,
    settings: Settings,
    *,
    begin: Callable[[], CommitmentRequest],
    take: TakeReport,
    is_answered: Callable[[str], bool],
) -> None:
    """Ask a peer to commit, and listen a moment for its report, which may come before the answer.

    Parameters
    ----------
    begin
        Called once the peer has accepted the service: makes the request durable and returns it.
    is_answered
        Tells of a Transaction UID whether its report came meanwhile on an association that the peer opened.

    Raises
    ------
    RefusedError
        The peer does not accept the service; `begin` was not called.
    SendError
        Anything else. Where `begin` was called, a report may still come.
    """
    contexts = [build_context(StorageCommitmentPushModel)]
    handlers = [(evt.EVT_N_EVENT_REPORT, answer_report, [take])]
    with open_association(peer, settings, contexts, settings.network_timeout_s, handlers) as assoc:
        request = begin()
        if not assoc.is_established:
            raise SendError(f"{named(peer)}: the association ended before commitment was requested")
        answer, _ = assoc.send_n_action(
            _information(request),
            REQUEST_COMMITMENT,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        if answer.get("Status") != 0:
            raise SendError(
                f"{named(peer)}: the request for storage commitment was answered {shown(answer)}, "
                "0x0000 was expected"
            )
        until, assoc.dimse_timeout = time.monotonic() + LISTEN_S, LOOK_EVERY_S
        while assoc.is_established and time.monotonic() < until and not is_answered(request.transaction_uid):
            assoc.dimse.get_msg(block=True)


def answer_report(event: evt.Event, take: TakeReport) -> tuple[int, None]:
    """Answer an N-EVENT-REPORT (PS3.4 J.3.3): with success only what `take` has made durable."""
    if event.event_type not in EVENT_TYPES:
        return NO_SUCH_EVENT_TYPE, None
    try:
        return take(_read(event.event_information), str(event.assoc.remote["ae_title"]).strip()), None
    except Exception as error:  # noqa: BLE001 - outermost: whatever it is, the peer keeps its report
        log.warning("commitment_report_refused", error=type(error).__name__)
        return PROCESSING_FAILURE, None


def _information(request: CommitmentRequest) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [Dataset() for _ in request.references]
    for item, (sop_class_uid, sop_instance_uid) in zip(
        ds.ReferencedSOPSequence, request.references, strict=True
    ):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return ds


def _read(ds: Dataset) -> CommitmentReport:
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in ds.get("FailedSOPSequence") or ()
    }
    listed = {str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence") or ()}
    return CommitmentReport(str(ds.TransactionUID), frozenset(listed - failed.keys()), failed)
