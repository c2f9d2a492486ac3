"""Objects on their way in: each dataset goes from the network to a file in staging, never through memory.

pynetdicom collects a message's dataset in a `BytesIO`; here that of a C-STORE is one whose bytes are a file.
(Its own `STORE_RECV_CHUNKED_DATASET` makes files too, but in the process's temporary folder, where they stay
after an abort; and where the disk is full it drops the association.)
"""

import contextlib
import hashlib
import os
import queue
import secrets
import threading
import time
from io import BytesIO
from typing import Any

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from node.dicom.commands import (
    C_STORE_RQ,
    NO_DATASET,
    BreachError,
    StoreRequest,
    file_meta,
    read_command,
    store_answer,
)
from node.dicom.contexts import NOT_STORAGE
from node.dicom.transport import WAIT_S
from node.dicom.walk import DOES_NOT_MATCH
from node.errors import NodeError, ReceivedObjectError, StorageFullError
from node.files import FileStore, storage_error

log = structlog.get_logger()

MAX_COMMAND_BYTES = 65_536
"""A command set of C-STORE has a few hundred bytes; a peer cannot make us collect more than this."""
MAX_MESSAGE_BYTES = 1 << 20
"""The dataset of another message: a commitment report on some 7000 objects is as long."""

WRITTEN_BACK_BYTES = 1 << 20
"""So many bytes of an object at a time go to the disk before it has all arrived."""

MAX_WAITING = 16
"""Requests of one association that may wait; we negotiate no asynchronous operations (PS3.7 D.3.3.3)."""


class Arrival(BytesIO):
    """The dataset of a C-STORE request, written to a file in staging as it comes.

    Attributes
    ----------
    failure
        Why it cannot be kept, or None. Its rest is then taken off the network and thrown away, so that the
        sender gets its answer.
    is_over
        Whether it has been dealt with.
    """

    def __init__(self, files: FileStore, *, sop_class_uid: str, transfer_syntax_uid: str) -> None:
        super().__init__()
        self.sop_class_uid = sop_class_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.is_over = False
        self.token = secrets.token_hex(16)
        self.path = files.staging / self.token
        self.begun_at = time.monotonic()
        self.size_bytes = 0
        self.failure: NodeError | None = None
        self._digest = hashlib.sha256()
        self._is_settled = threading.Event()
        self._on_disk = 0
        self._descriptor: int | None = None
        try:
            if files.has_room():
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            else:
                self.fail(StorageFullError("fewer than min_free_bytes are free"))
        except OSError as error:
            self.fail(storage_error(error, "no file can be made for a received object"))

    @property
    def sha256(self) -> str:
        """Digest (hex) of the file's bytes so far."""
        return self._digest.hexdigest()

    def begin(self, sop_instance_uid: str) -> None:
        """Write what makes a dataset a file (PS3.10 7.1): the same for the same object, whoever sends it."""
        self._write(file_meta(self.sop_class_uid, sop_instance_uid, self.transfer_syntax_uid))

    def write(self, data: Any) -> int:
        """Write a fragment of the dataset."""
        self.size_bytes += len(data)
        self._write(data)
        return len(data)

    def finish(self) -> None:
        """Sync the complete file to the disk: by the thread that wrote it, while another reads its header."""
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
                self._close()
        except OSError as error:
            self.failure = storage_error(error, "a received object cannot be made durable")
        finally:
            self._is_settled.set()

    def settle(self) -> None:
        """Wait until `finish` is through; then no other thread works on the file."""
        self._is_settled.wait()

    def until_durable(self) -> None:
        """Wait for `finish`, and raise `failure` where there is one."""
        self.settle()
        if self.failure is not None:
            raise self.failure

    def discard(self) -> None:
        """Leave nothing behind; what has been kept by then lies elsewhere."""
        self.is_over = True
        with contextlib.suppress(OSError):  # of a file that is thrown away
            self._close()
        self.path.unlink(missing_ok=True)

    def fail(self, error: NodeError) -> None:
        """Write no more of it."""
        self.failure = error
        self.discard()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest and self._descriptor is not None:
                rest = rest[os.write(self._descriptor, rest) :]
            self._digest.update(data)
            if self._descriptor is not None and self.size_bytes - self._on_disk >= WRITTEN_BACK_BYTES:
                # Linux begins to write dirty pages back on this advice: the disk works while more arrives.
                os.posix_fadvise(self._descriptor, self._on_disk, WRITTEN_BACK_BYTES, os.POSIX_FADV_DONTNEED)
                self._on_disk += WRITTEN_BACK_BYTES
        except OSError as error:
            self.fail(storage_error(error, "a received object cannot be written"))


