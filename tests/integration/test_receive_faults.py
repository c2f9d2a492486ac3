"""What goes wrong on the network and on the disk, a row each: the answer, and that nothing is left of it."""

import errno
import os
import random
import socket
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, VLEndoscopicImageStorage
from sqlalchemy import text

from tests.integration.receiving import (
    CONTEXT,
    VERIFICATION,
    RawPeer,
    Receiving,
    associate_request,
    command,
    encode,
    fragment,
    image,
    pdu,
    receiving,
    store_command,
)

CANNOT_UNDERSTAND, DOES_NOT_MATCH, OUT_OF_RESOURCES = 0xC000, 0xA900, 0xA700
ABORTED = None


@contextmanager
def harmless(folder: Path, **overrides: Any) -> Iterator[Receiving]:
    """Run a receiver; whatever is done to it, nothing of it may stay, and it must still answer."""
    with receiving(folder, **overrides) as at:
        threads = threading.active_count()
        yield at
        with RawPeer(at.port) as peer:
            assert peer.associate(VERIFICATION)[:1] == b"\x02"
            assert peer.echo() == 0
        until = time.monotonic() + 5
        while (at.staged() or threading.active_count() > threads) and time.monotonic() < until:
            time.sleep(0.02)
        assert at.staged() == []
        assert at.stored() == []
        assert at.rows() == []
        assert threading.active_count() <= threads


def bad_vr(ds: Dataset) -> bytes:
    """Return the encoded dataset with a VR that does not exist."""
    return encode(ds).replace(b"\x10\0\x20\0LO", b"\x10\0\x20\0QQ")


