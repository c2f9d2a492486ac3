"""Who gets in, who may do what, and what every answer carries."""

import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import func, select, update

from db.engine import utc_now
from db.tables import ApiTokenRow, AuditEventRow, LoginFailureRow, WebSessionRow
from node.house import Node
from node.sessions import MOST_FAILURES_OF_NAME
from node.tokens import add_token, revoke_token
from node.users import add_user, set_disabled, set_password
from node.web.app import make_app
from node.web.security import OF_PROVIDER, PUBLIC
from tests.unit.node.web.conftest import PASSWORD, Browser, add_exam

Start = Callable[..., Browser]

OF_REVIEWERS = {("POST", "/exams/{exam_id}/reviews")}
OF_ADMINISTRATORS = {("GET", "/users"), ("POST", "/users"), ("POST", "/tokens/revoke")}
STREAM = "/events"
FORMS = {
    "/exams/{exam_id}/reviews": {"verdict": "accepted"},
    "/users": {"name": "nobody", "role": "viewer", "login": "yes"},
    "/tokens/revoke": {"name": "none"},
}


def routes(node: Node) -> Iterator[tuple[str, str]]:
    """Walk the application's own table of routes."""
    for route in iter_route_contexts(make_app(node).routes):
        for method in sorted(route.methods or ()):
            yield method, str(route.path)


def address(path: str, exam_id: str) -> str:
    filled = path.format(exam_id=exam_id, position=1, layer="frame")
    assert "{" not in filled
    return filled


def test_the_walk_sees_every_route(node: Node) -> None:
    """A walk over nothing would pass."""
    assert {("GET", "/"), ("POST", "/logout"), ("GET", STREAM), *OF_REVIEWERS, *OF_ADMINISTRATORS} <= set(
        routes(node)
    )


def test_who_is_logged_out_gets_nothing(node: Node, browser: Start) -> None:
    """Every route is walked: one that is added later is refused too, unless it is named public."""
    exam = add_exam(node)
    logged_out = browser()
    for method, path in routes(node):
        if path in PUBLIC:
            continue
        answer = logged_out.request(method, address(path, exam), follow_redirects=False)
        is_turned_away = answer.status_code == 401 or answer.headers.get("location", "").startswith("/login?")
        assert is_turned_away, (method, path, answer.status_code)
        assert "P1" not in answer.text
    assert logged_out.get("/static/page.css").status_code == 200
    answered = {path for path in PUBLIC if logged_out.get(path).status_code == 200}
    assert answered == PUBLIC - OF_PROVIDER, "which are not there without one"


def test_a_viewer_only_looks(node: Node, browser: Start) -> None:
    exam = add_exam(node)
    viewer = browser("viewer")
    for method, path in routes(node):
        if path in (STREAM, "/logout"):
            continue
        answer = viewer.request(method, address(path, exam), data=FORMS.get(path))
        is_refused = (method, path) in OF_REVIEWERS | OF_ADMINISTRATORS
        assert (answer.status_code == 403) == is_refused, (method, path, answer.status_code)


def test_a_reviewer_does_not_administer(browser: Start) -> None:
    reviewer = browser("reviewer")
    for method, path in OF_ADMINISTRATORS:
        assert reviewer.request(method, path, data=FORMS.get(path)).status_code == 403
    administrator = browser("administrator")
    assert administrator.get("/users").status_code == 200
    for change in ({"role": "viewer", "login": "yes"}, {"role": "administrator", "login": "no"}):
        form = {"name": "administrator2", **change}
        alone = administrator.post("/users", data=form, follow_redirects=False)
        assert alone.status_code == 403, "or nobody might be left who may"


def test_an_unsafe_request_repeats_the_sessions_token(browser: Start) -> None:
    """Another site can send a form in a person's name, but cannot know what to repeat."""
    viewer, other = browser("viewer"), browser("viewer")
    for said in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": other.csrf}):
        viewer.headers.pop("X-CSRF-Token", None)
        assert viewer.post("/search", data={"q": "P1"}, headers=said).status_code == 403
    assert viewer.post("/search", data={"q": "P1", "csrf": viewer.csrf}).status_code == 200