class StoreMessages(DIMSEServiceProvider):  # type: ignore[misc]  # pynetdicom has no types
    """Takes requests off the network, those of C-STORE to files, and nothing that would make memory grow.

    Attributes
    ----------
    token
        Tells this association from every other.
    arrivals
        Those of this association that are not dealt with yet.
    """

    def __init__(self, assoc: Association, files: FileStore) -> None:
        super().__init__(assoc)
        self.token = secrets.token_hex(16)
        self.arrivals: list[Arrival] = []
        self._files = files
        self._command = b""
        self._awaits: tuple[int, StoreRequest, Arrival] | None = None
        self._message_bytes = 0

    def get_msg(self, block: bool = False) -> Any:  # noqa: FBT001, FBT002 - pynetdicom's signature
        """Return the next message, or ``(None, None)``; unless an answer is waited for, after a moment."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else WAIT_S)
        except queue.Empty:
            return None, None

    @property
    def is_idle(self) -> bool:
        """Whether no message is on its way in, being dealt with, or waiting to be."""
        is_coming = self._command or self._awaits or self.arrivals or self.message is not None
        return not is_coming and self.msg_queue.empty()

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message; only once it is answered is an object done with."""
        if isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo is not None:
            self.dul.send_pdu(store_answer(primitive, context_id))
        else:
            super().send_msg(primitive, context_id)
        self.arrivals = [arrival for arrival in self.arrivals if not arrival.is_over]

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in a P-DATA, fragment by fragment; a breach of protocol aborts the association.

        The first byte of a fragment (PS3.8 annex E.2) has bit 0 set for commands, bit 1 for the last one.
        """
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                if fragment[0] & 1:
                    self._take_command(context_id, fragment)
                else:
                    self._take_dataset(context_id, fragment)
        except Exception as error:  # noqa: BLE001 - outermost: a stranger's bytes may break the decoding anywhere
            log.warning("message_refused", error=type(error).__name__, reason=str(error))
            self.dul.event_queue.put("Evt19")  # PS3.8 9.2: invalid PDU; aborts

    def _take_command(self, context_id: int, fragment: bytes) -> None:
        self._command += fragment[1:]
        is_awaited = self._awaits is not None or self.message is not None
        if is_awaited or len(self._command) > MAX_COMMAND_BYTES:
            raise BreachError("command out of place or too long")
        if self.msg_queue.qsize() > MAX_WAITING:
            raise BreachError("requests do not wait for their answers")
        if not fragment[0] & 2:
            return
        command, self._command = self._command, b""
        values = read_command(command)
        if values.get(0x0100) == C_STORE_RQ:
            self._begin(context_id, StoreRequest(command))
            return
        context = self._context(context_id)
        if values.get(0x0800) != NO_DATASET and (
            context is None or context.abstract_syntax not in NOT_STORAGE
        ):
            raise BreachError("a dataset of what is not C-STORE, in a storage context")
        self._message_bytes = 0
        self._take_other(context_id, b"\3" + command)

    def _take_other(self, context_id: int, fragment: bytes) -> None:
        """Leave what is not C-STORE to pynetdicom: `message` is there while its dataset is still to come."""
        part = P_DATA()
        part.presentation_data_value_list = [[context_id, fragment]]
        super().receive_primitive(part)

    def _take_dataset(self, context_id: int, fragment: bytes) -> None:
        if self.message is not None:
            self._message_bytes += len(fragment)
            if self._message_bytes > MAX_MESSAGE_BYTES or context_id != self.message.context_id:
                raise BreachError("dataset out of place or too long")
            self._take_other(context_id, fragment)
            return
        if self._awaits is None or context_id != self._awaits[0]:
            raise BreachError("dataset out of place")
        _, request, arrival = self._awaits
        arrival.write(memoryview(fragment)[1:])
        if fragment[0] & 2:
            self._awaits = None
            self.msg_queue.put((context_id, request))
            arrival.finish()

    def _context(self, context_id: int) -> PresentationContext | None:
        return next((c for c in self.assoc.accepted_contexts if c.context_id == context_id), None)

    def _begin(self, context_id: int, request: StoreRequest) -> None:
        context = self._context(context_id)
        if context is None or not context.as_scp or context.abstract_syntax in NOT_STORAGE:
            raise BreachError("C-STORE outside of an accepted storage context")
        if not request.AffectedSOPClassUID or not request.AffectedSOPInstanceUID:
            raise BreachError("C-STORE names no object")
        if not request.has_dataset:
            self.msg_queue.put((context_id, request))
            return
        syntax = context.transfer_syntax[0]
        arrival = Arrival(self._files, sop_class_uid=context.abstract_syntax, transfer_syntax_uid=syntax)
        self.arrivals.append(arrival)
        request.DataSet = arrival
        self._awaits = context_id, request, arrival
        arrival.begin(request.AffectedSOPInstanceUID)
        if request.AffectedSOPClassUID != context.abstract_syntax:
            arrival.fail(
                ReceivedObjectError("SOP Class UID differs from the context's", status=DOES_NOT_MATCH)
            )
            request.AffectedSOPClassUID = context.abstract_syntax  # pynetdicom chooses who answers by it
