"""The page as one application, and the process that serves it."""

import warnings

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from node.errors import NodeError, NotFoundError, SettingsError
from node.house import Node
from node.settings import Settings
from node.web import administration, api, events, exam, login, operations, pictures, reviewing, worklist
from node.web.pages import FOLDER, environment, render
from node.web.security import Headers, LoggedOutError, ask_to_log_in, guard, is_secure

STOP_S = 5

SAID = {
    400: "This was not understood.",
    403: "You may not do this.",
    404: "This is not here.",
    405: "This is not done so.",
    422: "This was not understood.",
    500: "Something went wrong on our side.",
}


def make_app(node: Node) -> FastAPI:
    """Return the application; every route stands behind the guard."""
    app = FastAPI(
        title="endonode", openapi_url=None, docs_url=None, redoc_url=None, dependencies=[Depends(guard)]
    )
    app.state.node = node
    app.state.templates = environment(node.settings)
    app.state.metrics = operations.registry(node)
    for part in (operations, login, worklist, events, exam, pictures, reviewing, administration, api):
        app.include_router(part.router)
    app.include_router(api.shown)
    if node.settings.oidc_issuer:
        _join_provider(app, node.settings)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    app.add_exception_handler(LoggedOutError, ask_to_log_in)
    app.add_exception_handler(HTTPException, _say)
    app.add_exception_handler(RequestValidationError, _say)
    app.add_exception_handler(NodeError, _say)
    app.add_exception_handler(Exception, _say)
    app.add_middleware(Headers, is_secure=is_secure(node.settings))
    return app


def run_page(node: Node) -> None:
    """Serve until told to stop. Nothing of a request is logged: a search holds whom it is for."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    settings = node.settings
    uvicorn.run(
        make_app(node),
        host=settings.http_bind,
        port=settings.http_port,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_S,
    )


def _join_provider(app: FastAPI, settings: Settings) -> None:
    try:
        from node.web import oidc  # late: an extra, for those alone who have a provider
    except ImportError as error:
        raise SettingsError(
            f"oidc_issuer: the extra oidc was expected, {error.name} was not found; "
            "`pip install endonode[oidc]`, or unset it"
        ) from error
    oidc.join(app, settings)


def _say(request: Request, error: Exception) -> Response:
    """Answer an error: a page for a browser, JSON for a program; never what was sent, never a traceback."""
    status, detail, headers = 500, "", None
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail) if error.status_code == 403 else ""  # noqa: PLR2004
        headers = error.headers
    elif isinstance(error, NodeError):
        status, detail = 404 if isinstance(error, NotFoundError) else 422, str(error)
    elif isinstance(error, RequestValidationError):
        status = 422
    said = SAID.get(status, SAID[500])
    if "text/html" not in request.headers.get("accept", "") and not request.headers.get("hx-request"):
        return JSONResponse({"detail": detail or said}, status, headers)
    return render(request, "error.html", status=status, said=said, detail=detail)
