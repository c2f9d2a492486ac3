"""`endonode users` and `endonode tokens`: who may look at the page and ask the API."""

import getpass
import sys
from typing import Annotated

import typer

from node.cli.opening import Config, open_configured
from node.roles import SCOPES, Role

users_app = typer.Typer(help="Add, list or disable users; set their role or password.")
tokens_app = typer.Typer(help="Add, list or revoke the tokens of programs that ask the API.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
RoleOption = Annotated[Role, typer.Option("--role", help="Each may do what those before it may.")]
FromInput = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input's first line.")
]


def _actor() -> str:
    return f"os:{getpass.getuser()}"


def _password(*, from_input: bool) -> str:
    if from_input:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@users_app.command("add")
def add(name: Name, role: RoleOption, *, password_stdin: FromInput = False, config: Config = None) -> None:
    """Add a user."""
    from node.users import add_user

    with open_configured(config) as node:
        add_user(node, name, role, _password(from_input=password_stdin), actor=_actor())
        typer.echo(f"user {name}: added as {role}")


@users_app.command("list")
def list_(config: Config = None) -> None:
    """Show every user, role and state."""
    from node.users import list_users

    with open_configured(config) as node:
        for user in list_users(node):
            state = "disabled" if user.disabled_at else "may log in"
            typer.echo(f"{user.name}\t{user.role}\t{state}")


@users_app.command()
def disable(
    name: Name,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Let the user in again.")] = False,
    config: Config = None,
) -> None:
    """Shut a user out at once."""
    from node.users import set_disabled

    with open_configured(config) as node:
        set_disabled(node, name, is_disabled=not undo, actor=_actor())
        typer.echo(f"user {name}: {'may log in again' if undo else 'disabled'}")


@users_app.command("role")
def role_(name: Name, role: Annotated[Role, typer.Argument(metavar="ROLE")], config: Config = None) -> None:
    """Give a user another role: viewer, reviewer or administrator."""
    from node.users import set_role

    with open_configured(config) as node:
        set_role(node, name, role, actor=_actor())
        typer.echo(f"user {name}: now {role}")


@users_app.command("password")
def password_(name: Name, *, password_stdin: FromInput = False, config: Config = None) -> None:
    """Set a user's password and end the user's sessions."""
    from node.users import set_password

    with open_configured(config) as node:
        set_password(node, name, _password(from_input=password_stdin), actor=_actor())
        typer.echo(f"user {name}: password set")


@tokens_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the audit trail will call it.")],
    user: Annotated[str, typer.Option("--user", help="The user in whose name it acts.")],
    scope: Annotated[list[str], typer.Option("--scope", help=f"One or more of: {', '.join(SCOPES)}.")],
    days: Annotated[int | None, typer.Option(min=1, help="Days after which it expires.")] = None,
    config: Config = None,
) -> None:
    """Make a token and print it, this once."""
    from node.tokens import add_token

    with open_configured(config) as node:
        typer.echo(add_token(node, name, user=user, scopes=tuple(scope), days=days, actor=_actor()))


@tokens_app.command("list")
def token_list(config: Config = None) -> None:
    """Show every token: name, user, scopes, state."""
    from node.tokens import list_tokens

    with open_configured(config) as node:
        for token, user in list_tokens(node):
            ends = f"until {token.expires_at:%Y-%m-%d}" if token.expires_at else "in force"
            state = "revoked" if token.revoked_at else ends
            typer.echo(f"{token.name}\t{user}\t{','.join(token.scopes)}\t{state}")


@tokens_app.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `tokens list` shows it.")],
    config: Config = None,
) -> None:
    """Make a token worthless at once."""
    from node.tokens import revoke_token

    with open_configured(config) as node:
        revoke_token(node, name, actor=_actor())
        typer.echo(f"token {name}: revoked")
