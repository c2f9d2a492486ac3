"""Readings are ordered as procedure steps: given to a node and watched, or taken by it from a worklist."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from db.engine import open_database
from db.tables import InstanceRow, WorkitemRow
from node.demo.wrapping import wrap
from tests.acceptance.conftest import Studies
from tests.acceptance.peers import NodeProcess, Orthanc, dcmsend, free_port, wait_for
from tests.integration.worklists import GLOBAL, Requester, Subscriber, Worklist, step, subscriber

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

PEER = """
[[peers]]
ae_title = "{}"
host = "127.0.0.1"
port = {}
{}
"""


@dataclass
class House:
    """A node, its archive, who orders from it and is told, and a worklist that it takes steps from."""

    node: NodeProcess
    archive: Orthanc
    told: Subscriber
    worklist: Worklist
    worklist_port: int
    studies: Studies

    def order(self, study: str, **attributes: Any) -> str:
        """Give the node a workitem; return its UID."""
        peer = Requester(self.node.port, "ORDERER")
        answer, uid = peer.create(step(study, **attributes))
        assert answer.Status == 0x0000
        peer.assoc.release()
        return uid

    def ask(self, uid: str) -> Dataset:
        """Return a workitem as the node tells it."""
        peer = Requester(self.node.port, "ORDERER")
        status, ds = peer.get(uid)
        assert status == 0x0000
        peer.assoc.release()
        return ds

    def send(self, study: str) -> None:
        """Send a study of real frames."""
        paths = self.studies.write(study, self.studies.of("uc"), patient_id="A", limit=4)
        assert dcmsend(self.node.port, paths).returncode == 0

    def wait(self, uid: str, state: str) -> list[str]:
        """Wait until the subscriber is told of a state; return all that it was told."""
        wait_for(f"the report of {state}", lambda: state in self.told.states(uid), 60)
        return self.told.states(uid)

    def rows(self, table: type[Any], *conditions: Any) -> list[Any]:
        """Return rows of the node's database."""
        database = open_database(self.node.database_url)
        with database.reading() as session:
            rows = list(session.scalars(select(table).where(*conditions)))
        database.close()
        return rows


