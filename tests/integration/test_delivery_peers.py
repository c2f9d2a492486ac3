"""Sending to, and asking, the archives that hospitals run: DCMTK's storescp and dcmqrscp, and Orthanc."""

import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.delivery import deliver
from node.dicom.scu import Outgoing, RemoteInstance, echo, find_instances, send
from node.results.page import draw_pages
from node.results.secondary_capture import build_secondary_capture
from node.settings import Peer, Settings
from tests.acceptance.peers import Orthanc, free_port, listens, missing_tools, wait_for
from tests.integration.delivering import MULTI, SINGLE, Bench, bench, result
from tests.unit.node.results.conftest import (
    LOSSLESS,
    encode,
    make_exam,
    make_report,
    make_source,
    make_template,
)

__all__ = ["bench"]

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        bool(missing_tools("storescp", "dcmqrscp", "Orthanc")),
        reason="real peers are needed: apt-get install orthanc dcmtk",
    ),
]
SETTINGS = Settings(network_timeout_s=30, query_timeout_s=10)

SINGLE_ONLY = """
[[TransferSyntaxes]]
[Uncompressed]
TransferSyntax1 = LocalEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Single]
PresentationContext1 = SecondaryCaptureImageStorage\\Uncompressed
[[Profiles]]
[SingleOnly]
PresentationContexts = Single
"""

QUERYABLE = """
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
PACS {folder} RW (200, 1024mb) ANY
AETable END
"""


@contextmanager
def running(port: int, *command: str) -> Iterator[Peer]:
    """Run a DCMTK server until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(command[0], lambda: listens(port), 20)
            yield Peer(ae_title="PACS", host="127.0.0.1", port=port)
        finally:
            process.terminate()
            process.wait(20)


def held_by(folder: Path) -> dict[str, bytes]:
    """Return the files storescp wrote, by SOP Instance UID."""
    return {str(dcmread(path).SOPInstanceUID): path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def database_kind() -> str:
    """Return one kind of database: what is tried here are the archives."""
    return "sqlite"


def dataset_of(file: bytes) -> bytes:
    """Return what follows the file meta information, whose length its first element states (PS3.10 7.1)."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def test_storescp_holds_the_bytes_that_were_stored(bench: Bench, tmp_path: Path) -> None:
    """Bit by bit, through a network stack that is not ours."""
    folder, port, encoded = tmp_path / "out", free_port(), result()
    folder.mkdir()
    (claim,) = bench.exam(encoded, "PACS")
    with running(port, "storescp", "--fork", "+B", "-od", str(folder), str(port)) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert bench.exam_row().state == "delivered"
    assert dataset_of(held_by(folder)[encoded.sop_instance_uid]) == dataset_of(encoded.data)


def test_storescp_that_rejects_multi_frame_gets_single_frames(bench: Bench, tmp_path: Path) -> None:
    """Many archives in use know the single-frame Secondary Capture alone."""
    folder, port = tmp_path / "out", free_port()
    folder.mkdir()
    profile = tmp_path / "profile.cfg"
    profile.write_text(SINGLE_ONLY)
    (claim,) = bench.exam(result(), "PACS")
    with running(
        port, "storescp", "--fork", "+B", "-xf", str(profile), "SingleOnly", "-od", str(folder), str(port)
    ) as peer:
        bench.peers(peer)
        deliver(bench.node, claim)
    assert (bench.exam_row().state, bench.forms()) == ("delivered", {"single_frame"})
    assert {dcmread(path).SOPClassUID for path in folder.iterdir()} == {SINGLE}
    assert len(list(folder.iterdir())) == 2


