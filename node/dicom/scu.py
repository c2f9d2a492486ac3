"""The SCU: C-ECHO, C-FIND and C-STORE to a peer, with a deadline on every wait."""

import contextlib
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from node.errors import RefusedError, SendError
from node.results.raw import keep_raw
from node.results.uids import IMPLEMENTATION_CLASS_UID
from node.settings import Peer, Settings

log = structlog.get_logger()

SLOWEST_BYTES_PER_S = 32_000
"""A link slower than this counts as down; a stalled one is found sooner, by the socket's own timeout."""

DUPLICATE = 0x0111
"""Duplicate SOP Instance (PS3.7 C.5.7): the peer holds it, and our UIDs name one content only."""

WARNINGS = frozenset({0x0001, 0x0107, 0x0116, DUPLICATE}) | frozenset(range(0xB000, 0xC000))
"""Stored, with a remark (PS3.4 B.2.3, PS3.7 C.4)."""

REFUSALS = frozenset({0x0122, *range(0xA900, 0xAA00), *range(0xC000, 0xD000)})
"""SOP class not supported, not matched, or not understood (PS3.4 B.2.3): sending it again is no use."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An object to send: a Part 10 file, and the transfer syntax it is in."""

    sop_instance_uid: str
    sop_class_uid: str
    path: Path
    transfer_syntax_uid: str = ExplicitVRLittleEndian


@dataclass(frozen=True, slots=True)
class RemoteInstance:
    """What a peer says of one instance it holds; ``""`` where it says nothing."""

    sop_class_uid: str
    modality: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a peer says that it holds of a study.

    Attributes
    ----------
    level
        ``IMAGE``, ``SERIES`` or ``STUDY``: how deep it could tell.
    instances
        By SOP Instance UID; None where it could only count.
    count
        Instances of any kind; None where it did not say. 0: it does not know the study.
    """

    level: str
    instances: Mapping[str, RemoteInstance] | None
    count: int | None


def echo(peer: Peer, settings: Settings) -> None:
    """Send a C-ECHO. Raises `SendError` or, where the peer does not take one, `RefusedError`."""
    with open_association(peer, settings, [build_context(Verification)], settings.network_timeout_s) as assoc:
        status = assoc.send_c_echo()
        if status.get("Status") != 0:
            raise SendError(f"{named(peer)}: C-ECHO was answered {shown(status)}, 0x0000 was expected")


def send(
    peer: Peer, objects: Sequence[Outgoing], settings: Settings, *, on_answer: Callable[[str, int], None]
) -> None:
    """Send objects in one association, in order, as the bytes they are stored in.

    Both Explicit and Implicit VR Little Endian are offered; only a peer that takes nothing but the latter
    gets the dataset in other bytes, its values the same.

    Parameters
    ----------
    on_answer
        Called with the SOP Instance UID and the status of each object that the peer has stored: 0x0000, or a
        warning.

    Raises
    ------
    RefusedError
        A class was not accepted, or an object was answered 0x0122, 0xA9xx or 0xCxxx.
    SendError
        Anything else; what `on_answer` told of before is stored nevertheless.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True
    offered = {(each.sop_class_uid, syntax) for each in objects for syntax in offered_syntaxes(each)}
    contexts = [build_context(sop_class_uid, syntax) for sop_class_uid, syntax in sorted(offered)]
    with open_association(peer, settings, contexts, settings.network_timeout_s) as assoc:
        for outgoing in objects:
            status = store(assoc, peer, outgoing, settings.network_timeout_s)
            on_answer(outgoing.sop_instance_uid, status)