@pytest.fixture(scope="module")
def house(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return a running house, whose worklist is not there yet."""
    folder, port, worklist_port = tmp_path_factory.mktemp("house"), free_port(), free_port()
    with ExitStack() as stack:
        told = stack.enter_context(subscriber(ae_title="ORDERER"))
        archive = Orthanc(folder / "orthanc", node_port=port)
        archive.start()
        stack.callback(archive.stop)
        extra = PEER.format("ORDERER", told.port, "") + PEER.format(
            "RIS", worklist_port, "workitem_period_s = 1"
        )
        node = NodeProcess(
            folder / "node", port=port, pacs_port=archive.dicom_port, quiet_time_s=1, extra=extra
        )
        node.start()
        stack.callback(node.kill)
        peer = Requester(port, "ORDERER")
        assert peer.watch(GLOBAL) == 0x0000
        peer.assoc.release()
        yield House(node, archive, told, Worklist(), worklist_port, Studies(data_dir, folder / "studies"))


def outputs_of(ds: Dataset) -> set[str]:
    """Return the UIDs of what a completed workitem has brought forth."""
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    return {
        str(each.ReferencedSOPInstanceUID)
        for output in performed.OutputInformationSequence
        for each in output.ReferencedSOPSequence
    }


def test_an_ordered_reading_ends_with_objects_that_can_be_fetched(house: House, tmp_path: Path) -> None:
    """Order, study, reading, archive, report: each by its own service, with nobody looking at a database."""
    uid = house.order("1.2.826.0.30.1")
    house.send("1.2.826.0.30.1")
    assert house.wait(uid, "COMPLETED") == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    ds = house.ask(uid)
    outputs = outputs_of(ds)
    assert outputs == set(house.archive.instances("1.2.826.0.30.1"))
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    sources = performed.OutputInformationSequence[0].DICOMRetrievalSequence
    assert [source.RetrieveAETitle for source in sources] == ["ENDONODE", "PACS"]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.826.0.30.1"]
    subprocess.run(
        ["getscu", "-aet", "ORDERER", "-aec", "ENDONODE", "-S", "-od", str(tmp_path), *keys, "127.0.0.1",
         str(house.node.port)],
        check=True, timeout=60, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True,
    )  # fmt: skip
    assert {str(dcmread(path).SOPInstanceUID) for path in tmp_path.iterdir()} == outputs
    again = house.order("1.2.826.0.30.1")  # the study was there first
    assert house.wait(again, "COMPLETED") == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert outputs_of(house.ask(again)) == outputs


def test_an_abstention_is_an_answer(house: House, tmp_path: Path) -> None:
    """No frame of it is fit to be read: that is what the objects say, and the step is done."""
    study = "1.2.826.0.30.2"
    uid = house.order(study)
    pixels = np.zeros((64, 64, 3), np.uint8)
    black = wrap(pixels, patient_id="A", study_instance_uid=study, instance_number=1)
    black.save_as(tmp_path / "black.dcm", enforce_file_format=True)
    assert dcmsend(house.node.port, [tmp_path / "black.dcm"]).returncode == 0
    assert house.wait(uid, "COMPLETED") == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert outputs_of(house.ask(uid)) == set(house.archive.instances(study))
    (exam,) = [exam for exam in house.node.exams() if exam["study_uid"] == study]
    assert exam["reading"] == "unpredicted"


def test_a_failed_reading_cancels_its_step_with_the_reason(house: House) -> None:
    """The stored bytes rot before they are read, which no retry mends."""
    study = "1.2.826.0.30.3"
    uid = house.order(study)
    house.send(study)
    for row in house.rows(InstanceRow, InstanceRow.study_instance_uid == study):
        (path,) = (house.node.folder / "store").rglob(row.sha256)
        path.chmod(0o600)
        path.write_bytes(b"rotten")
    assert house.wait(uid, "CANCELED") == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    (_, _, last) = [each for each in house.told.told if each[1] == uid][-1]
    assert last.ReasonForCancellation == "The exam failed at the step: read"


def test_what_is_canceled_before_its_study_came_stays_so(house: House) -> None:
    """The study is read like any other; nobody waits for it."""
    study = "1.2.826.0.30.4"
    uid = house.order(study)
    peer = Requester(house.node.port, "ORDERER")
    assert peer.act(uid, 2, ReasonForCancellation="ordered twice") == 0x0000
    assert peer.act(uid, 2) == 0xB304
    peer.assoc.release()
    assert house.wait(uid, "CANCELED")[-1] == "CANCELED"
    house.send(study)
    wait_for("the results", lambda: house.archive.instances(study) or None, 60)
    assert house.ask(uid).ProcedureStepState == "CANCELED"


def test_a_foreign_worklist_is_worked_off_once_it_is_there(house: House) -> None:
    """It was down since the node started; one step is this node's, another is won by a third."""
    study = "1.2.826.0.30.5"
    mine = house.worklist.add(step(study, station="ENDONODE"))
    lost = house.worklist.add(step("1.2.826.0.30.6", station="ENDONODE"))
    with house.worklist.serve(house.worklist_port):
        wait_for("the claims", lambda: len(house.rows(WorkitemRow, WorkitemRow.is_foreign)) == 2, 30)
        house.worklist.items[lost].ProcedureStepState, house.worklist.locks[lost] = "IN PROGRESS", "1.2.3"
        house.send(study)
        house.send("1.2.826.0.30.6")
        wait_for("the end", lambda: house.worklist.state(mine) == "COMPLETED", 60)
        assert outputs_of(house.worklist.items[mine]) == set(house.archive.instances(study))
        assert house.worklist.watchers == {mine: "ENDONODE"}
        wait_for("the results", lambda: house.archive.instances("1.2.826.0.30.6") or None, 60)
        assert house.worklist.state(lost) == "IN PROGRESS"
        wait_for("the loss", lambda: bool(house.rows(WorkitemRow, WorkitemRow.state == "LOST")), 20)
