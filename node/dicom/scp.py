"""The storage SCP: who may come in, what each is offered, and what a C-STORE is answered."""

import contextlib
import functools
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import structlog
from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import PresentationContext

from node.commitment_reports import take_report
from node.dicom.arrivals import Arrival, StoreMessages
from node.dicom.commitment import answer_report
from node.dicom.contexts import (
    WORKITEM_CLASSES,
    commitment_contexts,
    echo_contexts,
    query_contexts,
    retrieval_contexts,
    storage_contexts,
    workitem_contexts,
)
from node.dicom.find_scp import answer_find
from node.dicom.header import peek_study_instance_uid
from node.dicom.retrieve_scp import Retrieval
from node.dicom.transport import Acceptor, Listener, reject
from node.dicom.ups_scp import (
    answer_action,
    answer_create,
    answer_event,
    answer_get,
    answer_workitem_find,
)
from node.dicom.walk import DOES_NOT_MATCH
from node.errors import ReceivedObjectError, SettingsError, StorageError
from node.house import Node
from node.inbox import Inbox, Received
from node.results.uids import IMPLEMENTATION_CLASS_UID
from node.settings import Peer
from node.workitem_dataset import UPS_CLASS

log = structlog.get_logger()

OUT_OF_RESOURCES = 0xA700
"""PS3.4 table B.2-1; also where the database fails: the sender is to try again later."""
PROCESSING_FAILURE = 0x0110  # PS3.7 annex C.5.16
ERROR_COMMENT_LENGTH = 64  # PS3.7 annex E.1: an LO

CALLING_AE_UNKNOWN = (1, 1, 3)  # PS3.8 table 9-21: result, source, reason
CALLED_AE_UNKNOWN = (1, 1, 7)
LIMIT_EXCEEDED = (2, 3, 2)

ARRIVING_AFTER_S = 0.5
"""Objects that take longer get a row that holds their exam open."""
BEAT_S = 0.5


