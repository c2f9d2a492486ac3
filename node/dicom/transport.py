"""Listening and accepting: pynetdicom's upper layer on sockets that are tuned, bounded and never waited on.

pynetdicom's state machine is kept. Overridden are its seams: how a socket is read (whole PDUs, a limit and a
deadline on each, TCP_QUICKACK re-armed), how its two threads wait (for an event, not in naps of 1 ms), and
what becomes of an association that fails in a way it does not foresee.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AddressInformation, AssociationSocket

log = structlog.get_logger()

MAX_PDU_BYTES = 131_072
"""What we advertise (PS3.8 annex D.1): the largest that DCMTK sends."""
PDU_SLACK_BYTES = 1024
"""Some peers leave their own headers out of the length that they keep to."""
MAX_ASSOCIATE_BYTES = 1 << 20
"""An A-ASSOCIATE-RQ of 128 contexts with 100 transfer syntaxes each is shorter."""
HEADER_BYTES = 6  # PS3.8 9.3: type, reserved, length
P_DATA_TF = 0x04
ABORT_INVALID_PDU = bytes.fromhex("07000000000400000206")
"""A-ABORT by the service provider: invalid PDU parameter value (PS3.8 9.3.8)."""
IDLE = "Sta1"
ESTABLISHED = "Sta6"  # PS3.8 9.2: association established, ready for data transfer
PEERS_TURN = frozenset({"Sta2", ESTABLISHED})  # Sta2: awaiting the A-ASSOCIATE-RQ
WAIT_S = 0.25
"""How long a thread of an established association waits for an event; only timeouts are seen that late."""
LINGER_S = 2.0
"""How long a rejected caller may take to read why."""
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Accepts connections and hands each to `serve` in a thread of its own: none keeps others waiting.

    Parameters
    ----------
    serve
        Called with the connection and the caller's address; it owns the connection.

    Attributes
    ----------
    port
        The TCP port that is listened on.
    """

    def __init__(self, address: str, port: int, serve: Callable[[socket.socket, Any], None]) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family, backlog=128)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        self.port = int(self._socket.getsockname()[1])
        self._serve = serve
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more; what has been accepted goes on."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._socket.accept()
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    return  # closed
                log.critical("connection_not_accepted", error=error.strerror)
                time.sleep(0.1)
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()
            except RuntimeError:  # no thread is to be had
                log.critical("connection_not_served", peer_address=address[0])
                connection.close()


def reject(connection: socket.socket, result: int, source: int, reason: int) -> None:
    """Send an A-ASSOCIATE-RJ (PS3.8 9.3.4) to a caller that nothing has been read from, and close.

    What it sends meanwhile is thrown away for a moment: closing upon unread bytes would reset the connection
    before it has read the answer.
    """
    with connection, contextlib.suppress(OSError):
        connection.settimeout(LINGER_S)
        connection.sendall(struct.pack(">BxLxBBB", 0x03, 4, result, source, reason))
        connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + LINGER_S
        while connection.recv(MAX_PDU_BYTES) and time.monotonic() < until:
            pass


class PduSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom has no types
    """An accepted connection that is read a PDU at a time."""

    def __init__(self, assoc: Association, connection: socket.socket, pdu_timeout_s: float) -> None:
        super().__init__(assoc, client_socket=connection)
        self._connection = connection
        self._pdu_timeout_s = pdu_timeout_s
        self._deadline = 0.0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._wake_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Wait for bytes, or for something of ours to send, and tell whether there are bytes."""
        if self._connection.fileno() < 0:
            time.sleep(0.001)
            return False
        dul = self.assoc.dul
        has_time = dul.event_queue.empty() and dul.state_machine.current_state in PEERS_TURN
        wait_s = WAIT_S if has_time else 0.001
        events = dict(self._poll.poll(wait_s * 1000))
        if events.pop(self._wake, 0):
            os.eventfd_read(self._wake)
        return bool(events)

    def wake(self) -> None:
        """End a wait in `ready`; after `release` there is none to end."""
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read the header of a PDU, or the rest of it; fewer bytes where the peer has closed.

        Raises
        ------
        OSError
            The PDU is not complete in time, or longer than we take (as its header says: nothing is
            allocated). The peer has been told.
        """
        if nr_bytes == HEADER_BYTES:
            self._deadline = time.monotonic() + self._pdu_timeout_s
        buffer = bytearray(nr_bytes)
        rest = memoryview(buffer)
        while rest:
            try:
                self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
                count = self._connection.recv_into(rest)
            except TimeoutError:
                self._cut("late")
                raise
            if not count:
                return buffer[: nr_bytes - len(rest)]
            rest = rest[count:]
        if nr_bytes == HEADER_BYTES:
            pdu_type, length = struct.unpack(">BxL", buffer)
            if length > (MAX_PDU_BYTES + PDU_SLACK_BYTES if pdu_type == P_DATA_TF else MAX_ASSOCIATE_BYTES):
                self._cut("too_long")
                raise ConnectionAbortedError(errno.ECONNABORTED, "PDU too long")
        else:  # the kernel disarms it now and then; a sender with Nagle on would wait 40 ms for our ACK
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return buffer

    def send(self, bytestream: bytes) -> None:
        """Send; a peer that does not read is given no longer than one that does not write."""
        with contextlib.suppress(OSError):  # closed: what follows says so
            self._connection.settimeout(self._pdu_timeout_s)
        super().send(bytestream)

    def release(self) -> None:
        """Close everything; no thread of the association uses it any more."""
        self.close()
        self._connection.close()
        with self._wake_lock:
            os.close(self._wake)
            self._wake = -1

    def _cut(self, reason: str) -> None:
        log.warning("pdu_refused", reason=reason, peer_address=self.assoc.requestor.address)
        self.send(ABORT_INVALID_PDU)


