"""The one way in for a received object: checked, durable, admitted; then, and only then, the peer is told."""

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from db.audit import caused_by
from db.engine import utc_now
from db.errors import DatabaseError
from db.tables import ArrivalRow
from node.audit.receptions import tell_reception
from node.dicom.header import Header, read_header
from node.dicom.walk import DOES_NOT_MATCH
from node.errors import ReceivedObjectError, StorageError
from node.exams import admit
from node.files import StoredFile, storage_error
from node.house import Node
from node.next_object import OpenExams

log = structlog.get_logger()

FORGOTTEN_AFTER = dt.timedelta(hours=1)
"""An arrival not beaten for so long is a dead receiver's; it has held nothing open for long."""


@dataclass(frozen=True, slots=True)
class Received:
    """A file in staging, and what the C-STORE request said of it.

    Attributes
    ----------
    sha256
        Of the file's bytes (hex).
    until_durable
        Returns once the file has been synced to the disk; raises `StorageError` where it cannot be.
    association
        Token of the association that brought it.
    """

    staged: Path
    sha256: str
    until_durable: Callable[[], None]
    sop_class_uid: str
    sop_instance_uid: str
    calling_ae_title: str
    association: str


class Inbox:
    """Keeps what is received, and says what is still on its way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open_exams = OpenExams()
        self._beaten: set[str] = set()
        self._bringing: set[str] = set()

    def keep(self, received: Received) -> None:
        """Check an object and keep it; on return its file and its row are durable.

        Raises
        ------
        ReceivedObjectError
            It is not what it should be, and is not kept.
        StorageFullError
            There is no room for it.
        StorageError
            File store or database failed; the sender should try again.
        """
        try:
            header = read_header(received.staged, max_inflated_bytes=self._node.settings.max_inflated_bytes)
        except OSError as error:
            raise storage_error(error, "a received file cannot be read") from error
        if header.sop_instance_uid != received.sop_instance_uid:
            raise ReceivedObjectError("SOP Instance UID differs from the command's", status=DOES_NOT_MATCH)
        if header.sop_class_uid != received.sop_class_uid:
            raise ReceivedObjectError("SOP Class UID differs from the command's", status=DOES_NOT_MATCH)
        received.until_durable()
        stored = self._node.files.keep(received.staged, received.sha256)
        try:
            with suppress(IntegrityError):  # another study brought the same patient or UID at that instant
                return self._admit(header, stored, received)
            self._admit(header, stored, received)
        except (SQLAlchemyError, DatabaseError) as error:
            raise StorageError(f"the database failed: {type(error).__name__}") from error

    def _admit(self, header: Header, stored: StoredFile, received: Received) -> None:
        calling = received.calling_ae_title
        with self._node.database.writing() as session:
            caused_by(session, f"ae:{calling}")
            disposition = admit(
                session, self._node, header, stored,
                calling_ae_title=calling, open_exams=self._open_exams, reception=received.association,
            )  # fmt: skip
        self._bringing.add(received.association)
        log.info(
            "instance_received",
            sop_instance_uid=header.sop_instance_uid, study_instance_uid=header.study_instance_uid,
            sha256=stored.sha256, size_bytes=stored.size_bytes,
            disposition=disposition, calling_ae_title=calling,
        )  # fmt: skip

    def end_reception(self, association: str) -> None:
        """Record what an association has brought, now that it has ended."""
        if association not in self._bringing:
            return
        self._bringing.discard(association)
        try:
            tell_reception(self._node.database, association)
        except (SQLAlchemyError, DatabaseError) as error:
            log.warning("reception_not_recorded", error=type(error).__name__)

    def beat(self, arriving: Mapping[str, str]) -> None:
        """Say which objects (token -> Study Instance UID) are still arriving: their exams stay open.

        Called over and over by one thread; what is named no longer has arrived, or never will.
        """
        gone = self._beaten - arriving.keys()
        if not arriving and not gone:
            return
        now = utc_now()
        try:
            with self._node.database.writing() as session:
                session.execute(
                    delete(ArrivalRow).where(
                        ArrivalRow.token.in_(gone) | (ArrivalRow.beat_at < now - FORGOTTEN_AFTER)
                    )
                )
                for token, study_instance_uid in arriving.items():
                    session.merge(ArrivalRow(token=token, study_instance_uid=study_instance_uid, beat_at=now))
        except (SQLAlchemyError, DatabaseError) as error:
            log.warning("arrivals_not_recorded", error=type(error).__name__)
            return
        self._beaten = set(arriving)