DATASETS: dict[str, tuple[Callable[[Dataset], bytes], dict[str, Any], int | None]] = {
    "truncated pixel data": (lambda ds: encode(ds)[:-100], {}, CANNOT_UNDERSTAND),
    "truncated before the pixel data": (lambda ds: encode(ds)[:-780], {}, DOES_NOT_MATCH),
    "too little pixel data": (lambda ds: encode(image(**shrunk(ds))), {}, DOES_NOT_MATCH),
    "garbage": (lambda _: random.Random(1).randbytes(5000), {}, CANNOT_UNDERSTAND),
    "37 bytes": (lambda _: bytes(range(37)), {}, CANNOT_UNDERSTAND),
    "bad VR": (bad_vr, {}, CANNOT_UNDERSTAND),
    "zero-length dataset": (lambda _: b"", {}, DOES_NOT_MATCH),
    "command UID differs": (encode, {"AffectedSOPInstanceUID": "1.2.3.4"}, DOES_NOT_MATCH),
    "command class differs": (encode, {"AffectedSOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, DOES_NOT_MATCH),
    "dataset class differs": (
        lambda ds: encode(ds).replace(b"1.1.77.1.1", b"1.1.77.1.4"),
        {},
        DOES_NOT_MATCH,
    ),
    "path in the command's UID": (encode, {"AffectedSOPInstanceUID": "../../etc/passwd"}, DOES_NOT_MATCH),
    "no UID in the command": (encode, {"AffectedSOPInstanceUID": ""}, ABORTED),
}


def shrunk(ds: Dataset) -> dict[str, Any]:
    """Return the attributes of the same object with half its pixel data."""
    return {"SOPInstanceUID": ds.SOPInstanceUID, "PixelData": ds.PixelData[:384]}


@pytest.mark.parametrize("fault", DATASETS)
def test_a_bad_object_is_refused_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    """Success for what cannot be read later is the worst answer: the sender would delete its copy."""
    make, changes, status = DATASETS[fault]
    ds = image()
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        assert peer.store(ds, make(ds), **changes) == status


def test_a_path_in_both_uids_escapes_nowhere(tmp_path: Path) -> None:
    """Files are named by our digests alone, and a UID must be one (PS3.5 9.1)."""
    ds = image()
    evil = "../../../../tmp/evil"
    data = encode(ds).replace(
        str(ds.SOPInstanceUID).encode().ljust(64, b"\0"), evil.encode().ljust(64, b"\0")
    )
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        assert peer.store(ds, data, AffectedSOPInstanceUID=evil) == DOES_NOT_MATCH


def test_an_absent_dataset_is_refused(tmp_path: Path) -> None:
    """A C-STORE whose command says that no dataset follows (PS3.7 E.1) is answered, not waited for."""
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        peer.socket.sendall(fragment(store_command(image(), CommandDataSetType=0x0101), 3))
        assert peer.status() == DOES_NOT_MATCH


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    """A few kilobytes that inflate to gigabytes would fill the disk by a side door."""
    ds = image(2000, 2000)
    deflater = zlib.compressobj(wbits=-15)
    data = deflater.compress(encode(ds)) + deflater.flush()
    assert len(data) < 100_000
    context = (VLEndoscopicImageStorage, DeflatedExplicitVRLittleEndian)
    with harmless(tmp_path, max_inflated_bytes=1_000_000) as at, RawPeer(at.port) as peer:
        peer.associate(context)
        assert peer.store(ds, data) == CANNOT_UNDERSTAND


def test_an_association_survives_a_refusal_that_says_why(tmp_path: Path) -> None:
    """One bad object must not cost the others, and the administrator over there is told what is wrong."""
    good, bad = image(), image(PatientID="SECRET")
    del bad.StudyInstanceUID
    with receiving(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        peer.socket.sendall(fragment(store_command(bad), 3) + fragment(encode(bad), 2))
        answer = peer.receive()
        assert struct.pack("<HHLH", 0, 0x0900, 2, DOES_NOT_MATCH) in answer
        assert b"Study Instance UID is missing" in answer
        assert b"SECRET" not in answer
        assert peer.store(good) == 0x0000
        assert [row.sop_instance_uid for row in at.rows()] == [good.SOPInstanceUID]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount 4 MB of memory there, or skip loudly."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_out_of_resources_and_leaves_nothing(tmp_path: Path) -> None:
    """0xA700 makes the sender come back later; a partial file answered with success would be a lost image."""
    large, small = image(1200, 1200), image()
    with small_disk(tmp_path / "store"):
        with harmless(tmp_path) as at, RawPeer(at.port) as peer:
            peer.associate()
            assert peer.store(large) == OUT_OF_RESOURCES
            assert at.staged() == []
            assert peer.store(small, encode(small)[:-2]) == CANNOT_UNDERSTAND
        with receiving(tmp_path) as at, RawPeer(at.port) as peer:
            peer.associate()
            assert peer.store(small) == 0x0000


def test_below_min_free_bytes_nothing_is_written(tmp_path: Path) -> None:
    """The last bytes of the disk belong to the database: the store says 0xA700 before it writes any."""
    with harmless(tmp_path, min_free_bytes=2**60) as at, RawPeer(at.port) as peer:
        peer.associate()
        assert peer.store(image()) == OUT_OF_RESOURCES


def test_a_failing_database_is_out_of_resources(tmp_path: Path) -> None:
    """No row, no success; and what the database says, which may quote values, is not sent to the peer."""
    with receiving(tmp_path) as at, RawPeer(at.port) as peer:
        with at.node.database.writing() as session:
            session.execute(text("ALTER TABLE instances RENAME TO elsewhere"))
        peer.associate()
        ds = image()
        assert peer.store(ds) == OUT_OF_RESOURCES
        assert at.staged() == []
        with at.node.database.writing() as session:
            session.execute(text("ALTER TABLE elsewhere RENAME TO instances"))
        assert peer.store(ds) == 0x0000


@pytest.mark.parametrize("call", ["fsync", "close"])
def test_a_disk_that_fails_at_the_end_is_out_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Only then does a disk, or a shared mount, say that the bytes are lost: no success, and nobody waits."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with receiving(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        ds = image()
        with monkeypatch.context() as broken:
            broken.setattr("node.dicom.arrivals.os", Os(**{call: fail}))
            assert peer.store(ds) == OUT_OF_RESOURCES
        assert (at.staged(), at.stored(), at.rows()) == ([], [], [])
        assert peer.store(ds) == 0x0000


class Os:
    """The module `os`, some of its functions replaced."""

    def __init__(self, **replaced: Any) -> None:
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name, getattr(os, name))


@pytest.mark.parametrize("end", ["abort", "reset", "close", "release"])
def test_an_object_cut_off_leaves_nothing(tmp_path: Path, end: str) -> None:
    """Temporary files of broken transfers would fill the disk in the end."""
    ds = image(256, 256)
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        peer.socket.sendall(fragment(store_command(ds), 3) + fragment(encode(ds)[:100_000], 0))
        while not at.staged():
            time.sleep(0.01)
        if end == "abort":
            peer.socket.sendall(pdu(7, bytes(4)))
        elif end == "release":
            peer.socket.sendall(pdu(5, bytes(4)))
        elif end == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end in ("reset", "close"):
            peer.socket.close()


def p_data(*fragments: tuple[int, int, bytes]) -> bytes:
    """Return a P-DATA-TF with fragments of (context id, control, data)."""
    return pdu(4, b"".join(struct.pack(">LBB", len(d) + 2, c, control) + d for c, control, d in fragments))


STORE = store_command(image())
IN_ASSOCIATION: dict[str, bytes] = {
    "PDU longer than advertised": struct.pack(">BxL", 4, 200_000) + bytes(200_000),
    "PDU length 0xFFFFFFF0": struct.pack(">BxL", 4, 0xFFFFFFF0) + bytes(1000),
    "unknown PDU type": pdu(9, bytes(4)),
    "fragment longer than its PDU": pdu(4, struct.pack(">LBB", 5000, 1, 3) + bytes(10)),
    "fragment of length 0": pdu(4, struct.pack(">L", 0)),
    "empty fragment": pdu(4, struct.pack(">LB", 1, 1)),
    "second A-ASSOCIATE-RQ": associate_request(),
    "dataset without a command": p_data((1, 2, b"x" * 100)),
    "command without end": b"".join([fragment(bytes(60_000), 1)] * 3),
    "command that is garbage": p_data((1, 3, b"\xff" * 100)),
    "command of no known kind": p_data((1, 3, command(CommandField=0x7777, CommandDataSetType=0x0101))),
    "command twice": p_data((1, 3, STORE), (1, 3, STORE)),
    "C-STORE outside of any context": p_data((99, 3, STORE)),
    "C-STORE in the context of C-ECHO": p_data((3, 3, STORE)),
    "dataset in another context": p_data((1, 3, STORE), (3, 0, b"x" * 100)),
    "C-FIND": p_data(
        (1, 3, command(AffectedSOPClassUID=CONTEXT[0], CommandField=0x20, MessageID=1, CommandDataSetType=1)),
        (1, 0, bytes(1000)),
    ),
}


@pytest.mark.parametrize("fault", IN_ASSOCIATION)
def test_a_breach_of_protocol_is_aborted_at_once(tmp_path: Path, fault: str) -> None:
    """What cannot be answered is cut off, without waiting and without collecting it in memory."""
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate(CONTEXT, VERIFICATION)
        begun = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            peer.socket.sendall(IN_ASSOCIATION[fault])
        assert peer.receive()[:1] in (b"\x07", b"")
        assert time.monotonic() - begun < 2


def test_requests_that_do_not_wait_for_answers_are_cut_off(tmp_path: Path) -> None:
    """Nobody may make us collect requests without end; one at a time is what was negotiated."""
    request = command(
        AffectedSOPClassUID=VERIFICATION[0], CommandField=0x30, MessageID=1, CommandDataSetType=0x0101
    )
    with harmless(tmp_path, pdu_timeout_s=1) as at, RawPeer(at.port) as peer:
        peer.associate(VERIFICATION)
        with suppress(OSError):
            peer.socket.sendall(fragment(request, 3) * 5000)
        answers = [peer.receive()[:1] for _ in range(200)]
        assert answers[-1] == b""


def test_a_length_is_believed_by_nobody(tmp_path: Path) -> None:
    """4 GB announced, nothing allocated: one PDU header must not bring the node down."""
    with harmless(tmp_path) as at, RawPeer(at.port) as peer:
        peer.associate()
        tracemalloc.start()
        try:
            peer.socket.sendall(IN_ASSOCIATION["PDU length 0xFFFFFFF0"])
            assert peer.receive()[:1] == b"\x07"
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "sent", [b"", b"\x04\0", associate_request()[:40]], ids=["nothing", "header", "request"]
)
def test_a_caller_that_falls_silent_is_cut_off(tmp_path: Path, sent: bytes) -> None:
    """Half a PDU, then silence: the place in the association limit is worth more."""
    with harmless(tmp_path, pdu_timeout_s=0.5) as at, RawPeer(at.port) as peer:
        peer.socket.sendall(sent)
        begun = time.monotonic()
        peer.receive()
        assert peer.receive() == b""
        assert 0.4 < time.monotonic() - begun < 3


def test_half_a_pdu_in_a_store_is_cut_off(tmp_path: Path) -> None:
    """The deadline holds in the middle of an object too, even while single bytes trickle in."""
    with harmless(tmp_path, pdu_timeout_s=0.5) as at, RawPeer(at.port) as peer:
        peer.associate()
        peer.socket.sendall(fragment(store_command(image()), 3) + fragment(bytes(1000), 0)[:500])
        begun = time.monotonic()
        peer.socket.settimeout(0.1)
        while time.monotonic() - begun < 5:
            try:
                peer.socket.sendall(b"\0")
                if peer.receive()[:1] == b"\x07":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.4 < time.monotonic() - begun < 3


def test_an_idle_association_is_ended(tmp_path: Path) -> None:
    """Some senders never release: their places are taken back after `network_timeout_s`."""
    with harmless(tmp_path, network_timeout_s=1) as at, RawPeer(at.port) as peer:
        begun = time.monotonic()
        assert peer.associate()[:1] == b"\x02"
        assert peer.receive()[:1] == b"\x07"
        assert 0.9 < time.monotonic() - begun < 4


def test_random_bytes_do_no_harm(tmp_path: Path) -> None:
    """Whatever a scanner sends, the node neither hangs nor leaks: seeded, in and before an association."""
    rng = random.Random(7)
    with harmless(tmp_path, pdu_timeout_s=0.5, max_associations=200) as at:
        for number in range(30):
            with RawPeer(at.port) as peer:
                if number % 2:
                    peer.associate(CONTEXT, VERIFICATION)
                noise = rng.randbytes(rng.choice((1, 6, 7, 100, 5000)))
                if number % 3:
                    noise = pdu(rng.randint(1, 7), noise)
                try:
                    peer.socket.sendall(noise)
                except OSError:
                    continue
