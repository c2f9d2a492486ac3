import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit

from node.cli.sending import send_files
from node.demo.archive import Archive
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.errors import NodeError
from node.settings import Peer, Settings


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[Archive, Settings]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=port)
    with Archive("PACS", port, tmp_path / "archive") as started:
        yield started, Settings(ae_title="NODE", port=port, peers=(peer,), network_timeout_s=5)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "deeper").mkdir(parents=True)
    for number, quality in ((1, 80), (2, None)):
        pixels = paint_frame(number, ulcers=False, instrument=False, text=None, rows=64, columns=80)
        ds = wrap(
            pixels, patient_id="P", study_instance_uid="2.25.9", instance_number=number, jpeg_quality=quality
        )
        ds.save_as(folder / ("deeper/" * (number - 1)) / f"{number}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def test_a_folder_is_sent_each_object_in_its_own_syntax(
    archive: tuple[Archive, Settings], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Re-encoding on the way would make a test send differ from what the PACS sends."""
    started, settings = archive
    send_files(settings, [study], "PACS")
    received = [dcmread(path) for path in started.results]
    assert {ds.InstanceNumber for ds in received} == {1, 2}
    syntaxes = {int(ds.InstanceNumber): ds.file_meta.TransferSyntaxUID for ds in received}
    assert syntaxes[1] == JPEGBaseline8Bit
    assert syntaxes[2] != JPEGBaseline8Bit
    said = capsys.readouterr()
    assert "2 of 2 objects were stored" in said.out
    assert "notes.txt: left out" in said.err


def test_without_a_peer_this_node_is_called_as_one_that_it_lets_in(
    archive: tuple[Archive, Settings], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node refuses strangers, itself included."""
    send_files(archive[1], [study / "1.dcm"], "")
    assert "to NODE at 127.0.0.1" in (said := capsys.readouterr().out)
    assert "as PACS" in said


@pytest.mark.parametrize(
    ("name", "to", "named"),
    [
        ("1.dcm", "OTHER", "name: PACS"),
        ("absent.dcm", "PACS", "no such file"),
        ("notes.txt", "PACS", "not a DICOM file"),
        ("empty", "PACS", "holds no DICOM file"),
    ],
)
def test_what_cannot_be_sent_is_named(
    archive: tuple[Archive, Settings], study: Path, name: str, to: str, named: str
) -> None:
    (study / "empty").mkdir()
    with pytest.raises(NodeError, match=named):
        send_files(archive[1], [study / name], to)


def test_a_node_that_lets_nobody_in_says_so(study: Path) -> None:
    with pytest.raises(NodeError, match="lets nobody send"):
        send_files(Settings(), [study], "")