def test_a_result_waits_for_a_peer_that_is_down(bench: Bench, tmp_path: Path) -> None:
    """PACS down, PACS up again: the result arrives, in the form it had."""
    folder, port = tmp_path / "out", free_port()
    folder.mkdir()
    (claim,) = bench.exam(result(), "PACS")
    bench.peers(Peer(ae_title="PACS", host="127.0.0.1", port=port))
    deliver(bench.node, claim)
    assert (bench.delivery(claim).state, bench.delivery(claim).attempts) == ("pending", 1)
    with running(port, "storescp", "--fork", "+B", "-od", str(folder), str(port)):
        deliver(bench.node, claim)
    assert (bench.exam_row().state, bench.forms()) == ("delivered", {"multi_frame"})
    assert {dcmread(path).SOPClassUID for path in folder.iterdir()} == {MULTI}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Run one Orthanc for this module."""
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"), node_port=free_port())
    archive.start()
    yield archive
    archive.stop()


def test_pixels_from_orthanc_are_those_that_were_sent(orthanc: Orthanc, tmp_path: Path) -> None:
    """What a person sees in the archive is what was drawn, and the patient is who it was."""
    report = make_report()
    name = "Wang^XiaoDong=王^小东"
    template = make_template(SpecificCharacterSet="GB18030", PatientName=name)
    encoded = build_secondary_capture(report, make_exam(template, exam_key="orthanc"), sources=[LOSSLESS])
    path = tmp_path / "sc.dcm"
    path.write_bytes(encoded.data)
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=orthanc.dicom_port)
    echo(peer, SETTINGS)
    send(
        peer,
        [Outgoing(encoded.sop_instance_uid, MULTI, path)],
        SETTINGS,
        on_answer=lambda _uid, _status: None,
    )
    held = orthanc.instances()[encoded.sop_instance_uid]
    sent, back = dcmread(path), dcmread(io.BytesIO(orthanc.file(held["id"])))
    assert np.array_equal(back.pixel_array, np.stack(draw_pages(report)))
    assert back == sent
    assert str(back.PatientName) == name
    frames = [orthanc.get_bytes(f"/instances/{held['id']}/frames/{number}/raw") for number in range(3)]
    assert b"".join(frames) == sent.PixelData


def store(peer: Peer, folder: Path, uids: dict[str, str]) -> None:
    """Store one small image for each SOP Instance UID in the series named."""
    objects = []
    for uid, series in uids.items():
        source = make_source(
            SOPClassUID=SINGLE, SOPInstanceUID=uid, StudyInstanceUID="1.2.826.1", SeriesInstanceUID=series
        )
        path = folder / f"{uid}.dcm"
        path.write_bytes(encode(source))
        objects.append(Outgoing(uid, SINGLE, path))
    send(peer, objects, SETTINGS, on_answer=lambda _uid, _status: None)


UIDS = {"1.2.826.1.1.1": "1.2.826.1.1", "1.2.826.1.1.2": "1.2.826.1.1", "1.2.826.1.2.1": "1.2.826.1.2"}


def test_orthanc_tells_every_instance_it_holds(orthanc: Orthanc, tmp_path: Path) -> None:
    """Completeness compares sets; Modality tells which of them would be read."""
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=orthanc.dicom_port)
    assert find_instances(peer, "1.2.826.1", SETTINGS).count == 0
    store(peer, tmp_path, UIDS)
    found = find_instances(peer, "1.2.826.1", SETTINGS)
    assert found.level == "IMAGE"
    assert found.instances == dict.fromkeys(UIDS, RemoteInstance(SINGLE, "ES"))


def test_dcmqrscp_tells_every_instance_it_holds(tmp_path: Path) -> None:
    """DCMTK's wants every unique key of the levels above (PS3.4 C.4.1.2.1), and does not tell classes."""
    folder, port = tmp_path / "db", free_port()
    folder.mkdir()
    configuration = tmp_path / "dcmqrscp.cfg"
    configuration.write_text(QUERYABLE.format(port=port, folder=folder))
    with running(port, "dcmqrscp", "+xy", "-c", str(configuration)) as peer:
        assert find_instances(peer, "1.2.826.1", SETTINGS).count == 0
        store(peer, tmp_path, UIDS)
        found = find_instances(peer, "1.2.826.1", SETTINGS)
    assert found.level == "IMAGE"
    assert found.instances == dict.fromkeys(UIDS, RemoteInstance("", "ES"))