class UpperLayer(DULServiceProvider):  # type: ignore[misc]  # pynetdicom has no types
    """The upper layer, woken when there is something to send; it may end in an abort, not in a traceback."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._run_loop_delay = 0  # `PduSocket.ready` waits instead

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive and wake the thread that sends it."""
        super().send_pdu(primitive)
        self.socket.wake()

    def run_reactor(self) -> None:
        """Run until the connection ends."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - outermost: a stranger's bytes may break pynetdicom anywhere
            log.warning("association_failed", error=type(error).__name__)
            self.socket.send(ABORT_INVALID_PDU)
            self.socket.close()
            self.to_user_queue.put(None)  # whoever waits for its request waits no longer


class Acceptor(Association):  # type: ignore[misc]  # pynetdicom has no types
    """One accepted connection, from its first byte to its last.

    Parameters
    ----------
    on_end
        Called with the acceptor when nothing of it runs any more.
    """

    def __init__(
        self,
        ae: AE,
        connection: socket.socket,
        address: Any,
        *,
        pdu_timeout_s: float,
        on_end: Callable[["Acceptor"], None],
    ) -> None:
        super().__init__(ae, "acceptor")
        self._on_end = on_end
        self.serve_retrieval: Callable[[Any, Any], None] | None = None
        self.dul = UpperLayer(self)
        self.acse_timeout = ae.acse_timeout  # both are also set on the upper layer, which is another now
        self.network_timeout = ae.network_timeout
        self.set_socket(PduSocket(self, connection, pdu_timeout_s))
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.maximum_length = MAX_PDU_BYTES
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.requestor.address_info = AddressInformation.from_tuple(address)
        self.bind(evt.EVT_FSM_TRANSITION, _wake_on_change)

    def run(self) -> None:
        """Serve the association; whatever ends it, nothing of it stays."""
        try:
            super().run()
        except Exception as error:  # noqa: BLE001 - outermost: one association's end is not the node's
            log.warning("association_failed", error=type(error).__name__)
        finally:
            self.dul.socket.close()
            self.kill()
            self.dul.socket.release()
            self._on_end(self)

    def _serve_request(self, message: Any, context_id: int) -> None:
        """Serve requests one by one: pynetdicom would give each N-EVENT-REPORT a thread.

        Retrievals are served by `serve_retrieval`, given request and context, where that is set.
        """
        if threading.current_thread() is not self:
            self.dimse.msg_queue.put((context_id, message))
        elif isinstance(message, C_MOVE | C_GET) and self.serve_retrieval is not None:
            context = self._accepted_cx.get(context_id)
            if context is None or context.abstract_syntax != message.AffectedSOPClassUID:
                self.abort()
                return
            self._is_paused = True  # as pynetdicom does for services that send requests of their own
            self.serve_retrieval(message, context)
            self._is_paused = False
            self.dimse.cancel_req = {}  # not before: a cancel may already have come
        else:
            super()._serve_request(message, context_id)


def _wake_on_change(event: evt.Event) -> None:
    """Let the association's thread, which waits for a message or for its request, see that there is none."""
    if event.next_state != ESTABLISHED:
        event.assoc.dimse.msg_queue.put((None, None))
    if event.next_state == IDLE:
        event.assoc.dul.to_user_queue.put(None)
