"""Results of several kinds to peers that take some of them, in some form."""

from typing import Any

import pytest
from pynetdicom import evt
from sqlalchemy import select

from db.tables import DeliveredObjectRow, PeerMemoryRow, ResultObjectRow
from node.check import check
from node.delivery import deliver
from node.listing import list_exams
from node.results.iod import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, KEY_OBJECT_SELECTION
from node.retry import retry_exam
from node.settings import Peer
from tests.integration.committing import predicted, work
from tests.integration.delivering import MULTI, SINGLE, Archive, Bench, bench, whole_result
from tests.unit.node.dicom.test_scu import scp

__all__ = ["bench"]

ALL = (MULTI, SINGLE, COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, KEY_OBJECT_SELECTION)


@pytest.fixture
def database_kind() -> str:
    """Return one kind of database: what is tried here are the peers."""
    return "sqlite"


def stored(bench: Bench) -> list[tuple[str, str]]:
    """Return kind and form of what was stored, in the order of its storing."""
    with bench.node.database.reading() as session:
        join = ResultObjectRow.id == DeliveredObjectRow.result_object_id
        rows = select(ResultObjectRow).join(DeliveredObjectRow, join).order_by(DeliveredObjectRow.answered_at)
        return [(row.kind, row.form) for row in session.scalars(rows)]


def memories(bench: Bench) -> dict[str, str]:
    with bench.node.database.reading() as session:
        return {row.subject: row.form for row in session.scalars(select(PeerMemoryRow))}


def set_up(bench: Bench, peer: Peer, **wishes: Any) -> None:
    bench.peers(peer.model_copy(update=wishes))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, [("sc", "multi_frame"), ("sr", "comprehensive_3d"), ("ko", "key_object")]),
        ({"results": ("sr",)}, [("sr", "comprehensive_3d")]),
        ({"results": ("ko",), "rejection_notes": True}, [("ko", "key_object"), ("rn", "key_object")]),
        (
            {"sc_form": "single_frame", "sr_form": "comprehensive", "results": ("sc", "sr")},
            [*[("sc", "single_frame")] * 3, ("sr", "comprehensive")],
        ),
    ],
    ids=["all", "one kind", "with a note", "pinned"],
)
def test_a_peer_gets_the_kinds_and_forms_that_its_settings_name(
    bench: Bench, wishes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """A viewer that shows no SR is not given any; the pages come first, what withdraws others last."""
    bench.exam(whole_result(), "PACS")
    with scp((evt.EVT_C_STORE, Archive()), classes=ALL) as peer:
        set_up(bench, peer, **wishes)
        work(bench)
    assert stored(bench) == expected
    assert bench.exam_row().state == "delivered"
    assert memories(bench) == {}
    listed = list_exams(bench.node)[0]["result_uids"]
    assert len(listed) >= len(expected)


def test_each_kind_steps_down_alone_and_is_remembered_alone(bench: Bench) -> None:
    """An archive from before Comprehensive 3D SR may well take multi-frame pages; the next result knows."""
    archive = Archive()
    bench.exam(whole_result(), "PACS")
    classes = (MULTI, COMPREHENSIVE_SR, KEY_OBJECT_SELECTION)
    with scp((evt.EVT_C_STORE, archive), classes=classes) as peer:
        set_up(bench, peer)
        work(bench)
        assert stored(bench) == [("sc", "multi_frame"), ("sr", "comprehensive"), ("ko", "key_object")]
        assert memories(bench) == {"sr": "comprehensive"}
        assert bench.events().count("result_form_refused") == 1
        bench.exam(whole_result("other"), "PACS", exam_id="e2")
        work(bench)
    assert bench.events().count("result_form_refused") == 1
    assert len(archive.held) == 3 + 3
    assert {bench.exam_row(exam).state for exam in ("e1", "e2")} == {"delivered"}


def test_a_kind_that_is_refused_does_not_lose_the_rest(bench: Bench) -> None:
    """Pages and report arrive, the operator is told of the key objects; without them, all is delivered."""
    archive = Archive()
    (claim,) = bench.exam(whole_result(), "PACS")
    predicted(bench)
    with scp((evt.EVT_C_STORE, archive), classes=ALL[:4]) as peer:
        set_up(bench, peer)
        work(bench)
        assert stored(bench) == [("sc", "multi_frame"), ("sr", "comprehensive_3d")]
        assert (bench.delivery(claim).state, bench.exam_row().state) == ("failed", "failed")
        assert "Key Object Selection" in (bench.delivery(claim).last_error or "")
        set_up(bench, peer, results=("sc", "sr"))
        retry_exam(bench.node, "e1")
        work(bench)
    assert (bench.delivery(claim).state, bench.exam_row().state) == ("delivered", "delivered")
    assert [len(copies) for copies in archive.held.values()] == [1, 1]


def test_a_pinned_form_is_not_left(bench: Bench) -> None:
    """Who pins it would rather hear of a refusal than get another form."""
    (claim,) = bench.exam(whole_result()[:1], "PACS")
    with scp((evt.EVT_C_STORE, Archive()), classes=(SINGLE,)) as peer:
        set_up(bench, peer, sc_form="multi_frame")
        deliver(bench.node, claim)
    assert bench.delivery(claim).state == "failed"
    assert memories(bench) == {}
    assert stored(bench) == []


def test_a_check_lets_refused_forms_be_tried_anew(bench: Bench) -> None:
    """Whoever has upgraded an archive runs `check`, and need not wait for `fallback_days`."""
    bench.exam(whole_result()[:1], "PACS")
    with scp((evt.EVT_C_STORE, Archive()), classes=(SINGLE,)) as peer:
        set_up(bench, peer)
        work(bench)
    assert memories(bench) == {"sc": "single_frame"}
    bench.peers()
    list(check(bench.node.settings))
    assert memories(bench) == {}
    assert bench.events()[-1] == "peer_refusal_forgotten"