def find_instances(peer: Peer, study_instance_uid: str, settings: Settings) -> Holdings:
    """Ask what the peer holds of a study (Study Root C-FIND, PS3.4 C.6.2), as deep as it can tell.

    A list of images shorter than the peer's own count was cut short somewhere: then its count is the answer.

    Raises
    ------
    SendError
        No answer within ``query_timeout_s``, all levels together.
    RefusedError
        The peer takes no queries.
    """
    until = time.monotonic() + settings.query_timeout_s
    contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
    with open_association(peer, settings, contexts, settings.query_timeout_s) as assoc:
        found = _find(
            assoc, peer, until,
            level="SERIES", StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID="", Modality="", NumberOfSeriesRelatedInstances="",
        )  # fmt: skip
        counts = [_count(series, "NumberOfSeriesRelatedInstances") for series in found]
        stated = [count for count in counts if count is not None]
        total = sum(stated) if found and len(stated) == len(found) else None
        instances: dict[str, RemoteInstance] = {}
        for series in found:
            for image in _find(
                assoc, peer, until,
                level="IMAGE", StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=str(series.get("SeriesInstanceUID", "")), SOPInstanceUID="", SOPClassUID="",
            ):  # fmt: skip
                instances[str(image.get("SOPInstanceUID", ""))] = RemoteInstance(
                    str(image.get("SOPClassUID", "")), str(series.get("Modality", ""))
                )
        instances.pop("", None)
        if instances and len(instances) >= (total or 0):
            return Holdings("IMAGE", instances, len(instances))
        if total is not None:
            return Holdings("SERIES", None, total)
        studies = _find(
            assoc, peer, until,
            level="STUDY", StudyInstanceUID=study_instance_uid, NumberOfStudyRelatedInstances="",
        )  # fmt: skip
        count = _count(studies[0], "NumberOfStudyRelatedInstances") if studies else 0
        return Holdings("STUDY", None, count)


class _Caller(AE):  # type: ignore[misc]  # pynetdicom has no types
    """An AE of one association that holds on to its socket: pynetdicom closes it only where all goes well."""

    connection: socket.socket

    def _create_socket(self, *args: Any) -> Any:
        made = super()._create_socket(*args)
        self.connection = made.socket
        return made


@contextlib.contextmanager
def open_association(
    peer: Peer,
    settings: Settings,
    contexts: list[PresentationContext],
    timeout_s: float,
    handlers: Sequence[tuple[Any, ...]] = (),
    roles: Sequence[Any] = (),
) -> Iterator[Association]:
    """Open the one kind of outgoing connection there is; released at the end if it still stands."""
    ae = _Caller(ae_title=settings.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts,
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _tune, [timeout_s]),
                (evt.EVT_DATA_SENT, _acknowledge_at_once),
                *handlers,
            ],
        )
    except OSError as error:
        raise SendError(f"{named(peer)}: no such host: {error.strerror}") from error
    try:
        _expect_established(peer, assoc)
        _keep_answers(assoc)
        yield assoc
    finally:
        assoc.release()
        assoc.dul.join(timeout_s)
        ae.connection.close()


def _keep_answers(assoc: Association) -> None:
    """Keep pynetdicom's own thread from taking an answer that the caller waits for.

    It polls for requests of the peer's, and its pause comes too late at times: 2 of 5000 objects sent to
    storescp seemed unanswered. The one request an SCU serves, N-EVENT-REPORT, gets a thread of pynetdicom's
    that ends the pause, after which a release may wait for ever; so that too is served by the caller's.
    """
    get_msg, contexts = assoc.dimse.get_msg, {each.context_id: each for each in assoc.accepted_contexts}

    def get(block: bool = False) -> Any:  # noqa: FBT001, FBT002 - pynetdicom's signature
        while block:
            context_id, message = get_msg(block=True)
            if not (isinstance(message, N_EVENT_REPORT) and message.is_valid_request):
                return context_id, message
            if context_id not in contexts:
                assoc.abort()
                break
            StorageCommitmentServiceClass(assoc).SCP(message, contexts[context_id])
        return None, None

    assoc.dimse.get_msg = get
    assoc._serve_request = lambda message, context_id: assoc.dimse.msg_queue.put((context_id, message))  # noqa: SLF001


def _tune(event: evt.Event, timeout_s: float) -> None:
    connection = event.assoc.dul.socket.socket
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge_at_once(event: evt.Event) -> None:
    """Re-arm TCP_QUICKACK, which the kernel clears: a peer with Nagle on waits 40 ms for a delayed ACK."""
    with contextlib.suppress(OSError):  # the peer has gone: whoever waits for its answer will be told
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _expect_established(peer: Peer, assoc: Association) -> None:
    if assoc.is_established:
        return
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        codes = f"{answer.result}/{answer.result_source}/{answer.diagnostic}"
        raise SendError(f"{named(peer)}: the association was rejected ({codes}); check the AE titles there")
    if assoc.rejected_contexts:
        names = {context.abstract_syntax.name for context in assoc.rejected_contexts}
        raise RefusedError(f"{named(peer)}: {', '.join(sorted(names))} is not accepted there")
    raise SendError(f"{named(peer)}: no association within the time allowed; is the peer up?")


