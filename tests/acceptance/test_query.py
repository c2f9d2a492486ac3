"""The department's own tools find what the node holds, and fetch what it emitted."""

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import dcmsend, free_port, listens, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

STUDY = "1.2.826.0.7.1"


def dcmtk(tool: str, port: int, *arguments: str, cwd: Path) -> str:
    """Run one of DCMTK's query tools as PACS; return what it says."""
    done = subprocess.run(
        [tool, "-v", "-aet", "PACS", "-aec", "ENDONODE", *arguments, "127.0.0.1", str(port)],
        capture_output=True, text=True, check=False, cwd=cwd, timeout=60,
        env={**os.environ, "TCP_NODELAY": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


def test_tools_of_others_find_and_fetch(
    start_pair: Callable[..., Pair], studies: Studies, tmp_path: Path
) -> None:
    """findscu, getscu, movescu and Orthanc each speak the services their own way."""
    node, orthanc = start_pair(quiet_time_s=1)
    node.start()
    assert dcmsend(node.port, studies.write(STUDY, studies.of("uc"), patient_id="A")).returncode == 0
    uids = set(node.wait_delivered([STUDY], 60)[STUDY]["result_uids"])

    keys = ["-k", f"StudyInstanceUID={STUDY}", "-k", "QueryRetrieveLevel=STUDY"]
    asked = ["-k", "PatientID", "-k", "NumberOfStudyRelatedInstances", "-k", "7151,0010=ENDONODE READING 1.0"]
    said = dcmtk("findscu", node.port, "-S", *keys, *asked, "-k", "7151,1001", cwd=tmp_path)
    assert f"[{8 + len(uids)}" in said
    assert "DELIVERED" in said
    patients = dcmtk(
        "findscu", node.port, "-P", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=A*", cwd=tmp_path
    )
    assert "Pending" in patients

    got = tmp_path / "got"
    got.mkdir()
    dcmtk("getscu", node.port, "-S", "-od", str(got), *keys, cwd=tmp_path)
    assert {str(dcmread(path).SOPInstanceUID) for path in got.iterdir()} == uids

    for instance in orthanc.instances(STUDY).values():
        orthanc.delete(f"/instances/{instance['id']}")
    assert not orthanc.instances(STUDY)
    dcmtk("movescu", node.port, "-S", "-aem", "PACS", *keys, cwd=tmp_path)
    assert set(wait_for("the move", lambda: orthanc.instances(STUDY), 20)) == uids

    for instance in orthanc.instances(STUDY).values():
        orthanc.delete(f"/instances/{instance['id']}")
    query = orthanc.post("/modalities/node/query", {"Level": "Study", "Query": {"StudyInstanceUID": STUDY}})
    answers = orthanc.get(f"/queries/{query['ID']}/answers")
    assert len(answers) == 1
    orthanc.post(f"/queries/{query['ID']}/retrieve", b"PACS")
    assert set(wait_for("the retrieval", lambda: orthanc.instances(STUDY), 20)) == uids


@pytest.fixture
def ris(tmp_path: Path) -> Iterator[int]:
    """Start DCMTK's worklist server with two orders; yields its port."""
    folder, port = tmp_path / "RIS", free_port()
    folder.mkdir()
    (folder / "lockfile").touch()
    for number, study in enumerate(("1.2.826.0.7.9", STUDY), start=1):
        ds, step = Dataset(), Dataset()
        ds.PatientID, ds.AccessionNumber, ds.StudyInstanceUID = "A", f"A{number}", study
        ds.PatientName, ds.RequestedProcedureID = "X", f"R{number}"
        step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepID = "ES", "ENDO", "S1"
        step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260101", "1000"
        ds.ScheduledProcedureStepSequence = [step]
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            UID("1.2.3"),
            UID("1.2.4"),
        )
        ds.save_as(folder / f"{number}.wl", enforce_file_format=True)
    server = subprocess.Popen(["wlmscpfs", "-dfr", "-dfp", str(tmp_path), str(port)])
    wait_for("wlmscpfs", lambda: listens(port), 10)
    yield port
    server.terminate()
    server.wait(10)


def test_the_order_of_a_foreign_worklist_stands_in_the_report(
    start_pair: Callable[..., Pair], studies: Studies, ris: int, new_postgres_url: Callable[[], str]
) -> None:
    """The RIS finds the report by its own numbers; the PACS files it by those that the images have."""
    order = f'[[peers]]\nae_title = "RIS"\nhost = "127.0.0.1"\nport = {ris}\nworklist = true\n'
    node, orthanc = start_pair(quiet_time_s=1, database_url=new_postgres_url(), extra=order)
    node.start()
    assert dcmsend(node.port, studies.write(STUDY, studies.of("uc"), patient_id="A")).returncode == 0
    node.wait_delivered([STUDY], 60)
    held = orthanc.instances(STUDY).values()
    (report,) = (orthanc.file(each["id"]) for each in held if each["Modality"] == "SR")
    ds = dcmread(io.BytesIO(report))
    (request,) = ds.ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("R2", "A2")
    assert request.StudyInstanceUID == STUDY
    assert ds.AccessionNumber == ""
