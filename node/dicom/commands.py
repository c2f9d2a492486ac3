"""What a C-STORE says and is answered, as bytes: command sets (PS3.7) and the head of a file (PS3.10).

pynetdicom's own way through pydicom datasets, with every value checked several times over, takes a quarter of
a small object's time.
"""

import struct
from io import BytesIO

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from node.results.uids import IMPLEMENTATION_CLASS_UID

C_STORE_RQ, NO_DATASET = b"\1\0", b"\1\1"
"""Values of Command Field and Command Data Set Type (PS3.7 9.3.1.1)."""
UID_LENGTH = 64  # PS3.5 9.1


class BreachError(Exception):
    """A message that PS3.7 or PS3.8 forbids, or that nobody here could answer."""


class StoreRequest(C_STORE):  # type: ignore[misc]  # pynetdicom has no types
    """A C-STORE request as it came: pynetdicom's own checks each value several times over, and we do once."""

    AffectedSOPClassUID = AffectedSOPInstanceUID = UID("")
    MessageID = Priority = 0
    DataSet: BytesIO | None = None
    is_valid_request = True
    _dataset_file = None

    def __init__(self, command: bytes) -> None:
        """Read a command set (PS3.7 6.3.1, 9.3.1.1)."""
        values = read_command(command)
        self.MessageID = int.from_bytes(values[0x0110], "little")
        self.AffectedSOPClassUID = _uid(values, 0x0002)
        self.AffectedSOPInstanceUID = _uid(values, 0x1000)
        self.has_dataset = values[0x0800] != NO_DATASET


def read_command(command: bytes) -> dict[int, bytes]:
    """Return element number -> value of a command set (PS3.7 6.3.1: Implicit VR Little Endian, group 0000).

    >>> read_command(bytes.fromhex("0000 0001 02000000 3031"))
    {256: b'01'}
    """
    values, at = {}, 0
    while at < len(command):
        group, element, length = struct.unpack_from("<HHL", command, at)
        at += 8 + length
        if group or at > len(command):
            raise BreachError("command is malformed")
        values[element] = command[at - length : at]
    return values


def _uid(values: dict[int, bytes], element: int) -> UID:
    text = values.get(element, b"").decode("ascii", "replace").strip(" \0")
    if len(text) > UID_LENGTH:
        raise BreachError("C-STORE names an object by more than 64 characters")
    return UID(text)


def store_answer(answer: C_STORE, context_id: int) -> P_DATA:
    """Encode a C-STORE-RSP (PS3.7 9.3.1.2)."""
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


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode what makes a dataset a file (PS3.10 7.1): preamble, prefix and File Meta Information."""
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
