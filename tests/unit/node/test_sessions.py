"""Sessions opened for whom a provider vouches."""

import pytest
from sqlalchemy import select

from db.tables import AuditEventRow, UserRow, WebSessionRow
from node.house import Node
from node.roles import Role
from node.sessions import LoginRefusedError, log_in_by_provider, visitor_of_session
from node.users import set_disabled


def enter(node: Node, subject: str, name: str, role: Role | None = "viewer") -> tuple[str, str]:
    visitor = visitor_of_session(
        node, log_in_by_provider(node, subject, name, role, address="::1"), is_used=True
    )
    assert visitor is not None
    return visitor.name, visitor.role


def test_a_role_follows_the_providers_and_a_name_stays(node: Node) -> None:
    assert enter(node, "iss 1", "anna", "administrator") == ("anna", "administrator")
    assert enter(node, "iss 1", "anna.new", "viewer") == ("anna", "viewer")
    assert enter(node, "iss 2", "bert") == ("bert", "viewer")
    with node.database.reading() as session:
        changed = session.scalars(
            select(AuditEventRow).where(AuditEventRow.event == "user_role_changed")
        ).all()
        assert [(row.actor, row.detail["role"]) for row in changed] == [("anna", "viewer")]
        assert all(row.password_hash is None for row in session.scalars(select(UserRow)))


@pytest.mark.parametrize(
    ("subject", "name", "role", "reason"),
    [
        ("iss 1", "anna", None, "role"),
        ("iss 2", "anna", "viewer", "name"),
        ("iss 2", "", "viewer", "name"),
        ("iss 2", " anna", "viewer", "name"),
        ("iss 2", "a\x00b", "viewer", "name"),
        ("iss 2", "a" * 65, "viewer", "name"),
        ("iss 3", "carl", "viewer", "disabled"),
    ],
)
def test_who_does_not_get_in_is_kept_with_the_reason(
    node: Node, subject: str, name: str, role: Role | None, reason: str
) -> None:
    enter(node, "iss 1", "anna")
    enter(node, "iss 3", "carl")
    set_disabled(node, "carl", is_disabled=True, actor="os:test")
    with pytest.raises(LoginRefusedError, match="ask whoever runs this node"):
        log_in_by_provider(node, subject, name, role, address="::1")
    with node.database.reading() as session:
        failed = session.scalars(
            select(AuditEventRow).where(AuditEventRow.event == "user_login_failed")
        ).one()
        assert (failed.detail["reason"], failed.detail["address"]) == (reason, "::1")
        assert failed.actor == {"iss 1": "anna", "iss 3": "carl"}.get(subject, "")
        assert len(session.scalars(select(WebSessionRow)).all()) == 1
