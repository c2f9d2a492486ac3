"""Users and tokens as an administrator sees them; passwords are set on the command line alone."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from node.roles import ROLES, Role
from node.tokens import list_tokens, revoke_token
from node.users import list_users, set_disabled, set_role
from node.web.pages import render
from node.web.security import NO_NUL, TheNode, TheVisitor, needs

router = APIRouter(dependencies=[Depends(needs("administrator"))])


@router.get("/users")
def show(request: Request, node: TheNode) -> Response:
    """Show who may log in, and which programs may ask."""
    return render(request, "users.html", users=list_users(node), tokens=list_tokens(node), roles=ROLES)


@router.post("/users")
def change(
    node: TheNode,
    visitor: TheVisitor,
    name: Annotated[str, Form(max_length=64)],
    role: Annotated[Role, Form()],
    login: Annotated[Literal["yes", "no"], Form()],
) -> Response:
    """Give a user a role, and let the user in or not; nobody shuts out themselves."""
    if name == visitor.name:
        raise HTTPException(403, "another administrator must change you")
    before = next((user for user in list_users(node) if user.name == name), None)
    if before is None:
        raise HTTPException(404)
    if before.role != role:
        set_role(node, name, role, actor=visitor.actor)
    if (before.disabled_at is None) != (login == "yes"):
        set_disabled(node, name, is_disabled=login == "no", actor=visitor.actor)
    return RedirectResponse("/users", 303)


@router.post("/tokens/revoke")
def revoke(
    node: TheNode, visitor: TheVisitor, name: Annotated[str, Form(max_length=64, pattern=NO_NUL)]
) -> Response:
    """Make a token worthless."""
    revoke_token(node, name, actor=visitor.actor)
    return RedirectResponse("/users", 303)
