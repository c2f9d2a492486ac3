"""What users and programs may do."""

from dataclasses import dataclass
from typing import Literal, get_args

from node.errors import NodeError

Role = Literal["viewer", "reviewer", "administrator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

SCOPES = ("predictions", "quality")
"""What a program's token may be limited to: to ask for predictions, and for figures over them."""


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


def role_of(word: str) -> Role:
    """Return the role of that name."""
    for known in ROLES:
        if word == known:
            return known
    raise NodeError(f"role: one of {', '.join(ROLES)} was expected, {word!r} was found")
