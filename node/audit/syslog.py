"""Syslog over TCP or TLS: RFC 5424 messages in frames with their length (RFC 6587 3.4.1, RFC 5425 4.3)."""

import contextlib
import datetime as dt
import socket
import ssl
from types import TracebackType
from typing import Self

from node.settings import Settings

PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice), as PS3.15 A.6 has it for audit messages (RFC 5424 6.2.1)."""

AUDIT_MESSAGE = "DICOM+RFC3881"
"""MSGID of a message of PS3.15 A.5."""

TIMEOUT_S = 10.0
"""A receiver that takes no byte for so long is a dead one."""

BOM = b"\xef\xbb\xbf"
"""RFC 5424 6.4: what follows is UTF-8."""


def syslog_message(text: bytes, *, message_id: str, at: dt.datetime, host: str) -> bytes:
    """Return an RFC 5424 message without structured data."""
    stamp = at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"<{PRIORITY}>1 {stamp} {host} endonode - {message_id} - ".encode("ascii", "replace") + BOM + text


class Connection:
    """A connection to the receiver; whatever goes wrong is an `OSError`.

    The receiver acknowledges nothing: what it took and then lost is lost. That it has closed is seen before
    the next message is given to it.
    """

    def __init__(self, settings: Settings) -> None:
        plain = socket.create_connection((settings.syslog_host, settings.syslog_port), timeout=TIMEOUT_S)
        self._socket = plain
        if settings.syslog_transport == "tls":
            try:
                context = ssl.create_default_context(cafile=settings.syslog_ca)
                self._socket = context.wrap_socket(plain, server_hostname=settings.syslog_host)
            except OSError:
                plain.close()
                raise

    def send(self, message: bytes) -> None:
        """Hand a message over in one frame."""
        self._refuse_if_closed()
        self._socket.sendall(f"{len(message)} ".encode() + message)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_if_closed(self) -> None:
        self._socket.settimeout(0)
        try:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                if not self._socket.recv(1):
                    raise ConnectionResetError("the receiver has closed the connection")
        finally:
            self._socket.settimeout(TIMEOUT_S)
