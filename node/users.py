"""Users, their browsers' sessions and their programs' tokens: what may be done, and by whom."""

import datetime as dt
import hashlib
import secrets
import threading
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import ApiTokenRow, LoginFailureRow, UserRow, WebSessionRow
from node.errors import NodeError, NotFoundError
from node.house import Node
from node.roles import ROLES, SCOPES, Role

LEAST_PASSWORD, MOST_PASSWORD = 12, 256
"""Characters; NIST SP 800-63B-4 3.1.1.2 asks for 15 where nothing else stands beside it, 8 at least."""

FAILURES_COUNT_FOR = dt.timedelta(minutes=15)
MOST_FAILURES_OF_NAME, MOST_FAILURES_OF_ADDRESS = 5, 30
SEEN_EVERY = dt.timedelta(seconds=30)
"""How exactly a session's last use is known: a row is not written at each request."""

_hasher = PasswordHasher()  # RFC 9106's second choice: 64 MiB, 3 passes
_turns = threading.BoundedSemaphore(2)
"""At most two passwords are verified at once: each takes 64 MiB."""
_nobody: list[str] = []


class LoginRefusedError(NodeError):
    """The name is not known, the user disabled or the password wrong; which of them is never said."""


class ThrottledError(LoginRefusedError):
    """Too many logins have failed for this name or from this address."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: a user, by a browser's session or by a token.

    Attributes
    ----------
    actor
        As the audit trail names who acts.
    scopes
        None for a browser, which may all that its role may.
    """

    user_id: int
    name: str
    role: Role
    actor: str
    scopes: frozenset[str] | None = None

    def is_at_least(self, role: Role) -> bool:
        """Tell whether the user has this role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def sha256_of(secret: str) -> str:
    """Return the digest under which a secret of ours is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add_user(node: Node, name: str, role: Role, password: str, *, actor: str) -> None:
    """Add a user; the name is what the audit trail will show."""
    if not name.strip() or name != name.strip() or len(name) > 64 or not name.isprintable():  # noqa: PLR2004 - its column
        raise NodeError(f"user {name!r}: a printable name of 1-64 characters was expected")
    hashed = _hash(password)
    with node.database.writing() as session:
        if session.scalar(select(UserRow.id).where(UserRow.name == name)) is not None:
            raise NodeError(f"user {name}: exists already; choose another name, or set its role or password")
        user = UserRow(name=name, role=_role(role), password_hash=hashed, created_at=utc_now())
        session.add(user)
        session.flush()
        record(session, "user_added", str(user.id), actor=actor, role=role)


def list_users(node: Node) -> list[UserRow]:
    """Return every user, by name."""
    with node.database.reading() as session:
        return list(session.scalars(select(UserRow).order_by(UserRow.name)))


def set_role(node: Node, name: str, role: Role, *, actor: str) -> None:
    """Give a user another role; it counts from the next request on."""
    with node.database.writing() as session:
        user = _user(session, name)
        user.role = _role(role)
        record(session, "user_role_changed", str(user.id), actor=actor, role=role)


def set_disabled(node: Node, name: str, *, is_disabled: bool, actor: str) -> None:
    """Shut a user out, sessions and tokens with it, or let one in again."""
    with node.database.writing() as session:
        user = _user(session, name)
        user.disabled_at = utc_now() if is_disabled else None
        _end_sessions(session, user)
        record(session, "user_disabled" if is_disabled else "user_enabled", str(user.id), actor=actor)


def set_password(node: Node, name: str, password: str, *, actor: str) -> None:
    """Set a user's password; whoever is logged in by the old one is so no longer."""
    hashed = _hash(password)
    with node.database.writing() as session:
        user = _user(session, name)
        user.password_hash = hashed
        _end_sessions(session, user)
        record(session, "user_password_changed", str(user.id), actor=actor)


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
    with node.database.reading() as session:
        since = utc_now() - FAILURES_COUNT_FOR
        for which, value, most in (
            (LoginFailureRow.name_sha256, tried, MOST_FAILURES_OF_NAME),
            (LoginFailureRow.address, address, MOST_FAILURES_OF_ADDRESS),
        ):
            failed = select(func.count()).where(which == value, LoginFailureRow.at > since)
            if (session.scalar(failed) or 0) >= most:
                raise ThrottledError("too many logins have failed; wait a quarter of an hour, then try again")
        user = session.scalars(select(UserRow).where(UserRow.name == name)).first()
    is_right = _is_right(user, password)
    now = utc_now()
    with node.database.writing() as session:
        session.execute(delete(LoginFailureRow).where(LoginFailureRow.at < now - dt.timedelta(days=1)))
        oldest = now - dt.timedelta(seconds=node.settings.session_absolute_s)
        session.execute(delete(WebSessionRow).where(WebSessionRow.created_at < oldest))
        if user is not None and is_right:
            token = secrets.token_urlsafe(32)
            session.execute(delete(LoginFailureRow).where(LoginFailureRow.name_sha256 == tried))
            session.add(
                WebSessionRow(token_sha256=sha256_of(token), user_id=user.id, created_at=now, seen_at=now)
            )
            record(session, "user_logged_in", str(user.id), actor=user.name, address=address)
            return token
        session.add(LoginFailureRow(name_sha256=tried, address=address[:45], at=now))
        # What was typed as a name may be a password: it is not kept.
        subject = str(user.id) if user else "unknown"
        record(session, "user_login_failed", subject, actor=user.name if user else "", address=address)
    raise LoginRefusedError("the name or the password is not right")


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
    return Visitor(user.id, user.name, _role(user.role), actor=user.name)


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
            name=name, token_sha256=sha256_of(token), user_id=_user(session, user).id, scopes=list(scopes),
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
    return Visitor(user.id, user.name, _role(user.role), f"token:{row.name}", frozenset(row.scopes))


def _user(session: Session, name: str) -> UserRow:
    user = session.scalars(select(UserRow).where(UserRow.name == name)).first()
    if user is None:
        raise NotFoundError(f"user {name}: not known; see `endonode users list`")
    return user


def _role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise NodeError(f"role: one of {', '.join(ROLES)} was expected, {role!r} was found")


def _end_sessions(session: Session, user: UserRow) -> None:
    session.execute(delete(WebSessionRow).where(WebSessionRow.user_id == user.id))


def _hash(password: str) -> str:
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise NodeError(f"password: {LEAST_PASSWORD} to {MOST_PASSWORD} characters were expected")
    return _hasher.hash(password)


def _is_right(user: UserRow | None, password: str) -> bool:
    with _turns:
        if not _nobody:
            _nobody.append(_hasher.hash(secrets.token_urlsafe(32)))
        is_open = user is not None and user.password_hash is not None and user.disabled_at is None
        hashed = user.password_hash if user is not None and is_open else None
        try:
            _hasher.verify(hashed or _nobody[0], password[: MOST_PASSWORD + 1])
        except (VerificationError, InvalidHashError):
            return False
        return is_open
