"""Login by an identity provider: a real one in a process of its own, and what it may do wrong."""

import base64
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from jwcrypto import jwk
from pydantic import ValidationError
from sqlalchemy import select

from db.engine import utc_now
from db.tables import AuditEventRow, LoginFailureRow, UserRow, WebSessionRow
from node.errors import NodeError, SettingsError
from node.house import Node
from node.roles import Role
from node.serving import open_node
from node.sessions import MOST_FAILURES_OF_ADDRESS
from node.settings import Settings
from node.users import add_user, set_password, set_role
from node.web.app import make_app
from tests.acceptance.peers import REPOSITORY, free_port
from tests.integration import oidc_provider
from tests.unit.node.web.conftest import PASSWORD, Browser

PAGE = "http://testserver/"
ROLES: dict[str, Role] = {"viewers": "viewer", "reviewers": "reviewer", "administrators": "administrator"}
Opened = tuple[Node, Callable[[], Browser]]


@contextmanager
def provider(folder: Path, *redirect_uris: str) -> Iterator[str]:
    """Run a provider and give its issuer."""
    port = free_port()
    line = [sys.executable, "tests/integration/oidc_provider.py", str(folder), str(port), *redirect_uris]
    with (folder / "provider.log").open("wb") as log:
        process = subprocess.Popen(line, cwd=REPOSITORY, stdout=log, stderr=log)
    issuer, deadline = f"http://localhost:{port}/o", time.monotonic() + 60
    try:
        while True:
            try:
                httpx.get(f"{issuer}/.well-known/openid-configuration", timeout=20).raise_for_status()
                break
            except httpx.TransportError:
                said = (folder / "provider.log").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
        yield issuer
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with provider(tmp_path_factory.mktemp("provider"), f"{PAGE}login/oidc/end") as found:
        yield found


def settings_of(folder: Path, issuer: str) -> Settings:
    (folder / "secret").write_text(f"{oidc_provider.SECRET}\n")
    return Settings(
        storage_dir=folder / "store", database_url=f"sqlite:///{folder / 'endonode.db'}", min_free_bytes=0,
        oidc_issuer=issuer, oidc_client_id=oidc_provider.CLIENT_ID, oidc_roles=ROLES,
        oidc_client_secret_file=folder / "secret",
    )  # fmt: skip


@contextmanager
def page_of(folder: Path, issuer: str) -> Iterator[Opened]:
    """Open a node and give it with a function that opens a browser on its page."""
    with open_node(settings_of(folder, issuer), stores=True) as node:
        app = make_app(node)
        yield node, lambda: Browser(app, headers={"Accept": "text/html"})


@pytest.fixture
def page(tmp_path: Path, issuer: str, sqlite_with_tables: Path) -> Iterator[Opened]:
    (tmp_path / "endonode.db").write_bytes(sqlite_with_tables.read_bytes())
    with page_of(tmp_path, issuer) as opened:
        yield opened


def at_provider(address: str, name: str) -> str:
    """Log in there; return the address to which it sends the browser back."""
    with httpx.Client(timeout=20) as browser:
        answer = browser.get(address)
        while True:
            if answer.is_redirect:
                following = urljoin(str(answer.url), answer.headers["location"])
                if following.startswith(PAGE):
                    return following
                answer = browser.get(following)
            else:
                token = re.search('csrfmiddlewaretoken" value="([^"]+)"', answer.text)
                assert token, answer.text
                form = {"username": name, "password": oidc_provider.PASSWORD, "csrfmiddlewaretoken": token[1]}
                answer = browser.post(answer.url, data=form)
                assert answer.is_redirect, answer.text


def begin(browser: Browser, following: str = "/", *, provider_name: str = "localhost") -> str:
    """Press the button; return the provider's address."""
    html = browser.get("/login", params={"next": following}).text
    button = re.search(f'href="(/login/oidc[^"]+)">Log in through {provider_name}<', html)
    assert button, html
    location: str = browser.get(button[1], follow_redirects=False).headers["location"]
    return location


def log_in(browser: Browser, name: str, following: str = "/") -> httpx.Response:
    answer: httpx.Response = browser.get(at_provider(begin(browser, following), name))
    return answer


def failures(node: Node) -> list[tuple[str, str]]:
    """Return reason and user of each login that failed, and see that nobody is logged in by it."""
    with node.database.reading() as session:
        failed = (
            select(AuditEventRow).where(AuditEventRow.event == "user_login_failed").order_by(AuditEventRow.id)
        )
        assert session.scalars(select(WebSessionRow)).all() == []
        return [(str(row.detail["reason"]), row.subject_id) for row in session.scalars(failed)]


