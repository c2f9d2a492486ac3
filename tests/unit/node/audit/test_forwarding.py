"""A syslog receiver is told in order, once it listens; nothing ever waits for it."""

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from db.audit import record
from db.engine import utc_now
from db.tables import AuditEventRow, ExamRow, PatientRow
from node.audit import forwarding, keeping, syslog
from node.audit.chain import Head
from node.audit.forwarding import Forwarder
from node.audit.keeping import keeping_trail
from node.audit.sequencer import Sequencer
from node.house import Node
from tests.unit.node.audit.conftest import KEY

HEADER = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ endonode - "
    rb"(DICOM\+RFC3881|endonode-head) - \xef\xbb\xbf"
)  # RFC 5424 6


class Receiver:
    """A syslog receiver on loopback; it takes frames apart, or takes nothing at all."""

    def __init__(
        self, context: ssl.SSLContext | None = None, *, is_deaf: bool = False, port: int = 0
    ) -> None:
        self.messages: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listening.getsockname()[1])
        self._context, self._is_deaf = context, is_deaf
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            self._open.append(connection)
            if self._listening.fileno() < 0:  # it came as this was closed
                connection.close()
                return
            if not self._is_deaf:
                self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while True:
                length = b""
                while (byte := stream.read(1)) not in (b"", b" "):
                    length += byte
                if not length:
                    return
                self.messages.append(stream.read(int(length)))

    def close(self) -> None:
        """End at once, what is connected and all; a second time does nothing."""
        for opened in (self._listening, *self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def events(self) -> list[str]:
        """Return the EventIDs that came, in order."""
        found = []
        for message in self.messages:
            header = HEADER.match(message)
            assert header is not None, message[:120]
            if header[1] == b"DICOM+RFC3881":
                code = ET.fromstring(message[header.end() :]).find("EventIdentification/EventID")  # noqa: S314
                assert code is not None
                found.append(str(code.get("csd-code")))
        return found


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    """Return a function that starts a receiver; all end with the test."""
    started: list[Receiver] = []

    def start(*arguments: ssl.SSLContext, is_deaf: bool = False, port: int = 0) -> Receiver:
        started.append(Receiver(*arguments, is_deaf=is_deaf, port=port))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


def told(node: Node, port: int, **settings: object) -> Node:
    """Return the node as it is with a receiver."""
    values = {"syslog_host": "127.0.0.1", "syslog_port": port, "syslog_transport": "tcp"} | settings
    return Node(
        node.settings.model_copy(update=values), node.database, node.files, node.jobs, node.installation_id
    )


def log_in(node: Node, count: int) -> None:
    """Record events that are sent, and some between that are not; link them all."""
    with node.database.writing() as session:
        for number in range(count):
            record(session, "user_logged_in", str(number), actor="anna", address="192.0.2.7")
            record(session, "exam_closed", "exam-1")
    Sequencer(node.database, KEY, Head()).link_pending()


def until(is_so: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def lost(node: Node) -> list[object]:
    with node.database.reading() as session:
        return list(
            session.scalars(select(AuditEventRow.detail).where(AuditEventRow.event == "audit_messages_lost"))
        )


def test_a_node_tells_of_its_start_and_of_the_head(
    node: Node, receivers: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LOOK_EVERY_S", 0.05)
    receiver = receivers()
    with keeping_trail(told(node, receiver.port), "serve"):
        until(lambda: receiver.events() == ["110100", "110113"])
    with keeping_trail(told(node, receiver.port), "serve"):
        until(lambda: receiver.events() == ["110100", "110113", "110100", "110100"])
        until(lambda: b"endonode-head" in b"".join(receiver.messages))
    head = next(message for message in receiver.messages if b"endonode-head" in message)
    assert json.loads(head.partition(b"\xef\xbb\xbf")[2]).keys() == {"seq", "mac", "at"}


def test_what_a_dead_receiver_missed_is_sent_when_it_is_back_and_nothing_twice(
    node: Node, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    forwarder = Forwarder(told(node, receiver.port), tmp_path / "head")
    assert forwarder._claims()
    log_in(node, 3)
    assert not forwarder.forward()
    until(lambda: len(receiver.events()) == 3)
    receiver.close()
    time.sleep(0.05)
    log_in(node, 2)
    for _ in range(2):
        with pytest.raises(OSError, match=r"refused|closed|reset"):
            forwarder.forward()
        forwarder._disconnect()
    forwarder.close()  # and a restart meanwhile
    back = receivers(port=receiver.port)
    forwarder = Forwarder(told(node, receiver.port), tmp_path / "head")
    assert forwarder._claims()
    forwarder.forward()
    until(lambda: len(back.events()) == 2)
    forwarder.forward()
    assert len(back.events()) == 2
    forwarder.close()


def test_a_full_spool_drops_the_oldest_and_that_is_an_event(
    node: Node, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    forwarder = Forwarder(told(node, receiver.port, syslog_spool=100), tmp_path / "head")
    assert forwarder._claims()
    log_in(node, 75)
    receiver.close()
    with pytest.raises(OSError, match="refused"):
        forwarder.forward()
    assert lost(node) == [{"first_link": 1, "last_link": 50}]
    back = receivers(port=receiver.port)
    assert forwarder.forward()
    Sequencer(node.database, KEY, Head()).link_pending()
    forwarder.forward()
    until(lambda: back.events() == ["110114"] * 50 + ["110113"])
    forwarder.close()


def test_a_retrieval_is_told_with_its_study_its_patient_and_what_went(
    node: Node, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver, now = receivers(), utc_now()
    forwarder = Forwarder(told(node, receiver.port), tmp_path / "head")
    assert forwarder._claims()
    with node.database.writing() as session:
        patient = PatientRow(patient_id="P1", created_at=now)
        session.add(patient)
        session.flush()
        session.add(
            ExamRow(
                id="x", exam_key="x", revision=1, state="read", study_instance_uid="1.2.3", opened_at=now,
                last_new_at=now, closes_at=now, patient_row_id=patient.id,
            )
        )  # fmt: skip
        record(
            session, "results_retrieved", "x", actor="ae:VIEWER", destination="WORKSTATION", level="STUDY",
            instances=["1.9"], failed=[], sop_classes={"1.2.840.10008.5.1.4.1.1.88.34": 1},
        )  # fmt: skip
    Sequencer(node.database, KEY, Head()).link_pending()
    forwarder.forward()
    until(receiver.events)
    message = ET.fromstring(receiver.messages[0].partition(b"\xef\xbb\xbf")[2])  # noqa: S314
    objects = [thing.get("ParticipantObjectID") for thing in message.iter("ParticipantObjectIdentification")]
    assert objects == ["1.2.3", "P1"]
    (of_class,) = message.iter("SOPClass")
    assert of_class.attrib == {"UID": "1.2.840.10008.5.1.4.1.1.88.34", "NumberOfInstances": "1"}
    forwarder.close()


def test_an_event_that_was_altered_keeps_no_other_from_being_told(
    node: Node, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    forwarder = Forwarder(told(node, receiver.port), tmp_path / "head")
    assert forwarder._claims()
    log_in(node, 3)
    with node.database.writing() as session:
        session.execute(text("UPDATE audit_events SET detail = 'oops' WHERE id = 1"))
        session.execute(text("UPDATE audit_events SET at = 'yesterday' WHERE id = 3"))
    with capture_logs() as said:
        forwarder.forward()
    until(lambda: receiver.events() == ["110114"])
    assert [one["link"] for one in said if one["event"] == "audit_message_not_made"] == [1, 3]
    forwarder.close()


def test_whatever_goes_wrong_the_receiver_is_told_later_and_the_log_says_so(
    node: Node, receivers: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ends would be silent for ever."""
    monkeypatch.setattr(forwarding, "WAITS_S", (0.01,))
    monkeypatch.setattr(keeping, "AFTER_FAILURE_S", 0.01)
    receiver = receivers()
    with capture_logs() as said, keeping_trail(told(node, receiver.port), "serve"):
        until(receiver.events)
        with node.database.writing() as session:
            session.execute(text("UPDATE audit_links SET seq = 'zz' WHERE seq = 1"))
        until(lambda: [one for one in said if one["event"] == "syslog_broken"])
        with node.database.writing() as session:
            session.execute(text("UPDATE audit_links SET seq = 1 WHERE seq = 'zz'"))
            record(session, "user_logged_in", "7", actor="anna")
        until(lambda: "110114" in receiver.events())


def test_a_receiver_that_takes_nothing_holds_nobody_up(
    node: Node, receivers: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts, and reads no byte: the buffers fill, and the node goes on."""
    monkeypatch.setattr(syslog, "TIMEOUT_S", 0.3)
    receiver = receivers(is_deaf=True)
    with keeping_trail(told(node, receiver.port, syslog_spool=100), "serve"):
        began = time.monotonic()
        for _ in range(10):
            with node.database.writing() as session:
                for number in range(100):
                    record(session, "user_logged_in", str(number), actor="a" * 80, address="x" * 4000)
        assert time.monotonic() - began < 5
        until(lambda: lost(node))


def test_only_one_process_tells_the_receiver(
    node: Node, receivers: Callable[..., Receiver], tmp_path: Path
) -> None:
    receiver = receivers()
    one, other = (Forwarder(told(node, receiver.port), tmp_path / "head") for _ in range(2))
    assert (one._claims(), other._claims()) == (True, False)
    one.close()
    assert other._claims()
    other.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a PEM file of a key and a certificate for 127.0.0.1 that vouches for itself."""
    path = tmp_path / "receiver.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", "/CN=receiver", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
         "-keyout", str(tmp_path / "key.pem"), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (tmp_path / "key.pem").read_text())
    return path


def test_over_tls_the_receiver_is_told_and_one_that_nobody_vouches_for_is_not(
    node: Node, receivers: Callable[..., Receiver], certificate: Path, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    receiver = receivers(context)
    stranger = Forwarder(told(node, receiver.port, syslog_transport="tls"), tmp_path / "head")
    trusting = told(node, receiver.port, syslog_transport="tls", syslog_ca=certificate)
    log_in(node, 2)
    assert stranger._claims()
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.forward()
    stranger.close()
    forwarder = Forwarder(trusting, tmp_path / "head")
    assert forwarder._claims()
    forwarder.forward()
    log_in(node, 1)
    forwarder.forward()
    until(lambda: len(receiver.events()) == 3)
    forwarder.close()
