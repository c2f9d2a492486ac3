"""A process of the node keeps the trail: key, start and stop, settings, heads."""

import datetime as dt
import io
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from structlog.testing import capture_logs

from db.audit import record
from db.engine import utc_now
from db.tables import AuditEventRow, AuditLinkRow
from node.audit import export as export_module
from node.audit import keeping
from node.audit.chain import Head
from node.audit.head import append_head, last_head, read_heads
from node.audit.keeping import keeping_trail
from node.audit.key import key_path, make_key, read_key
from node.audit.verify import verify
from node.errors import NodeError
from node.house import Node
from node.settings import Peer, Settings


def details(node: Node, name: str) -> list[dict[str, Any]]:
    with node.database.reading() as session:
        events = select(AuditEventRow.detail).where(AuditEventRow.event == name)
        return list(session.scalars(events.order_by(AuditEventRow.id)))


def run(node: Node, **settings: object) -> None:
    changed = Node(
        node.settings.model_copy(update=settings), node.database, node.files, node.jobs, node.installation_id
    )
    with keeping_trail(changed, "serve"):
        pass


def test_an_event_is_linked_within_a_second(node: Node) -> None:
    with keeping_trail(node, "serve"):
        time.sleep(0.5)
        with node.database.writing() as session:
            record(session, "exam_closed", "exam-1")
        time.sleep(1)
        with node.database.reading() as session:
            late = (
                session.scalars(
                    select(func.count()).select_from(AuditEventRow)
                    .where(~select(1).where(AuditLinkRow.event_id == AuditEventRow.id).exists())
                ).one()
            )  # fmt: skip
    assert late == 0


def test_start_and_stop_are_events_and_what_is_left_behind_is_whole(node: Node) -> None:
    run(node)
    assert [detail["part"] for detail in details(node, "node_started")] == ["serve"]
    assert [detail["part"] for detail in details(node, "node_stopped")] == ["serve"]
    heads = list(read_heads(node.settings.storage_dir / "audit.head"))
    verdict = verify(node.database, read_key(key_path(node.settings)), heads)
    assert (verdict.findings, verdict.waiting, verdict.head.seq) == ((), 0, 3)
    assert [line.head for line in heads if line] == [verdict.head]


def test_a_changed_setting_is_an_event_that_names_it_and_shows_no_value(node: Node) -> None:
    run(node)
    run(node)
    assert len(details(node, "settings_changed")) == 1
    secret = "postgresql+psycopg://endonode:hunter2@db/endonode"  # noqa: S105 - the example
    peer = node.settings.peers[0]
    added = Peer(ae_title="NEW", host="127.0.0.1", port=104)
    run(node, database_url=secret, peers=(peer.model_copy(update={"port": 105}), added))
    last = details(node, "settings_changed")[-1]
    assert last["changed"] == ["database_url", "peers.NEW", "peers.PACS"]
    assert "hunter2" not in json.dumps(last)
    run(node)
    assert details(node, "settings_changed")[-1]["changed"] == ["database_url", "peers.NEW", "peers.PACS"]


def test_the_key_is_the_nodes_alone_and_outside_of_the_database(node: Node) -> None:
    run(node)
    path = key_path(node.settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    make_key(path)  # another process, at that moment
    assert path.read_text().strip() == key
    database = Path(node.settings.database_url.removeprefix("sqlite:///"))
    assert key.encode() not in database.read_bytes()
    assert bytes.fromhex(key) not in database.read_bytes()


def test_a_key_that_is_gone_is_asked_for_and_not_made_anew(node: Node) -> None:
    """Else all that was linked before would look altered, and nobody would know why."""
    run(node)
    key_path(node.settings).unlink()
    with pytest.raises(NodeError, match="restore it"):
        run(node)
    key_path(node.settings).write_text("no key")
    with pytest.raises(NodeError, match="hexadecimal"):
        run(node)


def test_a_head_that_cannot_be_kept_is_named_at_the_start(node: Node, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NodeError, match="audit_head"):
        run(node, audit_head=tmp_path / "folder")


def test_heads_are_appended_only_where_the_chain_has_grown(tmp_path: Path) -> None:
    path, now = tmp_path / "head", utc_now()
    for seq in (1, 1, 3, 2):
        append_head(path, Head(seq, f"{seq:064x}"), now + dt.timedelta(seconds=seq))
    assert [line.head.seq for line in read_heads(path) if line] == [1, 3]
    newest = last_head(path)
    assert newest is not None
    assert newest.head == Head(3, f"{3:064x}")


@pytest.mark.usefixtures("few_seconds")
def test_whatever_goes_wrong_the_trail_is_kept_again_and_the_log_says_so(node: Node) -> None:
    """A thread that ends would leave the node running with a trail that nobody links."""
    with capture_logs() as said, keeping_trail(node, "serve"):
        until(lambda: waiting(node) == 0)
        with node.database.writing() as session:
            session.execute(text("UPDATE audit_links SET seq = 'zz' WHERE seq = 1"))
        until(lambda: [one for one in said if one["event"] == "audit_broken"])
        with node.database.writing() as session:
            session.execute(text("UPDATE audit_links SET seq = 1 WHERE seq = 'zz'"))
            record(session, "exam_closed", "exam-1")
        until(lambda: waiting(node) == 0)
    assert {one["log_level"] for one in said if one["event"] == "audit_broken"} == {"critical"}


@pytest.fixture
def few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what failed be tried again at once."""
    monkeypatch.setattr(keeping, "AFTER_FAILURE_S", 0.01)


def waiting(node: Node) -> int:
    verdict = verify(node.database, read_key(key_path(node.settings)), [])
    return verdict.waiting


def until(is_so: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_a_node_starts_whatever_was_made_of_its_settings_event(node: Node) -> None:
    run(node)
    for detail in ("oops", "[]", '{"digests": 3}'):
        with node.database.writing() as session:
            session.execute(
                text("UPDATE audit_events SET detail = :detail WHERE event = 'settings_changed'"),
                {"detail": detail},
            )
        run(node)


def test_an_export_has_the_rows_that_were_broken_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what is looked for; and pages of it lose and double nothing."""
    monkeypatch.setattr(export_module, "PAGE", 3)
    with node.database.writing() as session:
        for number in range(7):
            record(session, "exam_closed", f"exam-{number}")
    with node.database.writing() as session:
        session.execute(text("UPDATE audit_events SET detail = 'oops' WHERE id = 2"))
        session.execute(text("UPDATE audit_events SET at = 'yesterday' WHERE id = 3"))
    out = io.StringIO()
    export_module.export(node.database, out, since=None, until=None, form="jsonl")
    told = {line["id"]: line for line in map(json.loads, out.getvalue().splitlines())}
    assert (len(out.getvalue().splitlines()), sorted(told)) == (8, [*range(1, 9)])
    assert (told[2]["detail"], told[3]["at"]) == ("oops", "yesterday")


def test_settings_have_their_files_where_the_storage_is(settings: Settings) -> None:
    assert key_path(settings) == settings.storage_dir / "audit.key"
    elsewhere = settings.model_copy(update={"audit_key": Path("/safe/key")})
    assert key_path(elsewhere) == Path("/safe/key")
