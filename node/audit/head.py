"""The chain's head, written down outside of the database: what was cut off there is missed here."""

import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.audit.chain import Head

LINE_BYTES = 1024
"""No line is longer."""


@dataclass(frozen=True, slots=True)
class WrittenHead:
    """One line: the head, and when it was written (ISO 8601)."""

    head: Head
    at: str


def parse_head(line: bytes) -> WrittenHead | None:
    """Return what a line says; None where it is not one of ours."""
    try:
        said = json.loads(line)
        return WrittenHead(Head(int(said["seq"]), str(said["mac"])), str(said["at"]))
    except (ValueError, KeyError, TypeError):
        return None


def read_heads(path: Path) -> Iterator[WrittenHead | None]:
    """Yield what each line says, oldest first; nothing where there is no file."""
    if path.exists():
        with path.open("rb") as file:
            yield from map(parse_head, file)


def last_head(path: Path) -> WrittenHead | None:
    """Return the newest line, without reading the rest."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LINE_BYTES))
        lines = file.read().splitlines()
    return parse_head(lines[-1]) if lines else None


def append_head(path: Path, head: Head, now: dt.datetime) -> None:
    """Write the head down, durably, unless it or a later one stands there; processes may share the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        newest = last_head(path)
        if newest is not None and newest.head.seq >= head.seq:
            return
        line = json.dumps({"seq": head.seq, "mac": head.mac, "at": now.isoformat()}) + "\n"
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
