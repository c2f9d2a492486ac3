"""What the worklist shows, in which order, and how it is gone through."""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from db.engine import utc_now
from db.tables import AuditEventRow, DeliveryRow, ExamRow, PatientRow, PredictionRow
from node.house import Node
from node.users import add_user
from node.web import worklist
from node.web.app import make_app
from node.web.worklist import Asked, find, list_page
from tests.unit.node.web.conftest import PASSWORD, Browser, add_exam

Start = Callable[..., Browser]


def exams_of(html: str) -> list[str]:
    return re.findall(r'data-exam="([0-9a-f]+)"', html)


def pages(node: Node, **asked: Any) -> list[list[str]]:
    """Go through the worklist as its links lead."""
    found, after = [], ""
    while True:
        with node.database.reading() as session:
            listed = list_page(session, node, Asked(**asked, after=after))
        found.append([exam.id for exam, _, _ in listed.rows])
        after = listed.following
        if not after:
            return found


def test_sure_positives_come_first_and_nothing_that_needs_a_person_is_hidden(
    node: Node, browser: Start
) -> None:
    made = {reading: add_exam(node, reading) for reading in ("healthy", None, "unpredicted", "failed", "ibd")}
    html = browser("viewer").get("/").text
    assert exams_of(html) == [made[each] for each in ("ibd", "failed", "unpredicted", None, "healthy")]
    for words in ("IBD pattern found", "No reading: it failed", "UNPREDICTED", "Not read yet"):
        assert words in html
    assert "Research use, not a diagnosis" in html


