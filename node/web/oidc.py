"""Login by the site's identity provider: OpenID Connect Core 1.0, code flow with PKCE, state and nonce."""

import secrets
import warnings
from typing import Any

import httpx
import structlog
from authlib.deprecate import AuthlibDeprecationWarning
from fastapi import APIRouter, FastAPI, Request
from joserfc.errors import JoseError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response

from node.errors import NodeError, SettingsError
from node.house import Node
from node.roles import ROLES, Role
from node.sessions import (
    LoginRefusedError,
    ThrottledError,
    fail_login_by_provider,
    log_in_by_provider,
    refuse_throttled,
)
from node.settings import Settings
from node.web.login import keep, own_path, refuse
from node.web.pages import render
from node.web.security import TheNode, address_of, cookie_name, is_secure

with warnings.catch_warnings():
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)  # it would have httpx2, which is not ours
    from authlib.integrations.base_client.errors import MismatchingStateError
    from authlib.integrations.starlette_client import OAuth, OAuthError, StarletteOAuth2App

router = APIRouter()
log = structlog.get_logger()

END = "/login/oidc/end"
TIMEOUT_S = 10.0
LOGIN_S = 600
"""How long a login at the provider may take."""

PUBLIC_KEY = frozenset({"RS", "PS", "ES", "Ed"})
"""How signatures by a private key begin; there are others by the client's secret, and "none"."""

FAILURES = (NodeError, OAuthError, JoseError, httpx.HTTPError, KeyError, ValueError, TypeError, RuntimeError)
"""What a login may end in; who answers as no provider does is found out late, and by any of these."""

SAID = {
    "provider": "the login service gives no answer; log in by password, or try again later",
    "state": "this login was begun elsewhere, or too long ago; begin again",
    "refused": "the login service did not let you in; begin again",
    "token": "what the login service says cannot be trusted; tell whoever runs this node",
}


def join(app: FastAPI, settings: Settings) -> None:
    """Add the routes, and the cookie that binds a login to the browser in which it was begun."""
    _client(settings)
    app.include_router(router)
    app.add_middleware(
        SessionMiddleware, secret_key=secrets.token_urlsafe(32), max_age=LOGIN_S, same_site="lax",
        session_cookie=f"{cookie_name(settings)}-login", https_only=is_secure(settings),
    )  # fmt: skip


@router.get("/login/oidc")
async def begin(request: Request, node: TheNode, next: str = "/") -> Response:  # noqa: A002
    """Send the browser to the provider."""
    try:
        await run_in_threadpool(refuse_throttled, node, address=address_of(request))
        client = await _provider(node.settings)
        scopes = {node.settings.oidc_role_claim} & set(client.server_metadata.get("scopes_supported", ()))
        request.session["next"] = own_path(next)
        ends = f"{'https' if is_secure(node.settings) else 'http'}://{request.url.netloc}{END}"
        asked = " ".join(["openid", "profile", *scopes])
        answer: Response = await client.authorize_redirect(request, ends, scope=asked)
    except FAILURES as error:
        answer = await _answer(request, node, error)
    return answer


@router.get(END)
async def end(request: Request, node: TheNode) -> Response:
    """Take whom the provider sends back, if it vouches for them."""
    settings, following = node.settings, request.session.pop("next", "/")
    try:
        await run_in_threadpool(refuse_throttled, node, address=address_of(request))
        client = await _provider(settings)
        expected = {"iss": settings.oidc_issuer, "aud": settings.oidc_client_id}
        options = {claim: {"essential": True, "value": value} for claim, value in expected.items()}
        claims = (await client.authorize_access_token(request, claims_options=options))["userinfo"]
        token = await run_in_threadpool(
            log_in_by_provider, node, f"{settings.oidc_issuer} {claims['sub']}",
            str(claims.get(settings.oidc_name_claim, "")),
            _role(settings, claims.get(settings.oidc_role_claim)), address=address_of(request),
        )  # fmt: skip
    except FAILURES as error:
        return await _answer(request, node, error)
    # A redirect would still count as the provider's: the browser would withhold a cookie that is strict.
    return keep(render(request, "entered.html", next=following), node, token)


async def _answer(request: Request, node: Node, error: Exception) -> Response:
    """Say why a login failed, and keep it."""
    if isinstance(error, LoginRefusedError):
        return refuse(request, str(error), status=429 if isinstance(error, ThrottledError) else 403)
    if isinstance(error, MismatchingStateError):
        reason = "state"
    elif isinstance(error, OAuthError):
        reason = "refused"
    elif isinstance(error, JoseError | KeyError):
        reason = "token"
    else:
        reason = "provider"
    said = error.error if isinstance(error, OAuthError) else str(error)
    log.warning("oidc_login_failed", reason=reason, error=f"{type(error).__name__}: {said}"[:200])
    await run_in_threadpool(fail_login_by_provider, node, reason, address=address_of(request))
    return refuse(request, SAID[reason], status=503 if reason == "provider" else 403)


def _client(settings: Settings) -> StarletteOAuth2App:
    file = settings.oidc_client_secret_file
    try:
        secret = file.read_text(encoding="utf-8").strip() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"oidc_client_secret_file: {file} cannot be read; mend or rename it") from error
    if not secret:
        raise SettingsError(f"oidc_client_secret_file: a secret was expected in {file}; write it there")
    return OAuth().register(
        "oidc", client_id=settings.oidc_client_id, client_secret=secret,
        server_metadata_url=f"{settings.oidc_issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={"code_challenge_method": "S256", "timeout": TIMEOUT_S},
    )  # fmt: skip


async def _provider(settings: Settings) -> StarletteOAuth2App:
    """Return the client with what the provider says of itself now (OpenID Connect Discovery 1.0, 4.3)."""
    client = _client(settings)
    metadata: dict[str, Any] = await client.load_server_metadata()
    if metadata.get("issuer") != settings.oidc_issuer:
        raise ValueError("the provider calls itself otherwise than oidc_issuer")
    by = "id_token_signing_alg_values_supported"
    metadata[by] = [name for name in metadata.get(by) or () if name[:2] in PUBLIC_KEY]
    return client


def _role(settings: Settings, values: Any) -> Role | None:
    """Return the highest role that the claim's values give."""
    given = values if isinstance(values, list) else [values]
    roles = [settings.oidc_roles[value] for value in given if value in settings.oidc_roles]
    return max(roles, key=ROLES.index, default=None)