@pytest.mark.parametrize("said", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
def test_another_site_cannot_even_log_in_for_a_person(browser: Start, said: dict[str, str]) -> None:
    assert browser().post("/login", data={"name": "a", "password": "b"}, headers=said).status_code == 403


def test_every_answer_has_secure_headers_and_no_page_needs_inline_script(node: Node, browser: Start) -> None:
    exam = add_exam(node, evidence=1)
    administrator = browser("administrator")
    for path in ("/", f"/exams/{exam}", "/users", "/login", "/absent", "/?sort=no", "/static/keys.js"):
        answer = administrator.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if not path.startswith("/static"):
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|javascript:", answer.text), (
                path
            )
            assert not re.search(r"(src|href)=\"(https?:)?//", answer.text), path


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(node: Node, browser: Start) -> None:
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    form = {"name": "anna", "password": PASSWORD}
    cookie = browser().post("/login", data=form, follow_redirects=False).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    with node.database.reading() as session:
        kept = session.scalars(select(WebSessionRow.token_sha256)).all()
    assert token not in kept


def test_a_login_leads_back_to_our_own_pages_alone(node: Node, browser: Start) -> None:
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    for asked, led in (
        ("/exams/1", "/exams/1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\e", "/"),
        ("/\t/e", "/"),
    ):
        form = {"name": "anna", "password": PASSWORD, "next": asked}
        assert browser().post("/login", data=form, follow_redirects=False).headers["location"] == led


def test_a_name_is_throttled_whether_or_not_it_is_known(node: Node, browser: Start) -> None:
    """The answer is the same for both: nobody learns who has an account."""
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    said = {}
    for name in ("anna", "nobody"):
        guesses = [browser().post("/login", data={"name": name, "password": f"guess {n}"}) for n in range(6)]
        assert [guess.status_code for guess in guesses] == [401] * MOST_FAILURES_OF_NAME + [429]
        said[name] = [guess.text for guess in guesses]
    assert said["anna"] == said["nobody"]
    assert browser().post("/login", data={"name": "anna", "password": PASSWORD}).status_code == 429
    with node.database.writing() as session:
        session.execute(update(LoginFailureRow).values(at=utc_now().replace(year=2020)))
        failed = select(AuditEventRow).where(AuditEventRow.event == "user_login_failed")
        assert {row.subject_id for row in session.scalars(failed)} == {"1", "unknown"}
    browser().log_in("anna")


def test_who_gets_in_has_failed_no_more_and_old_sessions_go(node: Node, browser: Start) -> None:
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    client = browser()
    for _ in range(2):
        for _ in range(MOST_FAILURES_OF_NAME - 1):
            assert client.post("/login", data={"name": "anna", "password": "guess"}).status_code == 401
        with node.database.writing() as session:
            session.execute(update(WebSessionRow).values(created_at=utc_now().replace(year=2020)))
        client.log_in("anna")
    with node.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(WebSessionRow)) == 1


def test_behind_a_proxy_who_asks_is_whom_it_names_last(node: Node) -> None:
    """What stands before is what the browser said of itself: it could blame its guesses on anybody."""
    behind = replace(node, settings=node.settings.model_copy(update={"behind_proxy": True}))
    with Browser(make_app(behind), base_url="https://testserver") as client:
        said = {"X-Forwarded-For": "192.0.2.1, 192.0.2.2"}
        assert client.post("/login", data={"name": "a", "password": "b"}, headers=said).status_code == 401
    with node.database.reading() as session:
        assert session.scalars(select(LoginFailureRow.address)).one() == "192.0.2.2"


def test_an_address_is_throttled(node: Node, browser: Start) -> None:
    """One who tries one password on many names is stopped as well."""
    with node.database.writing() as session:
        session.add_all(
            LoginFailureRow(name_sha256=f"{n:064}", address="testclient", at=utc_now()) for n in range(30)
        )
    assert browser().post("/login", data={"name": "anna", "password": "guess"}).status_code == 429


