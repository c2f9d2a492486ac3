"""The page as the process that an operator runs: behind TLS, stopped while browsers listen."""

import datetime as dt
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.errors import SettingsError
from node.serving import open_node
from node.settings import load_settings
from node.users import add_user
from tests.acceptance.peers import REPOSITORY, free_port

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "page.pem", folder / "page.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


@pytest.fixture
def config(tmp_path: Path, sqlite_with_tables: Path) -> Path:
    """Return the settings of a page behind TLS with one user."""
    certificate, key = make_certificate(tmp_path)
    shutil.copyfile(sqlite_with_tables, tmp_path / "node.db")
    path = tmp_path / "endonode.toml"
    path.write_text(
        f'storage_dir = "{tmp_path}/store"\ndatabase_url = "sqlite:///{tmp_path}/node.db"\n'
        f"min_free_bytes = 0\nhttp_port = {free_port()}\n"
        f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n'
    )
    with open_node(load_settings(path), stores=True) as node:
        add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    return path


@pytest.fixture
def page(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "page", "--config", str(config)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


def test_a_page_behind_tls_tells_who_listens_and_stops_in_order(
    config: Path, page: subprocess.Popen[bytes]
) -> None:
    """A browser that listens for events must not hold up a stop; the cookie never leaves in the clear."""
    settings = load_settings(config)
    trusted = ssl.create_default_context(cafile=str(settings.tls_certificate))
    with httpx.Client(
        base_url=f"https://localhost:{settings.http_port}", verify=trusted, timeout=20
    ) as browser:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert browser.get("/health/live").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        answer = browser.post("/login", data={"name": "anna", "password": PASSWORD})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-endonode=")
        assert "Secure" in cookie
        assert "max-age" in answer.headers["strict-transport-security"]
        with browser.stream("GET", "/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            assert next(events.iter_lines()) == "event: listening"
            started = time.monotonic()
            page.send_signal(signal.SIGTERM)
            assert page.wait(20) in (0, -signal.SIGTERM)
            assert time.monotonic() - started < 10
    log = page.stderr.read().decode() if page.stderr else ""
    assert "anna" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('http_bind = "0.0.0.0"', "loopback, or TLS"),
        ('tls_key = "x"', "both were expected"),
    ],
)
def test_a_page_that_others_could_listen_in_on_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "endonode.toml"
    path.write_text(f"{lines}\n")
    with pytest.raises(SettingsError, match=said):
        load_settings(path)
    path.write_text('http_bind = "0.0.0.0"\nbehind_proxy = true\n')
    assert load_settings(path).behind_proxy
