"""Who may ask for what: the one guard before every route, and the headers on every answer."""

import hmac
from collections.abc import Callable, MutableMapping
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Path, Request
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.audit import record
from db.tables import AuditEventRow, WebSessionRow
from node.house import Node
from node.passwords import sha256_of
from node.roles import Role, Visitor
from node.sessions import visitor_of_session
from node.settings import Settings
from node.tokens import visitor_of_token

OF_PROVIDER = frozenset({"/login/oidc", "/login/oidc/end"})
PUBLIC = frozenset({"/login", "/health/live", "/health/ready", "/metrics"}) | OF_PROVIDER
"""What is answered without login, beside the files under ``/static``."""

NO_NUL = r"^[^\x00]*$"
"""What PostgreSQL can be asked for."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_BODY_BYTES = 65_536

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" browsers hide the Origin of our own forms too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
STRICT_TRANSPORT = "max-age=31536000"


class LoggedOutError(Exception):
    """Nobody is logged in, or is so no longer."""


def node_of(request: Request) -> Node:
    """Return the node whose page this is."""
    node: Node = request.app.state.node
    return node


def visitor_of(request: Request) -> Visitor:
    """Return who asks; the guard has let them in."""
    visitor: Visitor = request.state.visitor
    return visitor


TheNode = Annotated[Node, Depends(node_of)]
TheVisitor = Annotated[Visitor, Depends(visitor_of)]
ExamId = Annotated[str, Path(pattern=NO_NUL)]


def is_secure(settings: Settings) -> bool:
    """Tell whether browsers speak TLS to us, or to the proxy before us."""
    return settings.behind_proxy or settings.tls_certificate is not None


def cookie_name(settings: Settings) -> str:
    """Return the session cookie's name; the prefix binds it to this host (RFC 6265bis 4.1.3.2)."""
    return "__Host-endonode" if is_secure(settings) else "endonode"


def csrf_token(session_token: str) -> str:
    """Return what every unsafe request of a session must repeat; it cannot be had from another site."""
    return sha256_of(f"csrf {session_token}")


def address_of(request: Request) -> str:
    """Return from where a request comes; where a proxy stands before us, what it has written last."""
    if node_of(request).settings.behind_proxy:
        return request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()[:45]
    return request.client.host if request.client else ""


def is_live(request: Request) -> bool:
    """Tell whether the page says that it asked by itself, to stay up to date: that is no use of a session."""
    return request.headers.get("x-live") == "1" or request.url.path == "/events"


def keep_view(request: Request, event: str, subject_id: str, *, is_again: bool) -> None:
    """Record that a person sees something.

    What is shown again (`is_again`: a page that refreshes itself, pictures of an exam) is one view with what
    this user has seen in this session; anybody can say that a request is a refresh.
    """
    node, visitor = node_of(request), visitor_of(request)
    if is_again:
        token = request.cookies.get(cookie_name(node.settings), "")
        seen = AuditEventRow.subject_id == subject_id, AuditEventRow.event == event
        with node.database.reading() as session:
            opened = session.scalar(
                select(WebSessionRow.created_at).where(WebSessionRow.token_sha256 == sha256_of(token))
            )
            last = session.scalar(
                select(AuditEventRow.at)
                .where(*seen, AuditEventRow.actor == visitor.actor)
                .order_by(AuditEventRow.id.desc())
                .limit(1)
            )
        if opened is not None and last is not None and last >= opened:
            return
    with node.database.writing() as session:
        record(session, event, subject_id, actor=visitor.actor)


async def guard(request: Request) -> None:
    """Let nobody in but who is logged in, and nothing be changed but from our own pages.

    It stands before every route; one that is to be public is named in `PUBLIC`.
    """
    is_unsafe = request.method not in SAFE
    if is_unsafe:
        _refuse_other_sites(request)
    if request.url.path in PUBLIC:
        return
    token = request.cookies.get(cookie_name(node_of(request).settings), "")
    visitor = await run_in_threadpool(_identify, request, token)
    if visitor is None:
        raise LoggedOutError
    request.state.visitor = visitor
    if visitor.scopes is None:
        request.state.csrf = csrf_token(token)
        if is_unsafe and not await _repeats(request, request.state.csrf):
            raise HTTPException(403, "this form is out of date; load the page again")


def needs(role: Role) -> Callable[[Request], None]:
    """Return a dependency that refuses users of a lower role."""

    def check(request: Request) -> None:
        if not visitor_of(request).is_at_least(role):
            raise HTTPException(403, f"this is for a {role}")

    return check


def scoped(scope: str) -> Callable[[Request], None]:
    """Return a dependency that refuses tokens without a scope."""

    def check(request: Request) -> None:
        scopes = visitor_of(request).scopes
        if scopes is not None and scope not in scopes:
            raise HTTPException(403, f"the token's scopes do not hold {scope}")

    return check


def ask_to_log_in(request: Request, _error: Exception) -> Response:
    """Answer who is logged out: a browser's page goes to the login, all else gets 401."""
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
    return JSONResponse({"detail": "log in first"}, 401, {"WWW-Authenticate": "Bearer"})


def _identify(request: Request, token: str) -> Visitor | None:
    node = node_of(request)
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return visitor_of_token(node, value) if request.url.path.startswith("/api/") else None
    return visitor_of_session(node, token, is_used=not is_live(request)) if token else None


def _refuse_other_sites(request: Request) -> None:
    """Refuse what a browser says another site has caused (Fetch Metadata; Origin, RFC 6454)."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    if site not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise HTTPException(403, "this request came from another site")


async def _repeats(request: Request, expected: str) -> bool:
    said = request.headers.get("x-csrf-token")
    if said is None:
        said = str((await request.form()).get("csrf", ""))
    return hmac.compare_digest(said.encode(), expected.encode())


class Headers:
    """ASGI middleware: secure headers on every answer, and no more of a body than a form has."""

    def __init__(self, app: ASGIApp, *, is_secure: bool) -> None:
        self._app = app
        self._headers = {**HEADERS, **({"Strict-Transport-Security": STRICT_TRANSPORT} if is_secure else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; refuse one whose body is longer than said or than any form of ours."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(message, scope["path"])
            await send(message)

        if scope["method"] not in SAFE and not _is_short(scope):
            await Response("the body is too long", 413)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _add(self, message: MutableMapping[str, Any], path: str) -> None:
        said = {name.lower() for name, _ in message["headers"]}
        added = dict(self._headers)
        if not path.startswith("/static/"):
            added["Cache-Control"] = "no-store"
        message["headers"] = [
            *message["headers"],
            *(
                (name.encode(), value.encode())
                for name, value in added.items()
                if name.lower().encode() not in said
            ),
        ]


def _is_short(scope: Scope) -> bool:
    said = dict(scope["headers"]).get(b"content-length", b"")
    if dict(scope["headers"]).get(b"transfer-encoding"):
        return False
    return not said or (said.isdigit() and int(said) <= MOST_BODY_BYTES)