@pytest.mark.parametrize("column", ["seen_at", "created_at"])
def test_a_session_ends_idle_or_old(node: Node, browser: Start, column: str) -> None:
    viewer = browser("viewer")
    assert viewer.get("/").status_code == 200
    with node.database.writing() as session:
        session.execute(update(WebSessionRow).values({column: utc_now().replace(year=2020)}))
    assert viewer.get("/", follow_redirects=False).status_code == 303


def test_a_page_left_open_does_not_prolong_its_session(node: Node, browser: Start) -> None:
    """It asks by itself, all night; only a person's use counts."""
    viewer = browser("viewer")
    before = utc_now() - dt.timedelta(seconds=600)
    with node.database.writing() as session:
        session.execute(update(WebSessionRow).values(seen_at=before))
    for headers, is_prolonged in (({"X-Live": "1"}, False), ({}, True)):
        assert viewer.get("/", headers=headers).status_code == 200
        with node.database.reading() as session:
            assert (session.scalars(select(WebSessionRow.seen_at)).one() > before) == is_prolonged


def test_what_ends_a_session(node: Node, browser: Start) -> None:
    """Logging out, being disabled, a new password; who is disabled does not come back."""
    leaving, disabled, changed = browser("viewer"), browser("viewer"), browser("viewer")
    leaving.post("/logout")
    set_disabled(node, "viewer2", is_disabled=True, actor="os:test")
    set_password(node, "viewer3", f"{PASSWORD}!", actor="os:test")
    for client in (leaving, disabled, changed):
        assert client.get("/", follow_redirects=False).status_code == 303
    assert disabled.post("/login", data={"name": "viewer2", "password": PASSWORD}).status_code == 401
    with node.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(WebSessionRow)) == 0
        events = session.scalars(select(AuditEventRow.event).where(AuditEventRow.actor == "viewer1")).all()
    assert [event for event in events if event.startswith("user_")] == ["user_logged_in", "user_logged_out"]


def test_a_token_asks_the_api_alone(node: Node, browser: Start) -> None:
    """It opens no page, whatever its user may."""
    add_user(node, "anna", "administrator", PASSWORD, actor="os:test")
    token = add_token(node, "report", user="anna", scopes=("predictions",), days=None, actor="os:test")
    said = {"Authorization": f"Bearer {token}"}
    assert browser().get("/users", headers=said, follow_redirects=False).status_code == 303
    with node.database.reading() as session:
        assert token not in session.scalars(select(ApiTokenRow.token_sha256)).all()


@pytest.mark.parametrize("end", ["revoked", "expired", "its user disabled"])
def test_a_token_has_an_end(node: Node, browser: Start, end: str) -> None:
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    token = add_token(node, "report", user="anna", scopes=("predictions",), days=1, actor="os:test")
    said = {"Authorization": f"Bearer {token}"}
    assert browser().get("/api/predictions", headers=said).status_code == 200
    if end == "revoked":
        revoke_token(node, "report", actor="os:test")
    elif end == "expired":
        with node.database.writing() as session:
            session.execute(update(ApiTokenRow).values(expires_at=utc_now()))
    else:
        set_disabled(node, "anna", is_disabled=True, actor="os:test")
    refused = browser().get("/api/predictions", headers={**said, "Accept": "application/json"})
    assert refused.status_code == 401


def test_figures_name_no_patient(node: Node, browser: Start) -> None:
    add_exam(node, patient_id="SECRET-7")
    figures = browser().get("/metrics").text
    assert 'endonode_exams{state="delivered"} 1.0' in figures
    assert "SECRET" not in figures


def test_a_node_whose_disk_is_full_is_not_ready(
    node: Node, browser: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.files, "_min_free_bytes", 1 << 60)
    answer = browser().get("/health/ready")
    assert (answer.status_code, answer.text) == (503, "no room is left in the store\n")


def test_a_body_longer_than_any_form_is_refused_unread(browser: Start) -> None:
    assert browser().post("/login", content=b"x" * 70_000).status_code == 413
    assert browser().post("/login", content=iter([b"x"])).status_code == 413, "of which no length is said"
