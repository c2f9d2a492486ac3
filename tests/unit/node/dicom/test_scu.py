"""The SCU against pynetdicom's SCP and against raw sockets that misbehave."""

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from node.dicom.scu import Outgoing, RemoteInstance, echo, find_instances, open_association, send
from node.errors import NodeError, RefusedError, SendError
from node.settings import Peer, Settings
from tests.unit.node.results.conftest import encode, make_source

SC = "1.2.840.10008.5.1.4.1.1.7"
SETTINGS = Settings(network_timeout_s=1, query_timeout_s=1)
NAME = b"Yamada^Tarou=\x1b$@;3ED\x1b(J^\x1b$@BB@O:\x1b(J"
"""Valid in ISO 2022 IR 87, and not what an encoder would write for the same name."""


@contextmanager
def scp(
    *handlers: Any, syntaxes: list[str] | None = None, classes: tuple[str, ...] = (SC,)
) -> Iterator[Peer]:
    """Serve the classes with the handlers on a free port of the loopback."""
    ae = AE(ae_title="PACS")
    for uid in classes:
        ae.add_supported_context(uid, syntaxes or [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield Peer(ae_title="PACS", host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()


@contextmanager
def raw_peer(serve: Callable[[socket.socket], None]) -> Iterator[Peer]:
    """Accept one connection and let `serve` treat it badly."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                serve(connection)
                over.wait(30)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Peer(ae_title="PACS", host="127.0.0.1", port=listening.getsockname()[1])
        finally:
            over.set()
            thread.join()


def accept_association(connection: socket.socket) -> None:
    """Read the A-ASSOCIATE-RQ and accept its first context in Explicit VR LE (PS3.8 9.3.3)."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(body)) + body

    _, length = struct.unpack(">BxL", connection.recv(6, socket.MSG_WAITALL))
    request = connection.recv(length, socket.MSG_WAITALL)
    context = struct.pack(">BxBx", 1, 0) + item(0x40, ExplicitVRLittleEndian.encode())
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    body = request[:68] + item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x21, context) + user
    connection.sendall(struct.pack(">BxL", 2, len(body)) + body)


@pytest.fixture
def outgoing(tmp_path: Path) -> list[Outgoing]:
    """Return two stored objects whose name is in an odd but valid spelling."""
    found = []
    for number in (1, 2):
        source = make_source(SOPClassUID=SC, SOPInstanceUID=f"1.2.3.{number}", PatientName="X" * len(NAME))
        source.SpecificCharacterSet = "\\ISO 2022 IR 87"
        source.Rows = source.Columns = 64
        source.add_new("PixelData", "OB", np.arange(64 * 64 * 3, dtype=np.uint8).tobytes())
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(encode(source).replace(b"X" * len(NAME), NAME))
        found.append(Outgoing(f"1.2.3.{number}", SC, path))
    return found


def answers_of(peer: Peer, objects: list[Outgoing], settings: Settings = SETTINGS) -> list[tuple[str, int]]:
    answers: list[tuple[str, int]] = []
    send(peer, objects, settings, on_answer=lambda uid, status: answers.append((uid, status)))
    return answers


def answering(*statuses: int) -> tuple[Any, Callable[[evt.Event], int]]:
    remaining = list(statuses)
    return (evt.EVT_C_STORE, lambda _event: remaining.pop(0) if len(remaining) > 1 else remaining[0])


def test_objects_arrive_as_the_bytes_they_are_stored_in(outgoing: list[Outgoing]) -> None:
    """A retry must be the same object; so nothing is decoded on the way out."""
    arrived: list[bytes] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.request.DataSet.getvalue())
        return 0

    with scp((evt.EVT_C_STORE, keep)) as peer:
        assert answers_of(peer, outgoing) == [("1.2.3.1", 0), ("1.2.3.2", 0)]
    for sent, dataset in zip(outgoing, arrived, strict=True):
        assert sent.path.read_bytes().endswith(dataset)
        assert len(dataset) > 64 * 64 * 3


def test_a_peer_of_implicit_vr_alone_gets_the_same_values(outgoing: list[Outgoing]) -> None:
    """Some archives take nothing else; the name must not be transcoded even then."""
    arrived: list[bytes] = []

    def keep(event: evt.Event) -> int:
        assert event.context.transfer_syntax == ImplicitVRLittleEndian
        arrived.append(event.request.DataSet.getvalue())
        return 0

    with scp((evt.EVT_C_STORE, keep), syntaxes=[ImplicitVRLittleEndian]) as peer:
        answers_of(peer, outgoing)
    ds = dcmread(io.BytesIO(arrived[0]), force=True)
    stored = dcmread(outgoing[0].path)
    assert ds.original_encoding == (True, True)
    assert ds.get_item("PatientName").value.rstrip(b" ") == NAME
    assert ds.PixelData == stored.PixelData
    assert ds.IssuerOfPatientIDQualifiersSequence == stored.IssuerOfPatientIDQualifiersSequence


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_means_stored(outgoing: list[Outgoing], status: int) -> None:
    """Sent again for ever it would stay a warning (PS3.4 B.2.3)."""
    with scp(answering(status)) as peer:
        assert answers_of(peer, outgoing) == [("1.2.3.1", status), ("1.2.3.2", status)]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0xA700, SendError),
        (0xA702, SendError),
        (0x0110, SendError),
        (0x0124, SendError),
        (0x0122, RefusedError),
        (0xA900, RefusedError),
        (0xA9FF, RefusedError),
        (0xC000, RefusedError),
        (0xCFFF, RefusedError),
    ],
)
def test_a_failure_is_told_from_a_refusal(
    outgoing: list[Outgoing], status: int, error: type[NodeError]
) -> None:
    """A full disk is tried again, a form that is not understood is left; what was stored before is told."""
    answers: list[str] = []
    released = threading.Event()
    with scp(answering(0, status), (evt.EVT_RELEASED, lambda _event: released.set())) as peer:
        with pytest.raises(error, match=f"0x{status:04X}"):
            send(peer, outgoing, SETTINGS, on_answer=lambda uid, _status: answers.append(uid))
        assert released.wait(5), "a peer that answered is taken leave of in order"
    assert answers == ["1.2.3.1"]


