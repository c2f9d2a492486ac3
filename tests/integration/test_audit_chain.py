"""The trail of real processes and real associations: linked in time, whole, and not to be changed unseen."""

import csv
import datetime as dt
import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE
from sqlalchemy import func, select

from db.audit import record
from db.engine import Database, open_database, utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit.chain import Head
from node.audit.keeping import LINK_EVERY_S
from node.audit.sequencer import Sequencer
from node.audit.verify import verify
from tests.acceptance.peers import NodeProcess
from tests.integration.receiving import CONTEXT, free_port, image, receiving

KEY = bytes(32)
WRITERS = 6
WRITE_S = 1.5


def store(port: int, *studies: str) -> None:
    """Send one object of each study on one association, as the peer PACS."""
    ae = AE("PACS")
    ae.add_requested_context(*CONTEXT)
    association = ae.associate("127.0.0.1", port, ae_title="ENDONODE")
    assert association.is_established
    for study in studies:
        ds = image(StudyInstanceUID=study)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = CONTEXT[1]
        assert association.send_c_store(ds).Status == 0x0000
    association.release()


@pytest.mark.alone
def test_every_event_is_linked_within_a_second_whoever_writes_and_links(database: Database) -> None:
    """Two link, as two processes do; transactions stay open for a while, so that ids come out of order."""
    until = time.monotonic() + WRITE_S
    stop = threading.Event()
    committed: dict[str, dt.datetime] = {}

    def write(writer: int) -> None:
        number = 0
        while time.monotonic() < until:
            with database.writing() as session:
                record(session, "exam_closed", f"{writer}/{number}")
                if database.dialect == "postgresql":
                    session.flush()
                    time.sleep(0.05 * (number % 4))
            committed[f"{writer}/{number}"] = utc_now()
            number += 1
            time.sleep(0.002)

    def link() -> None:
        own = open_database(database.url)
        sequencer = Sequencer(own, KEY, Head())
        while not stop.wait(LINK_EVERY_S):
            sequencer.link_pending()
        sequencer.link_pending()
        own.close()

    linkers = [threading.Thread(target=link) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in (*linkers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    time.sleep(1)
    stop.set()
    for thread in linkers:
        thread.join()
    verdict = verify(database, KEY, [])
    assert (verdict.findings, verdict.waiting, verdict.head.seq) == ((), 0, len(committed))
    with database.reading() as session:
        linked = session.execute(
            select(AuditEventRow.subject_id, AuditLinkRow.linked_at).join(
                AuditLinkRow, AuditLinkRow.event_id == AuditEventRow.id
            )
        ).all()
    assert max((row.linked_at - committed[row.subject_id]).total_seconds() for row in linked) < 1


def test_an_association_is_one_event_a_study(tmp_path: Path) -> None:
    with receiving(tmp_path) as bench:
        store(bench.port, "1.2.3", "1.9", "1.2.3")

        def told() -> list[AuditEventRow]:
            with bench.node.database.reading() as session:
                return list(session.scalars(select(AuditEventRow).order_by(AuditEventRow.id)))

        wait(lambda: len([event for event in told() if event.event == "study_received"]) == 2)
        events = {event.subject_id: event for event in told() if event.event == "study_received"}
        assert {study: len(event.detail["instances"]) for study, event in events.items()} == {
            "1.2.3": 2, "1.9": 1,
        }  # fmt: skip
        assert {event.actor for event in told() if event.event in ("study_received", "exam_opened")} == {
            "ae:PACS"
        }
        listed = [found for event in events.values() for found in event.detail["instances"]]
        rows = bench.rows()
        assert sorted(listed) == sorted([row.id, row.sop_instance_uid, row.sha256] for row in rows)
        assert [row.reception for row in rows] == [None] * 3


def wait(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_what_is_done_to_a_nodes_database_is_named_by_the_command(tmp_path: Path) -> None:
    """One row deleted, one edited, two swapped, one inserted, the last ten cut."""
    node = NodeProcess(tmp_path, port=free_port(), pacs_port=1)
    node.start("receive")
    store(node.port, *(f"1.2.{study}" for study in range(40)))
    node.stop()
    whole = node.command("audit", "verify")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith("the audit trail is whole: ")
    last = newest(tmp_path)
    with sqlite3.connect(tmp_path / "endonode.db") as connection:
        connection.execute("DELETE FROM audit_events WHERE id = 5")
        connection.execute("UPDATE audit_events SET actor = 'ae:OTHER' WHERE id = 8")
        for old, new in ((11, -1), (14, 11), (-1, 14)):
            connection.execute("UPDATE audit_events SET id = ? WHERE id = ?", (new, old))
        connection.execute(
            "INSERT INTO audit_events (at, event, subject_id, actor, detail) "
            "VALUES ('2026-01-02 03:04:05.000000', 'exam_read', 'e', '', '{}')"
        )
        connection.execute("DELETE FROM audit_events WHERE id > ? AND id <= ?", (last - 10, last))
        connection.execute("DELETE FROM audit_links WHERE seq > ?", (last - 10,))
    connection.close()
    named = node.command("audit", "verify")
    assert named.returncode == 1
    said = named.stdout.splitlines()
    assert said[:3] == [
        "event 5 (link 5): removed",
        "events 11 and 14 (links 11 and 14): swapped",
        "event 8 (link 8): altered",
    ]
    assert said[3].startswith(f"event {last + 1} (2026-01-02 03:04:05 UTC): inserted")
    assert said[4].startswith(f"links {last - 9}-{last}: the tail was cut")
    assert len(said) == 5


def newest(folder: Path) -> int:
    return int(json.loads((folder / "store" / "audit.head").read_text().splitlines()[-1])["seq"])


def test_an_export_is_an_event_of_who_made_it(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, port=free_port(), pacs_port=1)
    assert node.command("migrate").returncode == 0
    database = open_database(node.database_url)
    with database.writing() as session:
        record(session, "exam_closed", "exam-1", actor="anna", verdict="complete")
    done = node.command("audit", "export", "--format", "csv", "--since", "2026-01-01")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["event"], row["actor"].partition(":")[0]) for row in rows] == [
        ("exam_closed", "anna"), ("audit_exported", "os"),
    ]  # fmt: skip
    assert json.loads(rows[0]["detail"]) == {"verdict": "complete"}
    lines = node.command("audit", "export", "--until", "2026-01-01T00:00+01:00")
    assert lines.stdout == ""
    with database.reading() as session:
        exported = select(func.count()).where(AuditEventRow.event == "audit_exported")
        assert session.scalar(exported) == 2
    database.close()
    assert "was expected" in node.command("audit", "export", "--since", "yesterday").stderr