@pytest.mark.parametrize("sort", ["priority", "newest", "oldest"])
def test_pages_show_every_exam_once_in_order(node: Node, monkeypatch: pytest.MonkeyPatch, sort: str) -> None:
    """Some came at the very same instant, and pages end among them."""
    monkeypatch.setattr(worklist, "PAGE", 3)
    began = utc_now()
    readings = ["ibd", "healthy", "unpredicted", "failed", None] * 4
    made = [
        (reading, at := began + dt.timedelta(seconds=number // 4), add_exam(node, reading, opened_at=at))
        for number, reading in enumerate(readings)
    ]
    shown = [exam for page in pages(node, sort=sort) for exam in page]
    assert sorted(shown) == sorted(exam for _, _, exam in made)
    at_of = {exam: at for _, at, exam in made}
    if sort == "priority":
        rank = {
            exam: ["ibd", "failed", "unpredicted", None, "healthy"].index(reading)
            for reading, _, exam in made
        }
        assert shown == sorted(
            shown, key=lambda exam: (rank[exam], -at_of[exam].timestamp(), [-ord(c) for c in exam])
        )
    else:
        assert [at_of[exam] for exam in shown] == sorted(at_of.values(), reverse=sort == "newest")


def test_filters_leave_what_they_say(node: Node) -> None:
    old = utc_now() - dt.timedelta(days=3)
    ibd, healthy = add_exam(node, "ibd"), add_exam(node, "healthy", peer_ae_title="OTHER")
    failed, past = add_exam(node, "failed"), add_exam(node, "unpredicted", opened_at=old)
    reviewed = add_exam(node, "ibd")
    with node.database.writing() as session:
        session.execute(
            update(PredictionRow).where(PredictionRow.exam_id == reviewed).values(verdict="rejected")
        )
    day = f"{old:%Y-%m-%d}"
    for asked, expected in (
        ({"reading": "ibd"}, {ibd}),
        ({"reading": "none"}, {failed}),
        ({"state": "failed"}, {failed}),
        ({"peer": "OTHER"}, {healthy}),
        ({"until": day}, {past}),
        ({"since": day, "until": day}, {past}),
        ({"since": f"{utc_now():%Y-%m-%d}"}, {ibd, healthy, failed}),
        ({"review": "rejected"}, {reviewed}),
        ({"review": "all"}, {ibd, healthy, failed, past, reviewed}),
    ):
        assert {exam for page in pages(node, **asked) for exam in page} == expected, asked


def test_only_the_newest_revision_is_listed_and_it_leads_to_the_others(node: Node, browser: Start) -> None:
    newest = add_exam(node, revision=2)
    older = add_exam(node, "unpredicted", superseded_by=newest)
    html = browser("viewer").get("/").text
    assert exams_of(html) == [newest]
    assert f'href="/exams/{newest}#revisions"' in html
    assert f'href="/exams/{newest}"' in browser("viewer").get(f"/exams/{older}").text


@pytest.mark.parametrize("few", [0, 1000])
def test_what_did_not_reach_a_peer_stays_open_though_it_was_accepted(
    node: Node, browser: Start, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Nobody would look for it: whoever accepted it takes it for delivered."""
    monkeypatch.setattr(worklist, "FEW", few)
    broken = add_exam(node, "ibd", state="failed", error_step="deliver", priority=20)
    failed = add_exam(node, "ibd", state="failed", error_step="deliver", priority=20)
    unsure, done = add_exam(node, "ibd", state="delivering"), add_exam(node)
    with node.database.writing() as session:
        session.execute(update(PredictionRow).values(verdict="accepted"))
        for exam, state in ((failed, "failed"), (unsure, "unconfirmed"), (done, "delivered")):
            session.add(DeliveryRow(exam_id=exam, peer_ae_title="ARCH", state=state, deadline_at=utc_now()))
    html = browser("viewer").get("/").text
    assert exams_of(html) == [unsure, failed, broken]
    assert "Not confirmed by ARCH" in html
    assert "Did not reach ARCH" in html
    assert '<span class="state delivering">' not in html
    assert "Not confirmed by ARCH" in browser("viewer").get(f"/exams/{unsure}").text


@pytest.mark.parametrize("few", [0, 1000])
def test_a_late_image_hides_no_reading(
    node: Node, browser: Start, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """The revision that it opens is listed where the one before was, with that one's reading."""
    monkeypatch.setattr(worklist, "FEW", few)
    other = add_exam(node, "unpredicted")
    newest = add_exam(node, None, revision=3, state="receiving", priority=10, exam_key="k")
    middle = add_exam(node, None, revision=2, exam_key="k", superseded_by=newest)
    add_exam(node, "ibd", exam_key="k", superseded_by=middle)
    viewer = browser("viewer")
    for address, exams in (("/", [newest, other]), ("/?reading=none&review=all", [newest])):
        html = viewer.get(address).text
        assert exams_of(html) == exams, address
        assert "revision 1: <b>IBD pattern found</b>" in html
    assert "revision 1: <b>IBD pattern found</b>" in viewer.get(f"/exams/{newest}").text


def test_a_search_is_by_patient_accession_or_day_and_names_none_in_an_address(
    node: Node, browser: Start
) -> None:
    """Addresses end up in logs and histories."""
    sought = add_exam(node, patient_id="P7", accession_number="ACC9", study_date="20260203")
    add_exam(node, patient_id="P8")
    viewer = browser("viewer")
    for term in ("P7", " ACC9 ", "20260203", "2026-02-03"):
        answer = viewer.post("/search", data={"q": term})
        assert exams_of(answer.text) == [sought], term
        assert term.strip() not in str(answer.url)
    assert "Nothing is found" in viewer.post("/search", data={"q": "P"}).text
    with node.database.reading() as session:
        assert find(session, "") == []
        details = session.scalars(
            select(AuditEventRow.detail).where(AuditEventRow.event == "worklist_searched")
        ).all()
        patient = session.scalars(select(PatientRow.id).where(PatientRow.patient_id == "P7")).one()
    assert details[0] == {"patients": [patient], "exams": [sought]}, "whom it found is known by rows alone"
    assert details[-1] == {"patients": [], "exams": []}


def test_a_refresh_by_the_page_itself_is_no_view(node: Node, browser: Start) -> None:
    viewer, exam = browser("viewer"), add_exam(node)
    for headers in ({}, {"X-Live": "1"}):
        viewer.get("/", headers=headers)
        viewer.get(f"/exams/{exam}", headers=headers)
    with node.database.reading() as session:
        of = AuditEventRow.event.in_(("worklist_viewed", "exam_viewed"))
        events = session.execute(select(AuditEventRow.event, AuditEventRow.actor).where(of)).all()
    assert (
        sorted(events) == [("exam_viewed", "viewer1")] + [("worklist_viewed", "viewer1")] * 2
    )  # one by the login


def test_nobody_reads_unseen_by_calling_it_a_refresh(node: Node, browser: Start) -> None:
    """A header is the client's own: it saves an event only where this session has one of the same already."""
    exam, pictured, anna = add_exam(node), add_exam(node, evidence=1), browser("viewer")

    def seen() -> list[str]:
        with node.database.reading() as session:
            of = AuditEventRow.event.in_(("worklist_viewed", "worklist_searched", "exam_viewed"))
            found = select(AuditEventRow.event).where(of).order_by(AuditEventRow.id)
            return list(session.scalars(found))[before:]

    before = 0
    for client in (anna, browser()):
        if client is not anna:
            client.log_in("viewer1")  # another session of the same user
        before += len(seen())
        for _ in range(2):
            client.get(f"/exams/{pictured}/pictures/1/frame.png")
            client.get(f"/exams/{exam}", headers={"X-Live": "1"})
        assert seen() == ["exam_viewed"] * 2
        for _ in range(2):
            client.post("/search", data={"q": "P1"}, headers={"X-Live": "1"})
        assert seen()[2:] == ["worklist_searched"] * 2
    client.post("/logout")
    with node.database.writing() as session:
        session.execute(update(AuditEventRow).values(at=utc_now().replace(year=2020)))
    before += len(seen())
    anna.get("/", headers={"X-Live": "1"})
    assert seen() == ["worklist_viewed"]


@pytest.mark.postgres
def test_what_no_database_can_be_asked_for_is_refused(postgres_node: Node) -> None:
    """PostgreSQL knows no NUL in a text."""
    add_user(postgres_node, "anna", "administrator", PASSWORD, actor="os:test")
    client = Browser(make_app(postgres_node), headers={"Accept": "text/html"}, raise_server_exceptions=False)
    client.log_in("anna")
    instant = "2020-01-01T00:00:00%2B00:00"
    for address in (
        "/?peer=%00", f"/?after=10~{instant}~%00", "/exams/%00", "/exams/%00/pictures/1/frame.png",
        "/exams/x/pictures/99999999999999999999/frame.png", "/events?exam=%00",
    ):  # fmt: skip
        assert client.get(address).status_code == 422, address
    assert client.get(f"/?after=99999999999999999999~{instant}~x").status_code == 200
    for address, form in (
        ("/search", {"q": "a\0"}), ("/exams/%00/reviews", {"verdict": "accepted"}),
        ("/tokens/revoke", {"name": "\0"}), ("/login", {"name": "\0", "password": "x"}),
    ):  # fmt: skip
        assert client.post(address, data=form).status_code == 422, address


@pytest.mark.parametrize(
    "query",
    [
        "sort=banana",
        "since=0001-01-01",
        "until=9999-12-31",
        "after=10~0001-01-01T00:00:00%2B10:00~x",
        "since=yesterday",
        "since=2026-02-31",
        "after=1~x~y",
        "after=1~2026~ab",
        "nonsense=abracadabra",
    ],
)
def test_what_is_not_understood_is_a_page_that_says_so_and_repeats_nothing(
    browser: Start, query: str
) -> None:
    answer = browser("viewer").get(f"/?{query}")
    assert answer.status_code == 422
    assert "This was not understood." in answer.text
    assert query.partition("=")[2] not in answer.text


def test_an_empty_list_says_what_will_happen(node: Node, browser: Start) -> None:
    viewer = browser("viewer")
    assert "An exam appears here by itself" in viewer.get("/").text
    assert "No exam is like this" in viewer.get("/?reading=ibd").text
    with node.database.reading() as session:
        assert session.scalars(select(ExamRow)).all() == []
