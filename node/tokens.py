"""The tokens of programs: what each may ask, in whose name, and until when."""

import datetime as dt
import secrets

from sqlalchemy import select

from db.audit import record
from db.engine import utc_now
from db.tables import ApiTokenRow, UserRow
from node.errors import NodeError, NotFoundError
from node.house import Node
from node.passwords import sha256_of
from node.roles import SCOPES, Visitor, role_of
from node.users import user_of


def add_token(
    node: Node, name: str, *, user: str, scopes: tuple[str, ...], days: int | None, actor: str
) -> str:
    """Make a token that acts in a user's name; return it: only its digest is kept."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise NodeError(f"token {name}: scopes of {', '.join(SCOPES)} were expected, {unknown} found")
    token, now = f"endonode_{secrets.token_urlsafe(32)}", utc_now()
    with node.database.writing() as session:
        if session.scalar(select(ApiTokenRow.id).where(ApiTokenRow.name == name)) is not None:
            raise NodeError(f"token {name}: exists already, in force or revoked; choose another name")
        row = ApiTokenRow(
            name=name, token_sha256=sha256_of(token), user_id=user_of(session, user).id, scopes=list(scopes),
            created_at=now, expires_at=now + dt.timedelta(days=days) if days else None,
        )  # fmt: skip
        session.add(row)
        session.flush()
        record(session, "token_added", str(row.id), actor=actor, scopes=list(scopes))
    return token


def list_tokens(node: Node) -> list[tuple[ApiTokenRow, str]]:
    """Return every token with its user's name, revoked ones too."""
    query = select(ApiTokenRow, UserRow.name).join(UserRow, ApiTokenRow.user_id == UserRow.id)
    with node.database.reading() as session:
        return [(token, name) for token, name in session.execute(query.order_by(ApiTokenRow.name))]


def revoke_token(node: Node, name: str, *, actor: str) -> None:
    """Make a token worthless from the next request on."""
    with node.database.writing() as session:
        row = session.scalars(select(ApiTokenRow).where(ApiTokenRow.name == name)).first()
        if row is None:
            raise NotFoundError(f"token {name}: not known; see `endonode tokens list`")
        row.revoked_at = row.revoked_at or utc_now()
        record(session, "token_revoked", str(row.id), actor=actor)


def visitor_of_token(node: Node, token: str) -> Visitor | None:
    """Return in whose name a token in force acts, and within which scopes."""
    query = select(ApiTokenRow, UserRow).join(UserRow, ApiTokenRow.user_id == UserRow.id)
    with node.database.reading() as session:
        found = session.execute(query.where(ApiTokenRow.token_sha256 == sha256_of(token))).first()
    if found is None:
        return None
    row, user = found
    is_over = row.expires_at is not None and row.expires_at <= utc_now()
    if row.revoked_at is not None or is_over or user.disabled_at is not None:
        return None
    return Visitor(user.id, user.name, role_of(user.role), f"token:{row.name}", frozenset(row.scopes))
