"""The key of the chain: a file that only the node reads, never in the database."""

import contextlib
import os
import re
import secrets
from pathlib import Path

from node.errors import NodeError
from node.settings import Settings

KEY_BYTES = 32
"""As long as the digest (RFC 2104, section 3)."""


def key_path(settings: Settings) -> Path:
    """Return where the key lies."""
    return settings.audit_key or settings.storage_dir / "audit.key"


def head_path(settings: Settings) -> Path:
    """Return where the chain's heads are written down."""
    return settings.audit_head or settings.storage_dir / "audit.head"


def read_key(path: Path) -> bytes:
    """Return the key.

    Raises
    ------
    NodeError
        It is not there, cannot be read, or is no key.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise NodeError(f"audit_key {path}: not there; restore it, or correct audit_key") from error
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"audit_key {path}: cannot be read by this account: {error}") from error
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise NodeError(f"audit_key {path}: {2 * KEY_BYTES} hexadecimal digits were expected; restore it")
    return bytes.fromhex(text)


def make_key(path: Path) -> None:
    """Make a key that only this account may read; one made by another process at that moment is kept."""
    staged = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(KEY_BYTES).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(staged, path)
        staged.unlink()
    except OSError as error:
        raise NodeError(f"audit_key {path}: cannot be made: {error.strerror}; correct audit_key") from error
