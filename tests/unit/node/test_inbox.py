"""The way in when the database is in others' hands."""

import hashlib
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom import Dataset
from sqlalchemy import select

import db.engine
from db.tables import InstanceRow, PatientRow
from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.errors import StorageError
from node.house import Node
from node.inbox import Inbox, Received

ROUNDS = 10
"""Of two at once; one in two or so of them met when nothing was done about it."""


def _keep(node: Node, ds: Dataset) -> None:
    staged = node.files.staging / secrets.token_hex(4)
    ds.save_as(staged, enforce_file_format=True)
    Inbox(node).keep(
        Received(
            staged=staged,
            until_durable=lambda: None,
            sha256=hashlib.sha256(staged.read_bytes()).hexdigest(),
            sop_class_uid=ds.SOPClassUID,
            sop_instance_uid=ds.SOPInstanceUID,
            calling_ae_title="PACS",
            association="a1",
        )
    )


def _object(study: str, *, patient_id: str = "P1", sop_instance_uid: str | None = None) -> Dataset:
    pixels = paint_frame(1, ulcers=False, instrument=False, text=None, rows=16, columns=16)
    return wrap(
        pixels, patient_id=patient_id, study_instance_uid=study,
        sop_instance_uid=sop_instance_uid or f"{study}.1",
    )  # fmt: skip


def _keep_together(node: Node, *objects: Dataset) -> None:
    start = threading.Barrier(len(objects))

    def keep(ds: Dataset) -> None:
        start.wait()
        _keep(node, ds)

    with ThreadPoolExecutor(len(objects)) as pool:
        list(pool.map(keep, objects))


@pytest.mark.postgres
def test_two_studies_of_one_new_patient_at_once_are_both_kept(postgres_node: Node) -> None:
    """Each is locked for itself, so both make the patient's row; neither sender may be refused for that."""
    for number in range(ROUNDS):
        _keep_together(
            postgres_node,
            *(_object(f"1.9.{number}.{study}", patient_id=f"P{number}") for study in (1, 2)),
        )
    with postgres_node.database.reading() as session:
        assert len(session.scalars(select(PatientRow.id)).all()) == ROUNDS
        assert len(session.scalars(select(InstanceRow.id)).all()) == 2 * ROUNDS


@pytest.mark.postgres
def test_one_new_uid_in_two_studies_at_once_waits_for_comparison(postgres_node: Node) -> None:
    """The first to be committed is in force; the other is compared with it, as if it had come later."""
    for number in range(ROUNDS):
        _keep_together(
            postgres_node,
            *(_object(f"1.9.{number}.{study}", sop_instance_uid=f"1.8.{number}") for study in (1, 2)),
        )
    with postgres_node.database.reading() as session:
        dispositions = sorted(session.scalars(select(InstanceRow.disposition)))
    assert dispositions == ["accepted"] * ROUNDS + ["pending"] * ROUNDS


@pytest.fixture
def locked(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Return a node whose database another thread writes to for longer than anyone waits."""
    monkeypatch.setattr(db.engine, "BUSY_TIMEOUT_MS", 50)
    writes, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with node.database.writing():
            writes.set()
            may_end.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write)
        writes.wait(20)
        yield node
        may_end.set()


def test_a_database_that_stays_locked_refuses_the_object(locked: Node) -> None:
    """The sender is told to try again (0xA700); its association does not break off."""
    with pytest.raises(StorageError):
        _keep(locked, _object("1.9.1"))


def test_a_database_that_stays_locked_stops_no_beat(locked: Node) -> None:
    """One thread beats for all arrivals until the receiver ends: it must outlive this."""
    Inbox(locked).beat({"token": "1.9.1"})
