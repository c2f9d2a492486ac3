"""Secrets as they are kept: passwords by argon2id, tokens by their digest."""

import hashlib
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from node.errors import NodeError

LEAST, MOST = 12, 256
"""Characters; NIST SP 800-63B-4 3.1.1.2 asks for 15 where nothing else stands beside it, 8 at least."""

_hasher = PasswordHasher()  # RFC 9106's second choice: 64 MiB, 3 passes
_turns = threading.BoundedSemaphore(2)
"""At most two passwords are verified at once: each takes 64 MiB."""
_nobody: list[str] = []


def sha256_of(secret: str) -> str:
    """Return the digest under which a secret of ours is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hash_password(password: str) -> str:
    """Return what is kept of a password."""
    if not LEAST <= len(password) <= MOST:
        raise NodeError(f"password: {LEAST} to {MOST} characters were expected")
    return _hasher.hash(password)


def is_right(password: str, hashed: str | None) -> bool:
    """Tell whether it is the password; where there is none to compare with, after the same work."""
    with _turns:
        if not _nobody:
            _nobody.append(_hasher.hash(secrets.token_urlsafe(32)))
        try:
            _hasher.verify(hashed or _nobody[0], password[: MOST + 1])
        except (VerificationError, InvalidHashError):
            return False
        return hashed is not None
