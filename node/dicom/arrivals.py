"""Objects on their way in: each dataset goes from the network to a file in staging, never through memory.

pynetdicom collects a message's dataset in a `BytesIO`; here that of a C-STORE is one whose bytes are a file.
(Its own `STORE_RECV_CHUNKED_DATASET` makes files too, but in the process's temporary folder, where they stay
after an abort; and where the disk is full it drops the association.)
"""

import hashlib
import os
import queue
import secrets
import struct
import time
from io import BytesIO
from typing import Any

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification

from node.dicom.transport import WAIT_S
from node.dicom.walk import DOES_NOT_MATCH
from node.errors import NodeError, ReceivedObjectError, StorageFullError
from node.files import FileStore, storage_error
from node.results.uids import IMPLEMENTATION_CLASS_UID

log = structlog.get_logger()

MAX_COMMAND_BYTES = 65_536
"""A command set of C-STORE has a few hundred bytes; a peer cannot make us collect more than this."""

WRITTEN_BACK_BYTES = 1 << 20
"""So many bytes of an object at a time go to the disk before it has all arrived."""

MAX_WAITING = 16
"""Requests of one association that may wait; we negotiate no asynchronous operations (PS3.7 D.3.3.3)."""


class BreachError(Exception):
    """A message that PS3.7 or PS3.8 forbids, or that nobody here could answer."""


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
        self._write(_file_meta(self.sop_class_uid, sop_instance_uid, self.transfer_syntax_uid))

    def write(self, data: Any) -> int:
        """Write a fragment of the dataset."""
        self.size_bytes += len(data)
        self._write(data)
        return len(data)

    def finish(self) -> None:
        """Close the file: it is complete, or never will be."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Leave nothing behind; what has been kept by then lies elsewhere."""
        self.is_over = True
        self.finish()
        self.path.unlink(missing_ok=True)

    def fail(self, error: NodeError) -> None:
        """Write no more of it."""
        self.failure = error
        self.discard()

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
    """Takes C-ECHO and C-STORE requests off the network, and nothing that would make memory grow.

    Attributes
    ----------
    arrivals
        Those of this association that are not dealt with yet.
    """

    def __init__(self, assoc: Association, files: FileStore) -> None:
        super().__init__(assoc)
        self.arrivals: list[Arrival] = []
        self._files = files
        self._command_bytes = 0

    def get_msg(self, block: bool = False) -> Any:  # noqa: FBT001, FBT002 - pynetdicom's signature
        """Return the next message, waiting a moment for it, or ``(None, None)``."""
        del block
        try:
            return self.msg_queue.get(timeout=WAIT_S)
        except queue.Empty:
            return None, None

    @property
    def is_idle(self) -> bool:
        """Whether no message is on its way in, being dealt with, or waiting to be."""
        return self.message is None and not self.arrivals and self.msg_queue.empty()

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send an answer; only then is its object done with."""
        if isinstance(primitive, C_STORE):
            self.dul.send_pdu(_store_answer(primitive, context_id))
        else:
            super().send_msg(primitive, context_id)
        self.arrivals = [arrival for arrival in self.arrivals if not arrival.is_over]

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in a P-DATA, fragment by fragment; a breach of protocol aborts the association."""
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                self._check(context_id, fragment)
                single = P_DATA()
                single.presentation_data_value_list = [[context_id, fragment]]
                super().receive_primitive(single)
                if isinstance(self.message, C_STORE_RQ) and not isinstance(self.message.data_set, Arrival):
                    self._begin_arrival(context_id)
        except Exception as error:  # noqa: BLE001 - outermost: a stranger's bytes may break the decoding anywhere
            log.warning("message_refused", error=type(error).__name__, reason=str(error))
            self.dul.event_queue.put("Evt19")  # PS3.8 9.2: invalid PDU; aborts

    def _check(self, context_id: int, fragment: bytes) -> None:
        """Refuse what cannot be part of a message we take (PS3.8 annex E.2: bit 0 is set for commands)."""
        awaits_dataset = isinstance(self.message, C_STORE_RQ)
        if fragment[0] & 1:
            self._command_bytes = len(fragment) + (self._command_bytes if self.message else 0)
            if awaits_dataset or self._command_bytes > MAX_COMMAND_BYTES:
                raise BreachError("command out of place or too long")
            if self.msg_queue.qsize() > MAX_WAITING:
                raise BreachError("requests do not wait for their answers")
        elif not awaits_dataset or context_id != self.message.context_id:
            raise BreachError("dataset out of place")

    def _begin_arrival(self, context_id: int) -> None:
        context = next((c for c in self.assoc.accepted_contexts if c.context_id == context_id), None)
        if context is None or context.abstract_syntax == Verification:
            raise BreachError("C-STORE outside of an accepted storage context")
        command = self.message.command_set
        if not command.AffectedSOPClassUID or not command.AffectedSOPInstanceUID:
            raise BreachError("C-STORE names no object")
        arrival = Arrival(
            self._files,
            sop_class_uid=context.abstract_syntax,
            transfer_syntax_uid=context.transfer_syntax[0],
        )
        self.arrivals.append(arrival)
        self.message.data_set = arrival
        arrival.begin(command.AffectedSOPInstanceUID)
        if command.AffectedSOPClassUID != context.abstract_syntax:
            arrival.fail(
                ReceivedObjectError("SOP Class UID differs from the context's", status=DOES_NOT_MATCH)
            )
            command.AffectedSOPClassUID = context.abstract_syntax  # pynetdicom chooses who answers by it


def _store_answer(answer: C_STORE, context_id: int) -> P_DATA:
    """Encode a C-STORE-RSP (PS3.7 9.3.1.2). pynetdicom's way takes a tenth of a small object's time."""
    elements = (
        (0x0002, _even(answer.AffectedSOPClassUID)),
        (0x0100, b"\x01\x80"),  # Command Field: C-STORE-RSP
        (0x0120, struct.pack("<H", answer.MessageIDBeingRespondedTo)),
        (0x0800, b"\x01\x01"),  # Command Data Set Type: none
        (0x0900, struct.pack("<H", answer.Status)),
        (0x0902, _even(answer.ErrorComment or "", b" ")),
        (0x1000, _even(answer.AffectedSOPInstanceUID)),
    )
    command = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements if value
    )
    command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
    p_data = P_DATA()
    p_data.presentation_data_value_list = [[context_id, b"\3" + command]]  # PS3.8 E.2: a command's last
    return p_data


def _file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    elements = b"\2\0\1\0OB\0\0\2\0\0\0\0\1" + b"".join(
        struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value
        for element, value in (
            (0x02, _even(sop_class_uid)),
            (0x03, _even(sop_instance_uid)),
            (0x10, _even(transfer_syntax_uid)),
            (0x12, _even(IMPLEMENTATION_CLASS_UID)),
        )
    )
    return bytes(128) + b"DICM\2\0\0\0UL\4\0" + struct.pack("<L", len(elements)) + elements


def _even(text: str, padding: bytes = b"\0") -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