def test_who_the_provider_knows_has_an_ordinary_session_with_the_highest_role_it_gives(page: Opened) -> None:
    node, start = page
    with closing(start()) as browser:
        asked = parse_qs(urlsplit(begin(browser)).query)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["response_type"] == ["code"]
        assert all(len(asked[name][0]) >= 20 for name in ("state", "nonce", "code_challenge"))
        answer = log_in(browser, "adam", "/users?a=1&b=2")
        assert 'content="0; url=/users?a=1&amp;b=2"' in answer.text
        cookies = answer.headers.get_list("set-cookie")
        assert any(re.match("endonode=.*HttpOnly.*SameSite=strict", cookie) for cookie in cookies)
        shown = browser.get("/users").text
        assert "adam <small>administrator</small>" in shown
        csrf = shown.partition('"X-CSRF-Token":"')[2].partition('"')[0]
        assert browser.post("/logout", follow_redirects=False).status_code == 403
        assert browser.post("/logout", data={"csrf": csrf}, follow_redirects=False).status_code == 303
        assert browser.get("/users", follow_redirects=False).status_code == 303
    with closing(start()) as browser:
        log_in(browser, "anna")
        assert "anna <small>reviewer</small>" in browser.get("/").text
        assert browser.get("/users").status_code == 403
        astray = browser.get("/login/oidc", params={"next": "//evil.example"}, follow_redirects=False)
        assert 'content="0; url=/"' in browser.get(at_provider(astray.headers["location"], "anna")).text
    with node.database.reading() as session:
        trail = [
            (row.event, row.actor)
            for row in session.scalars(select(AuditEventRow).order_by(AuditEventRow.id))
        ]
        assert len(session.scalars(select(UserRow)).all()) == 2
    for name, logins in (("adam", 1), ("anna", 2)):
        assert trail.count(("user_added", name)) == 1
        assert trail.count(("user_logged_in", name)) == logins
    assert ("user_logged_out", "adam") in trail


@pytest.mark.parametrize("name", [name for name in oidc_provider.USERS if name.startswith(("wrong-", "no-"))])
def test_an_id_token_that_is_not_as_asked_for_lets_nobody_in(page: Opened, name: str) -> None:
    """For another login, for or from somebody else, of yesterday, or not signed by the provider's key."""
    node, start = page
    with closing(start()) as browser:
        answer = log_in(browser, name)
    assert answer.status_code == 403
    assert "cannot be trusted" in answer.text
    assert failures(node) == [("token", "unknown")]
    with node.database.reading() as session:
        assert session.scalars(select(UserRow)).all() == []


def test_who_has_no_role_is_told_so(page: Opened) -> None:
    node, start = page
    with closing(start()) as browser:
        answer = log_in(browser, "nora")
        assert answer.status_code == 403
        assert "Your account has no role here; ask whoever runs this node." in answer.text
        assert browser.get("/", follow_redirects=False).status_code == 303
    assert failures(node) == [("role", "unknown")]


def test_a_name_stays_whose_it_is(page: Opened) -> None:
    """Neither is a user of our own taken over, nor does one at the provider get a password here."""
    node, start = page
    add_user(node, "anna", "viewer", PASSWORD, actor="os:test")
    with closing(start()) as browser:
        answer = log_in(browser, "anna")
        assert answer.status_code == 403
        assert "another user" in answer.text
        assert failures(node) == [("name", "unknown")]
        browser.log_in("anna")
        assert "anna <small>viewer</small>" in browser.get("/").text
    with closing(start()) as browser:
        log_in(browser, "vera")
        assert browser.post("/login", data={"name": "vera", "password": ""}).status_code in (401, 422)
        for change in (
            partial(add_user, node, "vera", "administrator", PASSWORD, actor="os:test"),
            partial(set_password, node, "vera", PASSWORD, actor="os:test"),
            partial(set_role, node, "vera", "administrator", actor="os:test"),
        ):
            with pytest.raises(NodeError, match=r"user vera: (exists already|logs in by OpenID Connect)"):
                change()


def test_an_answer_counts_once_and_in_the_browser_that_asked(page: Opened) -> None:
    """Whoever follows a link to the end of another's login would be that other."""
    node, start = page
    with closing(start()) as mine, closing(start()) as other:
        answer = at_provider(begin(mine), "vera")
        kept = mine.cookies["endonode-login"]
        begin(other)
        altered = answer.replace("state=", "state=x")
        for browser, address in (
            (other, answer),
            (mine, altered),
            (other, "/login/oidc/end"),
            (start(), answer),
        ):
            refused = browser.get(address)
            assert refused.status_code == 403
            assert "begun elsewhere" in refused.text
        denied = mine.get("/login/oidc/end", params={"error": "access_denied", "error_description": "<b>"})
        assert denied.status_code == 403
        assert "<b>" not in denied.text
        assert failures(node) == [("state", "unknown")] * 4 + [("refused", "unknown")]
        assert mine.get(answer).status_code == 200
        mine.cookies.set("endonode-login", kept)
        again = mine.get(answer)
        assert again.status_code == 403
        assert "did not let you in" in again.text