class Receiver:
    """Listens for peers from `start` to `stop`."""

    def __init__(self, node: Node) -> None:
        settings = node.settings
        self._node = node
        self._inbox = Inbox(node)
        self._take_report = functools.partial(take_report, node)
        self._networks = {peer.ae_title: _networks(peer) for peer in settings.peers}
        self._for_all = [*echo_contexts(), *commitment_contexts()]
        self._ae = AE(settings.ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.acse_timeout = settings.pdu_timeout_s
        self._ae.network_timeout = settings.network_timeout_s
        self._ae.maximum_associations = sys.maxsize  # we count them, and before anything is read
        self._lock = threading.Lock()
        self._inside: set[Acceptor] = set()
        self._is_draining = False
        self._stopped = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="arrivals", daemon=True)
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on, once started."""
        if self._listener is None:
            raise RuntimeError("the receiver has not been started")
        return self._listener.port

    def start(self) -> None:
        """Listen, or raise `SettingsError` where address and port cannot be listened on."""
        _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log whole messages
        # A malformed UID in a command is refused below; pydicom's warnings would come first and quote it.
        warnings.filterwarnings("ignore", message="Invalid value for VR", category=UserWarning)
        where = self._node.settings.bind, self._node.settings.port
        try:
            self._listener = Listener(*where, self._serve)
        except OSError as error:
            raise SettingsError(
                f"{where[0]}:{where[1]} cannot be listened on: {error.strerror}; correct bind or port"
            ) from error
        self._beats.start()

    def stop(self, timeout_s: float) -> None:
        """Accept no more, let objects under way arrive for so long, and end every association."""
        with self._lock:
            self._is_draining = True
        if self._listener is not None:
            self._listener.close()
        until = time.monotonic() + timeout_s
        while (inside := self._snapshot()) and time.monotonic() < until + 1:
            for acceptor in inside:
                if not acceptor.is_established:
                    acceptor.dul.socket.close()
                elif acceptor.dimse.is_idle or time.monotonic() > until:
                    acceptor.abort(block=False)
            time.sleep(0.02)
        if inside:
            log.warning("associations_left", count=len(inside))
        self._stopped.set()
        if self._beats.is_alive():
            self._beats.join()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        """Let a caller in, or reject it before a byte of it is read."""
        caller = _address(address[0])
        if not any(caller in network for networks in self._networks.values() for network in networks):
            log.warning("association_rejected", reason="address", peer_address=str(caller))
            reject(connection, *CALLING_AE_UNKNOWN)
            return
        with self._lock:
            is_full = self._is_draining or len(self._inside) >= self._node.settings.max_associations
            acceptor = None if is_full else self._make_acceptor(connection, address)
            if acceptor is not None:
                self._inside.add(acceptor)
        if acceptor is None:
            log.warning("association_rejected", reason="limit", peer_address=str(caller))
            reject(connection, *LIMIT_EXCEEDED)
            return
        try:
            acceptor.start()
        except RuntimeError:  # no thread is to be had
            log.critical("connection_not_served", peer_address=str(caller))
            acceptor.dul.socket.release()
            self._forget(acceptor)

    def _make_acceptor(self, connection: socket.socket, address: Any) -> Acceptor:
        timeout_s = self._node.settings.pdu_timeout_s
        acceptor = Acceptor(self._ae, connection, address, pdu_timeout_s=timeout_s, on_end=self._forget)
        acceptor.dimse = StoreMessages(acceptor, self._node.files)
        acceptor.bind(evt.EVT_REQUESTED, self._on_requested)
        acceptor.bind(evt.EVT_ABORTED, self._on_aborted)
        acceptor.bind(evt.EVT_C_STORE, self._on_store)
        acceptor.bind(evt.EVT_C_FIND, _find, [self._node])
        acceptor.bind(evt.EVT_N_CREATE, answer_create, [self._node])
        acceptor.bind(evt.EVT_N_ACTION, answer_action, [self._node])
        acceptor.bind(evt.EVT_N_GET, answer_get, [self._node])
        acceptor.serve_retrieval = functools.partial(_retrieve, self._node, acceptor)
        acceptor.bind(evt.EVT_N_EVENT_REPORT, self._on_report)
        return acceptor

    def _forget(self, acceptor: Acceptor) -> None:
        for arrival in acceptor.dimse.arrivals:
            arrival.discard()
        self._inbox.end_reception(acceptor.dimse.token)
        with self._lock:
            self._inside.discard(acceptor)

    def _snapshot(self) -> list[Acceptor]:
        with self._lock:
            return list(self._inside)

    def _on_requested(self, event: evt.Event) -> None:
        """Hold the request against the peers we know, and offer each what it may do."""
        settings, assoc = self._node.settings, event.assoc
        request = assoc.requestor.primitive
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        caller = _address(assoc.requestor.address)
        peer = settings.peer(calling)
        if called != settings.ae_title:
            reason, rejection = "called_ae_title", CALLED_AE_UNKNOWN
        elif peer is None or not any(caller in network for network in self._networks[calling]):
            reason, rejection = "calling_ae_title", CALLING_AE_UNKNOWN
        else:
            assoc.acceptor.supported_contexts = self._offered(peer, assoc.requestor.role_selection)
            log.info("association_accepted", calling_ae_title=calling, peer_address=str(caller))
            return
        log.warning(
            "association_rejected", reason=reason,
            calling_ae_title=calling, called_ae_title=called, peer_address=str(caller),
        )  # fmt: skip
        assoc.acse.send_reject(*rejection)
        assoc.kill()

    def _offered(self, peer: Peer, roles: Mapping[str, Any]) -> list[PresentationContext]:
        stored = storage_contexts(self._node.settings) if peer.may_send else []
        if peer.may_query:
            stored = [*query_contexts(), *retrieval_contexts(stored, roles)]
        return [*self._for_all, *workitem_contexts(peer), *stored]

    def _on_report(self, event: evt.Event) -> tuple[int | Dataset, Dataset | None]:
        """Answer an N-EVENT-REPORT: of a commitment, or of a workitem."""
        if event.request.AffectedSOPClassUID == UPS_CLASS:
            return answer_event(event, self._node)
        return answer_report(event, self._take_report)

    def _on_aborted(self, event: evt.Event) -> None:
        log.warning("association_aborted", peer_address=event.assoc.requestor.address)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        """Answer a C-STORE: 0x0000 only where the object is durable and admitted."""
        request = event.request
        calling = event.assoc.requestor.primitive.calling_ae_title.strip()
        try:
            uid = request.AffectedSOPInstanceUID.strip(" \0")
            self._keep(request.DataSet, uid, calling, association=event.assoc.dimse.token)
        except ReceivedObjectError as error:
            status, comment = error.status, str(error)
        except StorageError as error:
            status, comment = OUT_OF_RESOURCES, str(error)
        except Exception as error:  # noqa: BLE001 - outermost: whatever it is, the sender keeps the object
            status, comment = PROCESSING_FAILURE, type(error).__name__
        else:
            return 0x0000
        finally:
            if isinstance(request.DataSet, Arrival):
                request.DataSet.settle()
                request.DataSet.discard()
        log.warning(
            "instance_refused", sop_instance_uid=str(request.AffectedSOPInstanceUID),
            calling_ae_title=calling, status=f"0x{status:04X}", reason=comment,
        )  # fmt: skip
        answer = Dataset()
        answer.Status = status
        answer.ErrorComment = comment[:ERROR_COMMENT_LENGTH]
        return answer

    def _keep(self, arrival: Any, sop_instance_uid: str, calling_ae_title: str, *, association: str) -> None:
        if not isinstance(arrival, Arrival) or not arrival.size_bytes:
            raise ReceivedObjectError("no dataset came with the command", status=DOES_NOT_MATCH)
        if arrival.failure is not None:
            raise arrival.failure
        self._inbox.keep(
            Received(
                staged=arrival.path, sha256=arrival.sha256, until_durable=arrival.until_durable,
                sop_class_uid=arrival.sop_class_uid, sop_instance_uid=sop_instance_uid,
                calling_ae_title=calling_ae_title, association=association,
            )
        )  # fmt: skip

    def _beat(self) -> None:
        """Keep the exams of objects that take long to arrive open."""
        while not self._stopped.wait(BEAT_S):
            arriving = {}
            for acceptor in self._snapshot():
                for arrival in list(acceptor.dimse.arrivals):
                    if time.monotonic() - arrival.begun_at < ARRIVING_AFTER_S or arrival.is_over:
                        continue
                    with contextlib.suppress(OSError):  # it has just been kept
                        study_instance_uid = peek_study_instance_uid(arrival.path)
                        if study_instance_uid is not None:
                            arriving[arrival.token] = study_instance_uid
            self._inbox.beat(arriving)
        self._inbox.beat({})


def _find(event: evt.Event, node: Node) -> Iterator[tuple[int | Dataset, Dataset | None]]:
    is_of_workitems = event.request.AffectedSOPClassUID in WORKITEM_CLASSES
    yield from (answer_workitem_find if is_of_workitems else answer_find)(event, node)


def _retrieve(node: Node, acceptor: Acceptor, request: Any, context: PresentationContext) -> None:
    Retrieval(node, acceptor, request, context).serve()


def _address(text: str) -> IPv4Address | IPv6Address:
    """Parse a caller's address; one of IPv4 that comes over IPv6 is one of IPv4."""
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _networks(peer: Peer) -> list[IPv4Network | IPv6Network]:
    return [ip_network(address, strict=False) for address in peer.addresses]