def store(
    assoc: Association,
    peer: Peer,
    outgoing: Outgoing,
    timeout_s: float,
    *,
    originator: tuple[str | None, int | None] = (None, None),
) -> int:
    """Send one object; return the status, where it means that the peer has stored it.

    `originator` is the AE title and Message ID of the C-MOVE that it is part of. Errors as in `send`.
    """
    size_bytes = outgoing.path.stat().st_size
    assoc.dimse_timeout = timeout_s + math.ceil(size_bytes / SLOWEST_BYTES_PER_S)
    syntaxes = {
        context.transfer_syntax[0]
        for context in assoc.accepted_contexts
        if context.abstract_syntax == outgoing.sop_class_uid and context.as_scu
    }
    if syntaxes.isdisjoint(offered_syntaxes(outgoing)):
        raise RefusedError(f"{named(peer)}: {UID(outgoing.sop_class_uid).name} is not accepted there")
    if not assoc.is_established:
        raise SendError(f"{named(peer)}: the association ended before {outgoing.sop_instance_uid} was sent")
    as_stored = outgoing.transfer_syntax_uid in syntaxes
    title, message_id = originator
    answer = assoc.send_c_store(
        outgoing.path if as_stored else _as_implicit(outgoing.path),
        originator_aet=title,
        originator_id=message_id,
    )
    status = answer.get("Status")
    if status == 0:
        return 0
    if status in WARNINGS:
        elements = [str(tag) for tag in answer.get("OffendingElement") or []]
        log.warning(
            "object_stored_with_warning", sop_instance_uid=outgoing.sop_instance_uid,
            status=shown(answer), offending_elements=elements,
        )  # fmt: skip
        return int(status)
    message = f"{named(peer)}: {outgoing.sop_instance_uid} was answered {shown(answer)}, 0x0000 was expected"
    if status in REFUSALS:
        raise RefusedError(message)
    raise SendError(message)


def offered_syntaxes(outgoing: Outgoing) -> tuple[str, ...]:
    """Return the transfer syntaxes in which an object can be sent."""
    if outgoing.transfer_syntax_uid == ExplicitVRLittleEndian:
        return ExplicitVRLittleEndian, ImplicitVRLittleEndian
    return (outgoing.transfer_syntax_uid,)


def _as_implicit(path: Path) -> Dataset:
    """Return the dataset so that it is encoded as Implicit VR Little Endian, text byte for byte."""
    ds = dcmread(path)
    keep_raw(ds, is_implicit_vr=True)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ds


def _find(assoc: Association, peer: Peer, until: float, *, level: str, **keys: str) -> list[Dataset]:
    """Return the matches; none where the peer refuses the query at this level."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    matches = []
    assoc.dimse_timeout = max(0.001, until - time.monotonic())
    if not assoc.is_established:
        raise SendError(f"{named(peer)}: the association ended before the {level} query")
    for status, match in assoc.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
        if "Status" not in status or time.monotonic() > until:
            assoc.abort()
            raise SendError(f"{named(peer)}: the {level} query was not answered in time")
        if match is not None:
            matches.append(match)
        assoc.dimse_timeout = max(0.001, until - time.monotonic())
    if status.Status != 0:
        log.warning("query_refused", peer=peer.ae_title, level=level, status=shown(status))
        return []
    return matches


def _count(match: Dataset, keyword: str) -> int | None:
    try:
        return int(match[keyword].value)
    except (KeyError, TypeError, ValueError):  # absent, empty, not a number
        return None


def shown(status: Dataset) -> str:
    """Return the status of an answer as the Standard writes it; ``nothing`` where none came."""
    return f"0x{status.Status:04X}" if "Status" in status else "nothing"


def named(peer: Peer) -> str:
    """Return what errors call a peer."""
    return f"{peer.ae_title} at {peer.host}:{peer.port}"