def test_a_provider_that_is_away_keeps_nobody_from_a_password(
    page: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gone in the middle of a login, and before the next."""
    node, start = page
    with closing(start()) as browser:
        answer = at_provider(begin(browser), "vera")
        gone = node.settings.model_copy(update={"oidc_issuer": f"http://localhost:{free_port()}"})
        browser.app.state.node = replace(node, settings=gone)  # type: ignore[attr-defined]
        for path in (answer, "/login/oidc"):
            away = browser.get(path, follow_redirects=False)
            assert away.status_code == 503
            assert "gives no answer; log in by password" in away.text
        assert failures(node) == [("provider", "unknown")] * 2
        add_user(node, "bert", "viewer", PASSWORD, actor="os:test")
        browser.log_in("bert")
    said = capsys.readouterr()
    assert "oidc_login_failed" in said.out + said.err
    assert oidc_provider.SECRET not in said.out + said.err


@pytest.mark.parametrize(
    "said",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"issuer": "https://elsewhere.example", "authorization_endpoint": "https://e.example"}',
    ],
)
def test_what_is_no_provider_is_one_that_is_away(
    tmp_path: Path, sqlite_with_tables: Path, said: bytes
) -> None:
    """Another page, or a provider that is not the one that was meant: who signs for it could be anybody."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "endonode.db").write_bytes(sqlite_with_tables.read_bytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = f"http://127.0.0.1:{server.server_port}"
        with page_of(tmp_path, issuer) as (node, start), closing(start()) as browser:
            assert browser.get("/login/oidc", follow_redirects=False).status_code == 503
            assert failures(node) == [("provider", "unknown")]
        server.shutdown()


def test_an_id_token_that_nobody_signed_lets_nobody_in_though_the_provider_would_have_it_so(
    tmp_path: Path, sqlite_with_tables: Path
) -> None:
    """OpenID Connect Core 3.1.3.7 leaves it to TLS; what may be forged on the way is not believed here."""
    nonce: list[str] = []

    class Unsigned(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            key = jwk.JWK.generate(kty="RSA", size=2048).export_public(as_dict=True)
            self.say({
                "issuer": here, "authorization_endpoint": f"{here}/a", "token_endpoint": f"{here}/t",
                "jwks": {"keys": [key]}, "id_token_signing_alg_values_supported": ["none"],
            })  # fmt: skip

        def do_POST(self) -> None:
            now = int(time.time())
            claims = {
                "iss": f"http://127.0.0.1:{self.server.server_port}", "sub": "1", "nonce": nonce[0],  # type: ignore[attr-defined]
                "aud": oidc_provider.CLIENT_ID, "iat": now, "exp": now + 60, "preferred_username": "eve",
                "groups": ["administrators"],
            }  # fmt: skip
            parts = [
                base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                for part in ({"alg": "none"}, claims)
            ]
            self.say({"access_token": "a", "token_type": "Bearer", "id_token": f"{'.'.join(parts)}."})

        def say(self, what: object) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "endonode.db").write_bytes(sqlite_with_tables.read_bytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unsigned) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (
            page_of(tmp_path, f"http://127.0.0.1:{server.server_port}") as (node, start),
            closing(start()) as browser,
        ):
            asked = parse_qs(urlsplit(begin(browser, provider_name="127.0.0.1")).query)
            nonce += asked["nonce"]
            answer = browser.get("/login/oidc/end", params={"code": "c", "state": asked["state"][0]})
            assert answer.status_code == 403
            assert failures(node) == [("token", "unknown")]
        server.shutdown()


def test_logins_that_fail_there_are_throttled_too(page: Opened) -> None:
    """Each is kept in the trail: without a limit anybody could fill it."""
    node, start = page
    with closing(start()) as browser:
        with node.database.writing() as session:
            failed = {"name_sha256": "", "address": "testclient", "at": utc_now()}
            session.add_all(LoginFailureRow(**failed) for _ in range(MOST_FAILURES_OF_ADDRESS - 1))
        assert browser.get("/login/oidc/end").status_code == 403
        for path in ("/login/oidc/end", "/login/oidc"):
            assert browser.get(path, follow_redirects=False).status_code == 429
    assert failures(node) == [("state", "unknown")]


def test_what_is_set_up_halfway_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, "https://login.example")
    assert oidc_provider.SECRET not in f"{settings!r}"
    given = settings.model_dump(include={name for name in Settings.model_fields if name.startswith("oidc_")})
    for name in ("oidc_issuer", "oidc_client_id", "oidc_client_secret_file", "oidc_roles"):
        with pytest.raises(ValidationError, match=f"missing: {name}"):
            Settings(**{key: value for key, value in given.items() if key != name})
    for issuer in ("http://login.example", "login.example"):
        with pytest.raises(ValidationError, match="an https address was expected"):
            Settings(**{**given, "oidc_issuer": issuer})
    with pytest.raises(ValidationError, match="'viewer', 'reviewer' or 'administrator'"):
        Settings(**{**given, "oidc_roles": {"staff": "king"}})
    with open_node(settings, stores=True) as node:
        (tmp_path / "secret").write_text("\n")
        with pytest.raises(SettingsError, match="a secret was expected"):
            make_app(node)
        (tmp_path / "secret").unlink()
        with pytest.raises(SettingsError, match="cannot be read"):
            make_app(node)
        monkeypatch.delitem(sys.modules, "node.web.oidc")
        monkeypatch.delattr("node.web.oidc")
        monkeypatch.setitem(sys.modules, "authlib.deprecate", None)
        with pytest.raises(SettingsError, match=r"pip install endonode\[oidc\]"):
            make_app(node)
