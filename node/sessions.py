"""Logins and the sessions of browsers that they open: by password, or vouched for by a provider."""

import datetime as dt
import secrets

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import LoginFailureRow, UserRow, WebSessionRow
from node.errors import NodeError
from node.house import Node
from node.passwords import is_right, sha256_of
from node.roles import Role, Visitor, role_of
from node.users import is_name

FAILURES_COUNT_FOR = dt.timedelta(minutes=15)
MOST_FAILURES_OF_NAME, MOST_FAILURES_OF_ADDRESS = 5, 30
SEEN_EVERY = dt.timedelta(seconds=30)
"""How exactly a session's last use is known: a row is not written at each request."""


class LoginRefusedError(NodeError):
    """A login was refused; by password it is never said whether the name is known or the user disabled."""


class ThrottledError(LoginRefusedError):
    """Too many logins have failed for this name or from this address."""


def log_in(node: Node, name: str, password: str, *, address: str) -> str:
    """Check a password and open a session; return its token, which is kept nowhere else.

    The work is the same whether or not the name is known.

    Raises
    ------
    LoginRefusedError
        What was given does not fit.
    ThrottledError
        Too many have failed; it was not even tried.
    """
    tried = sha256_of(name)
    refuse_throttled(node, address=address, tried=tried)
    with node.database.reading() as session:
        user = session.scalars(select(UserRow).where(UserRow.name == name)).first()
    is_open = is_right(password, user.password_hash if user and user.disabled_at is None else None)
    with node.database.writing() as session:
        if user is not None and is_open:
            session.execute(delete(LoginFailureRow).where(LoginFailureRow.name_sha256 == tried))
            return _open(session, node, user, address=address)
        # What was typed as a name may be a password: it is not kept.
        known, actor = (str(user.id), user.name) if user else ("unknown", "")
        _fail(session, known, actor=actor, address=address, tried=tried)
    raise LoginRefusedError("the name or the password is not right")


def log_in_by_provider(node: Node, subject: str, name: str, role: Role | None, *, address: str) -> str:
    """Open a session for whom a provider vouches; return its token.

    At the first login the user is made. A role changes with the provider's; a name stays that of the first
    login, and nobody gets another's, be that a user of our own or one of the provider's.

    Raises
    ------
    LoginRefusedError
        The provider gives no role, the name is another's or none, or the user is disabled.
    """
    kept = sha256_of(subject)
    with node.database.writing() as session:
        user = session.scalars(select(UserRow).where(UserRow.oidc_subject == kept)).first()
        is_free = is_name(name) and session.scalar(select(UserRow.id).where(UserRow.name == name)) is None
        if role is None:
            reason, said = "role", "your account has no role here"
        elif user is None and not is_free:
            reason, said = "name", "your name is another user's here, or none that could be shown"
        elif user is not None and user.disabled_at is not None:
            reason, said = "disabled", "you may not log in here"
        else:
            if user is None:
                user = UserRow(name=name, role=role, oidc_subject=kept, created_at=utc_now())
                session.add(user)
                session.flush()
                record(session, "user_added", str(user.id), actor=name, role=role)
            elif user.role != role:
                user.role = role
                record(session, "user_role_changed", str(user.id), actor=user.name, role=role)
            return _open(session, node, user, address=address)
        known = str(user.id) if user else "unknown"
        _fail(session, known, actor=user.name if user else "", address=address, reason=reason)
    raise LoginRefusedError(f"{said}; ask whoever runs this node")


def fail_login_by_provider(node: Node, reason: str, *, address: str) -> None:
    """Keep that a login by a provider failed before anybody was named."""
    with node.database.writing() as session:
        _fail(session, "unknown", address=address, reason=reason)


def refuse_throttled(node: Node, *, address: str, tried: str = "") -> None:
    """Raise `ThrottledError` where too many logins have failed, of a name or from an address."""
    since = utc_now() - FAILURES_COUNT_FOR
    counted: list[tuple[ColumnElement[bool], int]] = [
        (LoginFailureRow.address == address, MOST_FAILURES_OF_ADDRESS)
    ]
    if tried:
        counted.append((LoginFailureRow.name_sha256 == tried, MOST_FAILURES_OF_NAME))
    with node.database.reading() as session:
        for of, most in counted:
            failed = select(func.count()).where(of, LoginFailureRow.at > since)
            if (session.scalar(failed) or 0) >= most:
                raise ThrottledError("too many logins have failed; wait a quarter of an hour, then try again")


def log_out(node: Node, token: str, visitor: Visitor) -> None:
    """End a session."""
    with node.database.writing() as session:
        session.execute(delete(WebSessionRow).where(WebSessionRow.token_sha256 == sha256_of(token)))
        record(session, "user_logged_out", str(visitor.user_id), actor=visitor.actor)


def visitor_of_session(node: Node, token: str, *, is_used: bool) -> Visitor | None:
    """Return whose session this is, if it is neither idle nor old for too long; `is_used` prolongs it."""
    now, settings = utc_now(), node.settings
    with node.database.reading() as session:
        query = select(WebSessionRow, UserRow).join(UserRow, WebSessionRow.user_id == UserRow.id)
        found = session.execute(query.where(WebSessionRow.token_sha256 == sha256_of(token))).first()
    if found is None:
        return None
    row, user = found
    if (
        user.disabled_at is not None
        or now - row.seen_at > dt.timedelta(seconds=settings.session_idle_s)
        or now - row.created_at > dt.timedelta(seconds=settings.session_absolute_s)
    ):
        return None
    if is_used and now - row.seen_at > min(SEEN_EVERY, dt.timedelta(seconds=settings.session_idle_s / 4)):
        with node.database.writing() as session:
            current = session.get(WebSessionRow, row.token_sha256)
            if current is not None:
                current.seen_at = now
    return Visitor(user.id, user.name, role_of(user.role), actor=user.name)


def _open(session: Session, node: Node, user: UserRow, *, address: str) -> str:
    now, token = utc_now(), secrets.token_urlsafe(32)
    oldest = now - dt.timedelta(seconds=node.settings.session_absolute_s)
    session.execute(delete(WebSessionRow).where(WebSessionRow.created_at < oldest))
    session.add(WebSessionRow(token_sha256=sha256_of(token), user_id=user.id, created_at=now, seen_at=now))
    record(session, "user_logged_in", str(user.id), actor=user.name, address=address)
    return token


def _fail(
    session: Session, user: str, *, address: str, actor: str = "", tried: str = "", reason: str = "password"
) -> None:
    now = utc_now()
    session.execute(delete(LoginFailureRow).where(LoginFailureRow.at < now - dt.timedelta(days=1)))
    session.add(LoginFailureRow(name_sha256=tried, address=address[:45], at=now))
    record(session, "user_login_failed", user, actor=actor, address=address, reason=reason)
