"""What users and programs may do, as words."""

from typing import Literal, get_args

Role = Literal["viewer", "reviewer", "administrator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

SCOPES = ("predictions", "quality")
"""What a program's token may be limited to: to ask for predictions, and for figures over them."""