def test_a_class_that_is_not_accepted_is_a_refusal(outgoing: list[Outgoing]) -> None:
    """The multi-frame form's context is what old archives reject: alone, and beside one they accept."""
    other = Outgoing("1.2.3.2", "1.2.840.10008.5.1.4.1.1.7.4", outgoing[1].path)
    with scp(answering(0)) as peer:
        with pytest.raises(RefusedError, match="Multi-frame True Color"):
            answers_of(peer, [other])
        with pytest.raises(RefusedError, match="Multi-frame True Color"):
            answers_of(peer, [outgoing[0], other])


def test_a_rejected_association_is_transient(outgoing: list[Outgoing]) -> None:
    """A wrong AE title is mended over there; the result waits for it."""
    ae = AE(ae_title="OTHER")
    ae.require_called_aet = True
    ae.add_supported_context(SC)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        with pytest.raises(SendError, match="1/1/7"):
            answers_of(Peer(ae_title="PACS", host="127.0.0.1", port=server.server_address[1]), outgoing)
    finally:
        server.shutdown()


def test_a_peer_that_is_down_or_unknown_is_transient(outgoing: list[Outgoing]) -> None:
    """A restart of the PACS, or of its name server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(SendError):
            answers_of(Peer(ae_title="PACS", host="127.0.0.1", port=closed.getsockname()[1]), outgoing)
    with pytest.raises(SendError, match="no such host"):
        answers_of(Peer(ae_title="PACS", host="nowhere.invalid", port=104), outgoing)


def silent(_connection: socket.socket) -> None:
    """Say nothing at all."""


def deaf(connection: socket.socket) -> None:
    """Accept the association and read no more."""
    accept_association(connection)


def mute(connection: socket.socket) -> None:
    """Accept the association, read what comes, answer nothing."""
    accept_association(connection)
    connection.settimeout(10)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        pass


def gone(connection: socket.socket) -> None:
    """Accept the association, then hang up in mid object."""
    accept_association(connection)
    connection.recv(2000)
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("manners", [silent, deaf, mute, gone])
def test_no_peer_holds_a_sender_for_longer_than_the_deadline(
    manners: Callable[[socket.socket], None], outgoing: list[Outgoing]
) -> None:
    """One bad destination must not take a delivery slot for ever."""
    path = outgoing[0].path
    with path.open("ab") as file:  # far more than the sockets' buffers hold
        file.write(b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", 16_000_000) + bytes(16_000_000))
    settings = SETTINGS.model_copy(update={"network_timeout_s": 0.5})
    with raw_peer(manners) as peer, pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.dicom.scu.SLOWEST_BYTES_PER_S", 16_000_000)
        started = time.monotonic()
        with pytest.raises(SendError):
            answers_of(peer, outgoing[:1], settings)
        assert time.monotonic() - started < 8


def test_an_answer_is_left_to_the_one_who_waits_for_it() -> None:
    """Its thread took one in some thousand; the sender then waited for its whole deadline."""
    contexts = [build_context(Verification)]
    with scp(classes=(Verification,)) as peer, open_association(peer, SETTINGS, contexts, 1) as assoc:
        assoc.dimse.msg_queue.put((1, "an answer"))
        time.sleep(0.1)
        assert assoc.dimse.get_msg(block=True) == (1, "an answer")


def test_echo_tells_whether_a_peer_answers() -> None:
    """`check` and an operator rest on it."""
    with scp(classes=(Verification,)) as peer:
        echo(peer, SETTINGS)
    with scp() as peer, pytest.raises(RefusedError):
        echo(peer, SETTINGS)


class Archive:
    """Answers Study Root queries from a table, as deep as it is told to."""

    def __init__(self, *, levels: str = "STUDY SERIES IMAGE", counts: bool = True, cut: int = 99) -> None:
        self.levels, self.counts, self.cut = levels.split(), counts, cut
        self.series = {"1.1": ("ES", ["1.1.1", "1.1.2"]), "1.2": ("OT", ["1.2.1"])}

    def __call__(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer one query."""
        query = event.identifier
        level = query.QueryRetrieveLevel
        if level not in self.levels:
            yield 0xA900, None
            return
        if query.StudyInstanceUID != "1":
            return
        if level == "STUDY":
            yield 0xFF00, self._match(StudyInstanceUID="1", NumberOfStudyRelatedInstances=3)
        for uid, (modality, images) in self.series.items():
            if level == "SERIES":
                yield (
                    0xFF00,
                    self._match(
                        SeriesInstanceUID=uid, Modality=modality, NumberOfSeriesRelatedInstances=len(images)
                    ),
                )
            elif level == "IMAGE" and query.SeriesInstanceUID == uid:
                for image in images[: self.cut]:
                    yield 0xFF00, self._match(SOPInstanceUID=image, SOPClassUID=SC)

    def _match(self, **values: Any) -> Dataset:
        ds = Dataset()
        for keyword, value in values.items():
            if self.counts or not keyword.startswith("NumberOf"):
                setattr(ds, keyword, value)
        return ds


