import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.engine import open_database
from db.schema import migrate
from models.package import REFERENCE
from node.check import Finding, check
from node.demo.archive import Archive
from node.settings import Peer, Settings


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with Archive("PACS", port, tmp_path / "archive"):
        yield port


def settings_with(
    tmp_path: Path, *peers: Peer, min_free_bytes: int = 1, model_dir: Path | None = None
) -> Settings:
    return Settings(
        storage_dir=tmp_path / "store",
        database_url=f"sqlite:///{tmp_path}/node.db",
        peers=peers,
        min_free_bytes=min_free_bytes,
        model_dir=model_dir,
        network_timeout_s=3,
    )


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in check(settings)}


def test_a_fit_node_is_found_fit(tmp_path: Path, archive: int) -> None:
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=archive)
    settings = settings_with(tmp_path, peer)
    database = open_database(settings.database_url)
    migrate(database)
    database.close()
    found = findings(settings)
    assert [subject for subject, finding in found.items() if not finding.is_ok] == []
    assert set(found) == {"settings", "database", "model", "disk", "peer"}
    assert "answered C-ECHO" in found["peer"].text


def test_a_check_makes_nothing(tmp_path: Path) -> None:
    """Run as root before the first start it would leave a database that the node's user cannot write."""
    found = findings(settings_with(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert found["database"].is_ok
    assert "first start" in found["database"].text


def test_a_node_without_peers_is_not_fit(tmp_path: Path) -> None:
    assert not findings(settings_with(tmp_path))["peers"].is_ok


def test_a_peer_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    found = findings(settings_with(tmp_path, Peer(ae_title="PACS", host="127.0.0.1", port=port)))
    assert not found["peer"].is_ok
    assert f"PACS at 127.0.0.1:{port}" in found["peer"].text


def test_a_model_whose_bytes_changed_is_found(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE, tmp_path / "model")
    with (tmp_path / "model" / "model.onnx").open("ab") as file:
        file.write(b"x")
    found = findings(settings_with(tmp_path, model_dir=tmp_path / "model"))
    assert not found["model"].is_ok
    assert "SHA-256" in found["model"].text


def test_a_full_disk_is_found(tmp_path: Path) -> None:
    assert not findings(settings_with(tmp_path, min_free_bytes=10**18))["disk"].is_ok


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.db").write_bytes(b"this is no database at all, but it is long enough to be asked" * 20)
    found = findings(settings_with(tmp_path))
    assert not found["database"].is_ok
