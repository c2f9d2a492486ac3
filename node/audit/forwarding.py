"""What is told to a syslog receiver: the chain is the spool, and a file says how far it has been sent.

Nothing waits for the receiver. Where it takes nothing for so long that more than `syslog_spool` events wait,
the oldest are given up, and that is an event.
"""

import fcntl
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.errors import DatabaseError
from db.tables import AuditEventRow, AuditLinkRow, ExamRow, InstanceRow, PatientRow, ResultObjectRow
from node.audit.chain import EVENT, Facts, facts
from node.audit.head import WrittenHead, last_head
from node.audit.messages import Subject, audit_message
from node.audit.syslog import AUDIT_MESSAGE, Connection, syslog_message
from node.house import Node

log = structlog.get_logger()

HEAD_MESSAGE = "endonode-head"
"""MSGID of a message that holds the head of the chain, as JSON."""

BATCH = 100
LOOK_EVERY_S = 1.0
PASSING = (OSError, SQLAlchemyError, DatabaseError)
WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""After failures in a row; the last one repeats."""
SENT_BYTES = 64
"""The file that says how far it was sent is always of this length, and overwritten in place."""


class Forwarder:
    """Sends what is linked, in order; of all processes on one `audit_head`, the one that locked its file."""

    def __init__(self, node: Node, head_path: Path) -> None:
        self._node = node
        self._head_path = head_path
        self._host = socket.gethostname()
        self._sent = os.open(head_path.with_name(f"{head_path.name}.sent"), os.O_RDWR | os.O_CREAT, 0o640)
        self._connection: Connection | None = None
        self._seq = self._head_seq = 0
        if not os.fstat(self._sent).st_size:
            self._seq = self._newest()  # what happened before there was a receiver is not for it
            self._save()

    def run(self, stop: threading.Event) -> None:
        """Send until told to stop."""
        failures = 0
        while not self._claims():
            if stop.wait(LOOK_EVERY_S):
                return
        while not stop.is_set():
            try:
                is_behind = self.forward()
            except Exception as error:  # noqa: BLE001 - outermost: it must not end unseen
                if not isinstance(error, PASSING):
                    log.critical("syslog_broken", error=type(error).__name__)
                elif not failures:
                    log.warning("syslog_not_reached", error=type(error).__name__)
                self._disconnect()
                stop.wait(WAITS_S[min(failures, len(WAITS_S) - 1)])
                failures += 1
            else:
                if failures:
                    log.info("syslog_reached")
                failures = 0
                if not is_behind:
                    stop.wait(LOOK_EVERY_S)

    def close(self) -> None:
        """Close connection and file; another process may go on."""
        self._disconnect()
        os.close(self._sent)

    def forward(self) -> bool:
        """Send the next events and a new head; tell whether there is more to send at once."""
        self._give_up_excess()
        with self._node.database.reading() as session:
            rows = session.execute(
                select(AuditLinkRow.seq, *EVENT)
                .join(AuditEventRow, AuditEventRow.id == AuditLinkRow.event_id)
                .where(AuditLinkRow.seq > self._seq)
                .order_by(AuditLinkRow.seq)
                .limit(BATCH)
            ).all()
            messages = [(row.seq, self._message(session, row.seq, facts(row))) for row in rows]
        try:
            for seq, message in messages:
                if message is not None:
                    self._send(message)
                self._seq = seq
            written = last_head(self._head_path)
            if written is not None and written.head.seq > self._head_seq:
                self._send(self._head_message(written))
                self._head_seq = written.head.seq
        finally:
            self._save()
        return len(rows) == BATCH

    def _message(self, session: Session, seq: int, event: Facts) -> bytes | None:
        ae_title = self._node.settings.ae_title
        try:
            text = audit_message(event, _subject(session, event), ae_title=ae_title, host=self._host)
        except PASSING:
            raise
        except Exception as error:  # noqa: BLE001 - an altered event is no reason to tell of no other
            log.critical("audit_message_not_made", link=seq, error=type(error).__name__)
            return None
        if text is None:
            return None
        return syslog_message(text, message_id=AUDIT_MESSAGE, at=event["at"], host=self._host)

    def _head_message(self, written: WrittenHead) -> bytes:
        said = {"seq": written.head.seq, "mac": written.head.mac, "at": written.at}
        text = json.dumps(said).encode()
        return syslog_message(text, message_id=HEAD_MESSAGE, at=utc_now(), host=self._host)

    def _send(self, message: bytes) -> None:
        if self._connection is None:
            self._connection = Connection(self._node.settings)
        self._connection.send(message)

    def _give_up_excess(self) -> None:
        newest, spool = self._newest(), self._node.settings.syslog_spool
        first, last = self._seq + 1, newest - spool
        if first > last:
            return
        with self._node.database.writing() as session:
            record(session, "audit_messages_lost", "syslog", first_link=first, last_link=last)
        log.error("audit_messages_lost", first_link=first, last_link=last)
        self._seq = last
        self._save()

    def _newest(self) -> int:
        with self._node.database.reading() as session:
            return session.scalar(select(func.max(AuditLinkRow.seq))) or 0

    def _claims(self) -> bool:
        """Tell whether it is this process that sends; the kernel frees the lock of one that died."""
        try:
            fcntl.flock(self._sent, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        said = json.loads(os.pread(self._sent, SENT_BYTES, 0))
        self._seq, self._head_seq = int(said["seq"]), int(said["head"])
        return True

    def _save(self) -> None:
        said = json.dumps({"seq": self._seq, "head": self._head_seq})
        os.pwrite(self._sent, said.ljust(SENT_BYTES).encode(), 0)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _subject(session: Session, event: Facts) -> Subject:
    """Return the study, patient and objects that an event is about."""
    if event["event"] == "study_received":
        first = session.get(InstanceRow, event["detail"]["instances"][0][0])
        patient = first.patient_id if first is not None else ""
        return Subject(event["subject_id"], patient, event["detail"]["sop_classes"])
    if event["event"] in ("quarantine_accepted", "quarantine_discarded"):
        row = session.get(InstanceRow, int(event["subject_id"]))
        return Subject(row.study_instance_uid, row.patient_id, {row.sop_class_uid: 1}) if row else Subject()
    exam = session.get(ExamRow, event["subject_id"])
    if exam is None:
        return Subject()
    person = session.get(PatientRow, exam.patient_row_id) if exam.patient_row_id else None
    patient = person.patient_id if person else ""
    if "sop_classes" in event["detail"]:
        return Subject(exam.study_instance_uid, patient, event["detail"]["sop_classes"])
    sent: Iterable[str] = ()
    if event["event"] in ("exam_delivering", "result_delivered"):
        sent = session.scalars(
            select(ResultObjectRow.sop_class_uid).where(ResultObjectRow.exam_id == exam.id)
        )
    return Subject(exam.study_instance_uid, patient, Counter(sent))
