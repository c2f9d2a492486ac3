"""The page of an exam: what it says, what stays text, its pictures, its review."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from db.audit import record
from db.engine import utc_now
from db.tables import (
    AuditEventRow,
    CommitmentRow,
    DeliveryRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    JobRow,
    OrderRow,
    ReviewRow,
)
from node.house import Node
from node.picture_cache import PictureCache
from node.web.events import changes
from tests.unit.node.web.conftest import Browser, add_exam

Start = Callable[..., Browser]

HTML = '<script>alert("x")</script><b onclick=x>&'


def test_what_headers_say_stays_text(node: Node, browser: Start) -> None:
    """Whoever writes a Patient ID at a processor must not write our page."""
    exam = add_exam(
        node, "ibd", patient_id=HTML[:40], accession_number=HTML[:16], study_date="<i>31.1.",
        peer_ae_title="<b>PACS</b>", device_model=HTML, error_text=HTML, state="failed", error_step="deliver",
    )  # fmt: skip
    reviewer = browser("reviewer")
    reviewer.post(f"/exams/{exam}/reviews", data={"comment": HTML})
    with node.database.writing() as session:
        record(session, "exam_noted", exam, actor="<b>x", note=HTML)
    for page in ("/?review=all", f"/exams/{exam}"):
        html = reviewer.get(page).text
        assert "&lt;script&gt;" in html
        for tag in ("<script>", "<b onclick", "<i>31", "<b>PACS", "<b>x"):
            assert tag not in html, (page, tag)
    assert "<script>" not in reviewer.post("/search", data={"q": HTML[:40]}).text


@pytest.mark.parametrize(
    ("matched_by", "reason", "told"),
    [
        ("study", None, "&lt;b&gt;Colonoscopy (RIS, by study)"),
        (None, "several", "none taken from RIS: several"),
    ],
)
def test_the_order_and_what_was_received_are_told(
    node: Node, browser: Start, matched_by: str | None, reason: str | None, told: str
) -> None:
    exam = add_exam(node)
    order = {"RequestedProcedureDescription": "<b>Colonoscopy"} if matched_by else {}
    with node.database.writing() as session:
        study = session.get_one(ExamRow, exam).study_instance_uid
        row = OrderRow(exam_id=exam, peer_ae_title="RIS", matched_by=matched_by, reason=reason)
        row.attributes, row.found_at = order, utc_now()
        session.add(row)
        record(session, "study_received", study, actor="ae:TOWER", instances=[[1, "1.2.3", "ab"]] * 7)
    html = browser("viewer").get(f"/exams/{exam}").text
    assert told in html
    assert "study received" in html
    assert "instances: 7" in html


def test_a_reading_is_told_whole(node: Node, browser: Start) -> None:
    exam = add_exam(node, evidence=2, completeness_verdict="incomplete", missing_count=4, has_conflict=True)
    other = add_exam(node, "healthy")
    with node.database.writing() as session:
        instance = session.scalars(select(InstanceRow)).first()
        assert instance is not None
        session.add(
            FrameRow(exam_id=exam, instance_id=instance.id, frame_number=2, kept=False, reason="blurred")
        )
        delivery = DeliveryRow(exam_id=exam, peer_ae_title="PACS", state="unconfirmed", deadline_at=utc_now())
        session.add(delivery)
        session.flush()
        session.add(
            CommitmentRow(
                transaction_uid="1.2", delivery_id=delivery.id, object_ids=[], attempt=1, asked_at=utc_now()
            )
        )
    html = browser("viewer").get(f"/exams/{exam}").text
    for said in (
        "IBD pattern found", "0.97", "a calibrated estimate", "t = 0.85", "blurred", "4 images that the",
        "quarantine", "has not confirmed that it keeps them", "not confirmed, asked once",
        f"/exams/{other}", "3 frames, 2 read, 2 at or above t = 0.85", "exam viewed", "viewer1",
        "You may look",
    ):  # fmt: skip
        assert said in html, said
    assert html.count("data-position=") == 2


@pytest.mark.parametrize("reading", ["failed", "unpredicted", None])
def test_an_exam_without_a_finding_has_a_page_of_its_own(
    node: Node, browser: Start, reading: str | None
) -> None:
    columns: dict[str, Any] = {}
    if reading == "failed":
        columns = {"error_step": "read", "error_text": "no memory"}
    html = browser("reviewer").get(f"/exams/{add_exam(node, reading, **columns)}").text
    said = {
        "failed": "no memory",
        "unpredicted": "No frame reached the confidence",
        None: "appears here by itself",
    }
    assert said[reading] in html


def test_a_review_is_added_and_never_replaced(node: Node, browser: Start) -> None:
    exam, anna, bert = add_exam(node), browser("reviewer"), browser("reviewer")
    anna.post(f"/exams/{exam}/reviews", data={"verdict": "accepted", "reason": "a list left as it was"})
    html = bert.get(f"/exams/{exam}").text
    assert '<strong>reviewer1</strong> <span class="verdict accepted">Accepted' in html
    reason = html.partition('<option value="">choose a reason</option><option value="')[2].partition('"')[0]
    bert.post(f"/exams/{exam}/reviews", data={"verdict": "rejected", "reason": reason})
    anna.post(f"/exams/{exam}/reviews", data={"comment": "see biopsy"})
    html = anna.get(f"/exams/{exam}").text
    for said in ("see biopsy", "verdict accepted", "verdict rejected", "reading reviewed"):
        assert said in html
    with node.database.reading() as session:
        kept = session.execute(select(ReviewRow.verdict, ReviewRow.user_id).order_by(ReviewRow.id)).all()
        actors = session.scalars(
            select(AuditEventRow.actor).where(AuditEventRow.event == "reading_reviewed")
        ).all()
    assert kept == [("accepted", 1), ("rejected", 2), (None, 1)]
    assert actors == ["reviewer1", "reviewer2", "reviewer1"]


def test_a_superseded_reading_is_reviewed_no_more(node: Node, browser: Start) -> None:
    """The page may have stood open since before: what it shows is not what counts now."""
    newest = add_exam(node, "healthy", revision=3)
    middle = add_exam(node, "ibd", revision=2, superseded_by=newest)
    oldest = add_exam(node, "ibd", superseded_by=middle)
    answer = browser("reviewer").post(f"/exams/{oldest}/reviews", data={"verdict": "accepted"})
    assert answer.status_code == 409
    assert f'href="/exams/{newest}"' in answer.text
    with node.database.reading() as session:
        assert session.scalars(select(ReviewRow)).all() == []


def test_a_long_trail_says_that_it_goes_on(node: Node, browser: Start) -> None:
    exam, viewer = add_exam(node), browser("viewer")
    assert "Only the newest" not in viewer.get(f"/exams/{exam}").text
    with node.database.writing() as session:
        for _ in range(200):
            record(session, "exam_noted", exam)
    assert "Only the newest 200 events are shown" in viewer.get(f"/exams/{exam}").text


def test_a_picture_is_asked_for_once_and_given_when_it_is_there(node: Node, browser: Start) -> None:
    exam, viewer = add_exam(node, evidence=1), browser("viewer")
    at = f"/exams/{exam}/pictures/1/frame.png"
    assert [viewer.get(at).status_code for _ in range(2)] == [202, 202]
    with node.database.reading() as session:
        assert [job.kind for job in session.scalars(select(JobRow))] == ["picture"]
    PictureCache(node.settings).keep(exam, 1, "frame", b"\x89PNG")
    answer = viewer.get(at)
    assert (answer.status_code, answer.content) == (200, b"\x89PNG")
    with node.database.writing() as session:
        session.execute(update(JobRow).values(state="done"))
    assert viewer.get(f"/exams/{exam}/pictures/1/view.png").status_code == 404, "the worker could not make it"
    assert viewer.get(f"/exams/{exam}/pictures/2/frame.png").status_code == 404
    assert viewer.get(f"/exams/{exam}/pictures/1/..%2f..%2fmarker.png").status_code in (404, 422)
    with node.database.writing() as session:
        session.execute(update(InstanceRow).values(purged_at=utc_now()))
    assert viewer.get(at).status_code == 410, "purged pixels are not shown, whatever lies in the cache"


def test_pictures_made_longest_ago_go_first(node: Node) -> None:
    cache = PictureCache(node.settings)
    for number, exam in enumerate(("a", "b", "c")):
        cache.keep(exam, 1, "frame", b"x" * 10)
        os.utime(cache.path(exam, 1, "frame").parent, (number, number))
    cache.trim(most_bytes=25)
    assert [cache.path(exam, 1, "frame").is_file() for exam in "abc"] == [False, True, True]
    cache.drop(["b", "absent"])
    assert not cache.path("b", 1, "frame").exists()


def test_what_happens_to_an_exam_is_told_to_who_listens(node: Node, browser: Start) -> None:
    """A view changes nothing that is shown: two lists would else refresh each other for ever."""
    viewer, exam = browser("viewer"), add_exam(node)

    async def listen() -> list[str | None]:
        told = []
        stream = changes(node, viewer.cookies["endonode"])
        told.append((await anext(stream)).event)
        with node.database.writing() as session:
            record(session, "exam_viewed", "seen")
            record(session, "exam_read", exam)
        told.append((await anext(stream)).data)
        viewer.post("/logout")
        told += [message.data async for message in stream]
        return told

    told = asyncio.run(listen())
    assert told[:2] == ["listening", exam]
    assert exam not in told[2:]


def test_who_listens_anew_is_told_what_was_missed(node: Node, browser: Start) -> None:
    """A page says of how many events it has told; views are none of them."""
    viewer, exam = browser("viewer"), add_exam(node)
    with node.database.writing() as session:
        record(session, "exam_read", exam)
    told = viewer.get(f"/exams/{exam}").text.partition('data-told="')[2].partition('"')[0]

    async def first(count: int) -> list[str | None]:
        stream = changes(node, viewer.cookies["endonode"], exam=exam, told=count)
        found = [(await anext(stream)).event]
        with node.database.writing() as session:
            record(session, "exam_read", "of another")
        found.append((await anext(stream)).data)
        await stream.aclose()  # type: ignore[attr-defined]
        return found

    assert asyncio.run(first(int(told))) == ["listening", "of another"]
    with node.database.writing() as session:
        record(session, "exam_superseded", exam)
    assert asyncio.run(first(int(told))) == ["listening", exam]
