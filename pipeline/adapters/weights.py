"""Weights that an operator provides: read once, and only where they are the ones that were named."""

import hashlib
from pathlib import Path

from pipeline.clean.fill import InpainterError


def read_weights(path: Path, *, sha256: str) -> bytes:
    """Return a file's bytes if they have this digest; nothing is ever downloaded.

    Raises
    ------
    InpainterError
        The file cannot be read, or is another one.
    """
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise InpainterError(
            f"{path}: an inpainter's weights were expected, it cannot be read: {error.strerror}"
        ) from error
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256.lower():
        raise InpainterError(f"{path}: weights with SHA-256 {sha256} were expected, {found} was found")
    return weights
