"""Logging in and out."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from node.house import Node
from node.sessions import LoginRefusedError, ThrottledError, log_in, log_out
from node.web.pages import render
from node.web.security import NO_NUL, TheNode, TheVisitor, address_of, cookie_name, is_secure

router = APIRouter()


@router.get("/login")
def show(request: Request, next: str = "/") -> Response:  # noqa: A002 - what the address calls it
    """Show the form."""
    return render(request, "login.html", next=own_path(next), error="")


@router.post("/login")
def enter(
    request: Request,
    node: TheNode,
    name: Annotated[str, Form(max_length=64, pattern=NO_NUL)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form(max_length=256)] = "/",  # noqa: A002
) -> Response:
    """Open a session, or say no more than that it was not opened."""
    try:
        token = log_in(node, name, password, address=address_of(request))
    except LoginRefusedError as error:
        status = 429 if isinstance(error, ThrottledError) else 401
        return refuse(request, str(error), status=status, following=own_path(next))
    return keep(RedirectResponse(own_path(next), 303), node, token)


@router.post("/logout")
def leave(request: Request, node: TheNode, visitor: TheVisitor) -> Response:
    """End the session."""
    name = cookie_name(node.settings)
    log_out(node, request.cookies.get(name, ""), visitor)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(name, path="/", secure=is_secure(node.settings), httponly=True, samesite="strict")
    return answer


def keep(answer: Response, node: Node, token: str) -> Response:
    """Have the browser keep its session's token."""
    answer.set_cookie(
        cookie_name(node.settings), token, path="/", secure=is_secure(node.settings), httponly=True,
        samesite="strict", max_age=int(node.settings.session_absolute_s),
    )  # fmt: skip
    return answer


def refuse(request: Request, error: str, *, status: int, following: str = "/") -> Response:
    """Show the form once more, and why."""
    return render(request, "login.html", status=status, next=following, error=error)


def own_path(path: str) -> str:
    """Return a path on this very page; anything else leads to its beginning."""
    is_own = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_own else "/"