FIND = (str(StudyRootQueryRetrieveInformationModelFind),)
ALL = {
    "1.1.1": RemoteInstance(SC, "ES"),
    "1.1.2": RemoteInstance(SC, "ES"),
    "1.2.1": RemoteInstance(SC, "OT"),
}


@pytest.mark.parametrize(
    ("archive", "level", "instances", "count"),
    [
        (Archive(), "IMAGE", ALL, 3),
        (Archive(counts=False), "IMAGE", ALL, 3),
        (Archive(levels="STUDY SERIES"), "SERIES", None, 3),
        (Archive(levels="STUDY"), "STUDY", None, 3),
        (Archive(levels="STUDY", counts=False), "STUDY", None, None),
        (Archive(cut=1), "SERIES", None, 3),
    ],
    ids=["all", "no counts", "no images", "no series", "nothing but the study", "cut short"],
)
def test_what_a_peer_holds_is_told_as_deep_as_it_can_tell(
    archive: Archive, level: str, instances: dict[str, RemoteInstance] | None, count: int | None
) -> None:
    """A set can be compared, a count only guessed from; a list cut short would pass for a complete exam."""
    with scp((evt.EVT_C_FIND, archive), classes=FIND) as peer:
        found = find_instances(peer, "1", SETTINGS)
    assert (found.level, found.instances, found.count) == (level, instances, count)


def test_a_study_that_a_peer_does_not_know_counts_nought() -> None:
    """Completeness is then unknown, not complete."""
    with scp((evt.EVT_C_FIND, Archive()), classes=FIND) as peer:
        assert find_instances(peer, "2", SETTINGS).count == 0


def test_a_peer_without_queries_refuses() -> None:
    """It is not asked again and again."""
    with scp() as peer, pytest.raises(RefusedError):
        find_instances(peer, "1", SETTINGS)


def test_matches_that_trickle_are_cut_at_the_deadline() -> None:
    """Each comes in time, all together do not: the exam would stay open as long as they last."""

    def trickle(_event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        match = Dataset()
        match.SeriesInstanceUID = "1.1"
        for _ in range(20):
            time.sleep(0.3)
            yield 0xFF00, match

    aborted = threading.Event()
    on_abort = (evt.EVT_ABORTED, lambda _event: aborted.set())
    with scp((evt.EVT_C_FIND, trickle), on_abort, classes=FIND) as peer:
        started = time.monotonic()
        with pytest.raises(SendError, match="in time"):
            find_instances(peer, "1", SETTINGS)
        assert time.monotonic() - started < 4
        assert aborted.wait(10)
