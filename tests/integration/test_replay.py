"""A stored prediction computed once more, by the real decoder, cleaner and network; frames painted."""

import io
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from db.engine import Database, utc_now
from db.schema import installation_id
from db.tables import (
    AuditEventRow,
    EvidenceRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    PatientRow,
    PredictionRow,
    ResultObjectRow,
    TallyRow,
)
from models.package import REFERENCE, load_package
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.errors import NodeError, NotFoundError
from node.files import FileStore
from node.frames import FrameReader
from node.house import Node
from node.quarantine import move_study
from node.reading import read_exam
from node.replay import replay
from node.settings import Settings
from pipeline.clean.recipe import DEFAULT
from tests.foreign_colours import tell_foreign
from tests.unit.node.conftest import ClaimOf, RowJobs, Sender

UNTOUCHED = (ExamRow, FrameRow, PredictionRow, EvidenceRow, ResultObjectRow, TallyRow)


@pytest.fixture(scope="module")
def reader() -> Iterator[FrameReader]:
    """Return a reader with the package that ships."""
    reader = FrameReader(load_package(None), DEFAULT, Settings(worker_threads=2))
    yield reader
    reader.close()


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    """Return a node whose jobs are rows only."""
    files = FileStore(tmp_path / "store", min_free_bytes=0)
    files.prepare(installation_id(database))
    settings = Settings(storage_dir=tmp_path / "store", min_free_bytes=0, worker_threads=2)
    return Node(settings, database, files, RowJobs(), installation_id(database))


@pytest.fixture
def exam_id(node: Node, reader: FrameReader) -> str:
    """Return an exam that was read: a frame, and a black one."""
    send = Sender(node)
    for number in (1, 2):
        frame = paint_frame(number, ulcers=True, instrument=False, text=None, rows=288, columns=360)
        frame[:] = frame if number == 1 else 0
        ds = wrap(frame, patient_id="P1", study_instance_uid="1.2.3", instance_number=number)
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        send(str(ds.SOPInstanceUID), content=buffer.getvalue(), transfer_syntax_uid=syntax)
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        exam.state, exam.device_model = "closed", "MAKER 1"
        node.jobs.enqueue(session, "read", exam.id)
    read_exam(node, reader, ClaimOf(node)("read"))
    return exam.id


def check_what_it_is_asked_by(node: Node, exam_id: str) -> None:
    """Audit queries look at the prediction alone: what it lacks there, nobody finds it by."""
    with node.database.reading() as session:
        row, exam = session.scalars(select(PredictionRow)).one(), session.get_one(ExamRow, exam_id)
        assert row.patient_row_id == session.scalars(select(PatientRow.id)).one()
        assert (row.peer_ae_title, row.device_model) == ("PACS", "MAKER 1")
        assert row.confidence == (row.probability and max(row.probability, 1 - row.probability))
        assert exam.priority == {"ibd": 10, "unpredicted": 30, "healthy": 50}[row.reading]
        tally = session.scalars(select(TallyRow)).one()
        assert (tally.reading, tally.device_model, tally.count) == (row.reading, "MAKER 1", 1)


def everything(node: Node) -> list[list[Any]]:
    """Return all rows that a replay must leave as they are."""
    with node.database.reading() as session:
        return [
            [*session.execute(select(table.__table__).order_by(*table.__table__.primary_key))]
            for table in UNTOUCHED
        ]


def test_a_replay_is_the_same_to_the_last_bit_or_says_what_is_not(node: Node, exam_id: str) -> None:
    """Another order of sums, another decoder, another recipe would show here; and nothing is written."""
    check_what_it_is_asked_by(node, exam_id)
    before = everything(node)
    found = replay(node, exam_id, actor="os:someone")
    assert (found.outcome, found.differing, found.frames, found.frames_differing) == ("same", (), 2, 0)
    assert everything(node) == before
    with node.database.writing() as session:
        event = session.scalars(select(AuditEventRow).order_by(AuditEventRow.id.desc())).first()
        assert event is not None
        assert (event.event, event.subject_id, event.actor) == ("exam_replayed", exam_id, "os:someone")
        assert event.detail["outcome"] == "same"
        frame = session.scalars(select(FrameRow).where(FrameRow.kept)).one()
        assert frame.probability is not None
        frame.probability = math.nextafter(frame.probability, 2)
        prediction = session.scalars(select(PredictionRow)).one()
        prediction.reading, prediction.probability = "other", 0.123
        session.scalars(select(EvidenceRow)).one().gate = "plate"
    found = replay(node, exam_id)
    assert found.outcome == "different"
    assert found.differing == ("reading", "probability", "frames", "evidence")
    assert found.frames_differing == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_another_package_is_refused_unless_it_is_named(node: Node, exam_id: str, tmp_path: Path) -> None:
    """With another network another answer is no defect, and nobody may take it for one.

    What was moved to another patient meanwhile is still replayed: its frames say what it was read from. Of
    purged instances nothing can be said.
    """
    move_study(node, "1.2.3", "P2")
    shutil.copytree(REFERENCE, tmp_path / "package")
    other = tell_foreign(tmp_path / "package", np.ones(4096, np.float16), threshold=0.5)
    changed = replace(node, settings=node.settings.model_copy(update={"model_dir": other}))
    with pytest.raises(NodeError, match="in force is"):
        replay(changed, exam_id)
    assert replay(changed, exam_id, package_dir=REFERENCE).outcome == "same"
    with node.database.writing() as session:
        session.execute(update(InstanceRow).values(purged_at=utc_now()))
    assert replay(changed, exam_id).outcome == "instances purged"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_only_an_exam_that_was_read_is_replayed(node: Node) -> None:
    with pytest.raises(NotFoundError, match="not known"):
        replay(node, "nothing")
    Sender(node)("1.2.1")
    with node.database.reading() as session:
        receiving = session.scalars(select(ExamRow.id)).one()
    with pytest.raises(NodeError, match="this one is receiving"):
        replay(node, receiving)
