"""A process of the node keeps the trail while it runs: it links, writes the head down, and tells others."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from db.audit import record
from db.engine import utc_now
from db.errors import DatabaseError
from db.tables import AuditLinkRow
from node.audit.chain import Head
from node.audit.configuration import record_settings
from node.audit.forwarding import Forwarder
from node.audit.head import append_head, last_head
from node.audit.key import head_path, key_path, make_key, read_key
from node.audit.receptions import tell_silent_receptions
from node.audit.sequencer import Sequencer
from node.audit.verify import HEAD_EVERY
from node.errors import NodeError
from node.house import Node

log = structlog.get_logger()

LINK_EVERY_S = 0.4
"""An event is linked within a second, with time to spare for the linking."""
AFTER_FAILURE_S = 5.0

FAILURES = (SQLAlchemyError, DatabaseError, OSError)


class Keeper:
    """Links events over and over, and once a minute sees to the head and to associations that died."""

    def __init__(self, node: Node, key: bytes) -> None:
        self._node = node
        self._head_path = head_path(node.settings)
        written = last_head(self._head_path)
        self._sequencer = Sequencer(node.database, key, written.head if written else Head())
        self._minute = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Go on until told to stop; what is pending then is linked, and the head written down."""
        while not stop.is_set():
            try:
                self._sequencer.link_pending()
                if time.monotonic() - self._minute >= HEAD_EVERY.total_seconds():
                    self._minute = time.monotonic()
                    tell_silent_receptions(self._node.database)
                    self._write_head()
            except FAILURES as error:
                log.error("audit_not_chained", error=type(error).__name__)  # noqa: TRY400 - told, not traced
                stop.wait(AFTER_FAILURE_S)
            except Exception as error:  # noqa: BLE001 - outermost: it must not end unseen
                log.critical("audit_broken", error=type(error).__name__)
                stop.wait(AFTER_FAILURE_S)
            stop.wait(LINK_EVERY_S)
        try:
            self._sequencer.link_pending()
            self._write_head()
        except Exception as error:  # noqa: BLE001 - outermost: the next start does it
            log.error("audit_not_chained", error=type(error).__name__)  # noqa: TRY400 - told, not traced

    def _write_head(self) -> None:
        if self._sequencer.head.seq:
            append_head(self._head_path, self._sequencer.head, utc_now())


@contextmanager
def keeping_trail(node: Node, part: str) -> Iterator[None]:
    """Keep the trail while a process of the node runs; its start and its stop are events.

    Raises
    ------
    NodeError
        The key is gone though events were linked with it, or the key or the head cannot be kept.
    """
    key = _key(node)
    settings = node.settings
    stop = threading.Event()
    said: dict[str, Any] = {"part": part, "host": socket.gethostname(), "pid": os.getpid()}
    try:
        keeper = Keeper(node, key)
        forwarder = Forwarder(node, head_path(settings)) if settings.syslog_host else None
    except OSError as error:
        raise NodeError(f"audit_head {head_path(settings)}: {error.strerror}; correct audit_head") from error
    with node.database.writing() as session:
        record(session, "node_started", node.installation_id, version=version("endonode"), **said)
        record_settings(session, settings, key)
    threads = [threading.Thread(target=keeper.run, args=(stop,), name="audit", daemon=True)]
    if forwarder is not None:
        threads.append(threading.Thread(target=forwarder.run, args=(stop,), name="syslog", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        with suppress(*FAILURES), node.database.writing() as session:
            record(session, "node_stopped", node.installation_id, **said)
        stop.set()
        for thread in threads:
            thread.join()
        if forwarder is not None:
            forwarder.close()


def _key(node: Node) -> bytes:
    path = key_path(node.settings)
    if not path.exists():
        with node.database.reading() as session:
            is_first = session.scalars(select(AuditLinkRow.seq).limit(1)).first() is None
        if not is_first:
            raise NodeError(
                f"audit_key {path}: not there, though the audit trail was linked with it; restore it"
            )
        make_key(path)
    return read_key(path)
