"""Users: who may log in, and as what."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import UserRow, WebSessionRow
from node.errors import NodeError, NotFoundError
from node.house import Node
from node.passwords import hash_password
from node.roles import Role, role_of

LONGEST_NAME = 64
"""As its column has it."""


def add_user(node: Node, name: str, role: Role, password: str, *, actor: str) -> None:
    """Add a user; the name is what the audit trail will show."""
    if not is_name(name):
        raise NodeError(f"user {name!r}: a printable name of 1-{LONGEST_NAME} characters was expected")
    hashed = hash_password(password)
    with node.database.writing() as session:
        if session.scalar(select(UserRow.id).where(UserRow.name == name)) is not None:
            raise NodeError(f"user {name}: exists already; choose another name, or set its role or password")
        user = UserRow(name=name, role=role_of(role), password_hash=hashed, created_at=utc_now())
        session.add(user)
        session.flush()
        record(session, "user_added", str(user.id), actor=actor, role=role)


def is_name(name: str) -> bool:
    """Tell whether a user may be called so."""
    return bool(name.strip()) and name == name.strip() and len(name) <= LONGEST_NAME and name.isprintable()


def list_users(node: Node) -> list[UserRow]:
    """Return every user, by name."""
    with node.database.reading() as session:
        return list(session.scalars(select(UserRow).order_by(UserRow.name)))


def set_role(node: Node, name: str, role: Role, *, actor: str) -> None:
    """Give a user another role; it counts from the next request on."""
    with node.database.writing() as session:
        user = _own(session, name)
        user.role = role_of(role)
        record(session, "user_role_changed", str(user.id), actor=actor, role=role)


def set_disabled(node: Node, name: str, *, is_disabled: bool, actor: str) -> None:
    """Shut a user out, sessions and tokens with it, or let one in again."""
    with node.database.writing() as session:
        user = user_of(session, name)
        user.disabled_at = utc_now() if is_disabled else None
        _end_sessions(session, user)
        record(session, "user_disabled" if is_disabled else "user_enabled", str(user.id), actor=actor)


def set_password(node: Node, name: str, password: str, *, actor: str) -> None:
    """Set a user's password; whoever is logged in by the old one is so no longer."""
    hashed = hash_password(password)
    with node.database.writing() as session:
        user = _own(session, name)
        user.password_hash = hashed
        _end_sessions(session, user)
        record(session, "user_password_changed", str(user.id), actor=actor)


def user_of(session: Session, name: str) -> UserRow:
    """Return the user of that name."""
    user = session.scalars(select(UserRow).where(UserRow.name == name)).first()
    if user is None:
        raise NotFoundError(f"user {name}: not known; see `endonode users list`")
    return user


def _own(session: Session, name: str) -> UserRow:
    user = user_of(session, name)
    if user.oidc_subject is not None:
        raise NodeError(f"user {name}: logs in by OpenID Connect; set role and password at the provider")
    return user


def _end_sessions(session: Session, user: UserRow) -> None:
    session.execute(delete(WebSessionRow).where(WebSessionRow.user_id == user.id))
