"""A syslog daemon that is not ours takes the audit messages, over TLS, as hospitals run it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from node.audit.forwarding import Forwarder
from node.house import Node
from tests.acceptance.peers import free_port, listens, wait_for
from tests.unit.node.audit.test_forwarding import certificate, log_in, told
from tests.unit.node.conftest import node, settings

__all__ = ["certificate", "node", "settings"]

pytestmark = pytest.mark.acceptance

RSYSLOGD = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
CONFIGURATION = """
global(
    workDirectory="{folder}"
    DefaultNetstreamDriver="ossl"
    DefaultNetstreamDriverCAFile="{certificate}"
    DefaultNetstreamDriverCertFile="{certificate}"
    DefaultNetstreamDriverKeyFile="{folder}/key.pem"
)
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="taken" type="list") {{
    property(name="protocol-version") constant(value="|")
    property(name="syslogseverity") constant(value="|")
    property(name="app-name") constant(value="|")
    property(name="msgid") constant(value="|")
    property(name="msg") constant(value="\\n")
}}
action(type="omfile" file="{folder}/taken" template="taken")
"""


class Daemon:
    """Debian's rsyslogd with a TLS port on loopback; it can be stopped and started again."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        assert RSYSLOGD is not None
        self.port, self._folder = free_port(), folder
        said = CONFIGURATION.format(folder=folder, certificate=certificate, port=self.port)
        (folder / "rsyslog.conf").write_text(said)
        self._command = [RSYSLOGD, "-n", "-f", f"{folder}/rsyslog.conf", "-i", f"{folder}/pid"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "rsyslogd.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for("rsyslogd", lambda: listens(self.port), 20)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def taken(self) -> list[tuple[str, str, str, str, str]]:
        """Return version, severity, application, message id and message of what it has written down."""
        path = self._folder / "taken"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [tuple(line.split("|", 4)) for line in lines]  # type: ignore[misc]


@pytest.fixture
def daemon(tmp_path: Path, certificate: Path) -> Iterator[Daemon]:
    """Return a daemon that listens; it ends with the test."""
    if RSYSLOGD is None:
        pytest.skip("rsyslogd is needed (Debian: rsyslog-openssl)")
    found = Daemon(tmp_path, certificate)
    found.start()
    yield found
    found.stop()


def test_rsyslog_takes_every_message_and_what_it_missed(
    node: Node, daemon: Daemon, certificate: Path, tmp_path: Path
) -> None:
    """It parses the header, checks the length and keeps UTF-8; a night without it costs nothing."""
    trusting = told(node, daemon.port, syslog_transport="tls", syslog_ca=certificate)
    forwarder = Forwarder(trusting, tmp_path / "head")
    assert forwarder._claims()
    log_in(node, 40)
    forwarder.forward()
    wait_for("forty messages", lambda: len(daemon.taken()) == 40, 20)
    daemon.stop()
    log_in(node, 3)
    with pytest.raises(OSError, match=r"refused|closed|reset|EOF"):
        forwarder.forward()
    forwarder._disconnect()
    daemon.start()
    forwarder.forward()
    wait_for("three messages more", lambda: len(daemon.taken()) == 43, 20)
    forwarder.close()
    for version, severity, program, message_id, message in daemon.taken():
        assert (version, severity, program, message_id) == ("1", "5", "endonode", "DICOM+RFC3881")
        code = ET.fromstring(message.lstrip("\ufeff")).find("EventIdentification/EventID")  # noqa: S314
        assert code is not None
        assert code.get("csd-code") == "110114"
