"""A receiver on a free port, objects to send it, and a peer that speaks PDUs, wrongly where told to."""

import io
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydicom import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    VLEndoscopicImageStorage,
    generate_uid,
)
from sqlalchemy import select

from db.engine import open_database
from db.schema import installation_id
from db.tables import InstanceRow
from db.tables.base import Base
from node.dicom.scp import Receiver
from node.files import FileStore
from node.house import Node
from node.settings import Peer, Settings
from tests.unit.node.conftest import RowJobs

CONTEXT = (VLEndoscopicImageStorage, ExplicitVRLittleEndian)
VERIFICATION = ("1.2.840.10008.1.1", ImplicitVRLittleEndian)


@dataclass
class Receiving:
    """A receiver under test and what it works on."""

    node: Node
    receiver: Receiver

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.receiver.port

    def staged(self) -> list[Path]:
        """Return the files that lie in staging."""
        return list(self.node.files.staging.iterdir())

    def stored(self) -> list[Path]:
        """Return the files that have been kept."""
        return [path for path in (self.node.settings.storage_dir / "objects").rglob("*") if path.is_file()]

    def rows(self) -> list[InstanceRow]:
        """Return every instance row, in the order received."""
        with self.node.database.reading() as session:
            return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


@contextmanager
def receiving(folder: Path, **overrides: Any) -> Iterator[Receiving]:
    """Run a receiver on a node of its own; stopped at the end, when nothing may be left in staging."""
    values: dict[str, Any] = {
        "port": free_port(),
        "storage_dir": folder / "store",
        "database_url": f"sqlite:///{folder / 'endonode.db'}",
        "peers": (Peer(ae_title="PACS", host="127.0.0.1", port=4242),),
        "min_free_bytes": 0,
    }
    settings = Settings(**values | overrides)
    database = open_database(settings.database_url)
    try:
        Base.metadata.create_all(database.engine)
        files = FileStore(settings.storage_dir, min_free_bytes=settings.min_free_bytes)
        files.prepare(installation_id(database))
        node = Node(settings, database, files, RowJobs(), installation_id(database))
        receiver = Receiver(node)
        receiver.start()
        try:
            yield Receiving(node, receiver)
        finally:
            receiver.stop(5)
            files.close()
    finally:
        database.close()


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def image(rows: int = 16, columns: int = 16, **attributes: Any) -> Dataset:
    """Return a small true-colour VL Endoscopic Image; `attributes` are set over it."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = VLEndoscopicImageStorage, generate_uid()
    ds.AccessionNumber, ds.Modality, ds.PatientID = "A1", "ES", "P1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, columns, 8, 8, 7
    ds.PixelRepresentation = 0
    ds.PixelData = bytes(rows * columns * 3)
    ds["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def encode(ds: Dataset, *, implicit: bool = False) -> bytes:
    """Return the dataset as it stands on the network, little endian."""
    buffer = io.BytesIO()
    file = DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = implicit, True
    write_dataset(file, ds)
    return buffer.getvalue()


def command(**elements: int | str) -> bytes:
    """Return a command set (PS3.7 6.3: Implicit VR Little Endian) with its group length."""
    tags = {
        "AffectedSOPClassUID": 0x0002,
        "CommandField": 0x0100,
        "MessageID": 0x0110,
        "Priority": 0x0700,
        "CommandDataSetType": 0x0800,
        "AffectedSOPInstanceUID": 0x1000,
        "EventTypeID": 0x1002,
    }
    body = b""
    for keyword in sorted(elements, key=tags.__getitem__):
        value = elements[keyword]
        data = struct.pack("<H", value) if isinstance(value, int) else value.encode() + bytes(len(value) % 2)
        body += struct.pack("<HHL", 0, tags[keyword], len(data)) + data
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def store_command(ds: Dataset, **changes: int | str) -> bytes:
    """Return the C-STORE-RQ that goes with a dataset; `changes` are set over it."""
    elements: dict[str, int | str] = {
        "AffectedSOPClassUID": str(ds.SOPClassUID),
        "CommandField": 0x0001,
        "MessageID": 1,
        "Priority": 0,
        "CommandDataSetType": 0x0001,
        "AffectedSOPInstanceUID": str(ds.SOPInstanceUID),
    }
    return command(**elements | changes)


def pdu(kind: int, body: bytes) -> bytes:
    """Return a PDU (PS3.8 9.3)."""
    return struct.pack(">BxL", kind, len(body)) + body


def fragment(data: bytes, control: int, context_id: int = 1) -> bytes:
    """Return a P-DATA-TF with one fragment; `control`: 3 last of a command, 0 of a dataset, 2 last of it."""
    return pdu(4, struct.pack(">LBB", len(data) + 2, context_id, control) + data)


def associate_request(*contexts: tuple[str, str], calling: str = "PACS", called: str = "ENDONODE") -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2) that proposes one transfer syntax a context."""

    def item(kind: int, data: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(data)) + data

    body = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, transfer) in enumerate(contexts or (CONTEXT,)):
        names = item(0x30, abstract.encode()) + item(0x40, transfer.encode())
        body += item(0x20, struct.pack(">B3x", 2 * number + 1) + names)
    body += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    return pdu(1, body)


class RawPeer:
    """A connection of our own making. A peer that says nothing is waited for 10 s."""

    def __init__(self, port: int, *, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def associate(self, *contexts: tuple[str, str], **names: str) -> bytes:
        """Request an association and return the answer, type and body."""
        self.socket.sendall(associate_request(*contexts, **names))
        return self.receive()

    def receive(self) -> bytes:
        """Return the next PDU as type and body; ``b""`` where the connection has ended."""
        try:
            header = self._exactly(6)
            return header[:1] + self._exactly(struct.unpack(">L", header[2:])[0]) if header else b""
        except ConnectionResetError:
            return b""

    def store(self, ds: Dataset, dataset: bytes | None = None, **changes: int | str) -> int | None:
        """Send a C-STORE and return the status; None where the association ended instead."""
        self.socket.sendall(fragment(store_command(ds, **changes), 3))
        for piece, control in _pieces(encode(ds) if dataset is None else dataset):
            self.socket.sendall(fragment(piece, control))
        return self.status()

    def status(self) -> int | None:
        """Return the status of the next response; None where the association ended instead."""
        answer = self.receive()
        if answer[:1] != b"\x04":
            return None
        at = answer.index(struct.pack("<HHL", 0x0000, 0x0900, 2))
        return int(struct.unpack_from("<H", answer, at + 8)[0])

    def echo(self, context_id: int = 1) -> int | None:
        """Send a C-ECHO and return its status."""
        request = command(
            AffectedSOPClassUID=VERIFICATION[0], CommandField=0x0030, MessageID=1, CommandDataSetType=0x0101
        )
        self.socket.sendall(fragment(request, 3, context_id))
        return self.status()

    def release(self) -> bytes:
        """Ask for the release and return the answer."""
        self.socket.sendall(pdu(5, bytes(4)))
        return self.receive()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (piece := self.socket.recv(count - len(data))):
            data += piece
        return data


def _pieces(dataset: bytes, size: int = 16_000) -> Iterator[tuple[bytes, int]]:
    for at in range(0, len(dataset) or 1, size):
        yield dataset[at : at + size], 2 if at + size >= len(dataset) else 0
