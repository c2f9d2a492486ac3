"""What a peer reports of a storage commitment is written down, and only then answered with success."""

import structlog
from pydicom.uid import UID
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import CommitmentRow, DeliveredObjectRow, DeliveryRow, ResultObjectRow
from node.dicom.commitment import CommitmentReport
from node.house import Node

log = structlog.get_logger()

UNKNOWN_TRANSACTION = 0x0115
"""Invalid argument value (PS3.7 annex C.5.10)."""

SENT_AGAIN = frozenset({0x0110, 0x0112, 0x0213})
"""Failure Reasons (PS3.3 C.14.1.1) that may pass: processing failure, no such object, no resources."""
MOST_RESENDS = 3


def take_report(node: Node, report: CommitmentReport, ae_title: str) -> int:
    """Make the report of the peer that was asked durable; return the status of its answer.

    What is committed stays so. A failure counts only in answer to the newest request: what an older one
    missed may have been sent again since. A report may come twice, and after everybody has given up.
    """
    with node.database.writing() as session:
        actor, uid = f"ae:{ae_title}", report.transaction_uid
        request = session.get(CommitmentRow, uid)
        delivery = None if request is None else _locked(session, request.delivery_id)
        if request is None or delivery is None or delivery.peer_ae_title != ae_title:
            record(session, "commitment_unknown", uid if UID(uid).is_valid else "", actor=actor)
            log.warning("commitment_unknown", peer=ae_title)
            return UNKNOWN_TRANSACTION
        request.answered_at = request.answered_at or utc_now()
        newest = select(func.max(CommitmentRow.asked_at)).where(CommitmentRow.delivery_id == delivery.id)
        is_newest = request.asked_at == session.scalar(newest)
        for sop_instance_uid, row in _asked_about(session, request):
            if sop_instance_uid in report.committed:
                row.state, row.failure_reason = "committed", None
            elif sop_instance_uid in report.failed and is_newest and row.state != "committed":
                row.failure_reason = report.failed[sop_instance_uid]
                is_passing = row.failure_reason in SENT_AGAIN and row.resends < MOST_RESENDS
                row.state = "resend" if is_passing else "refused"
        record(
            session, "commitment_reported", delivery.exam_id, actor=actor, transaction_uid=uid,
            committed=len(report.committed),
            failed={name: f"0x{reason:04X}" for name, reason in report.failed.items()},
        )  # fmt: skip
        if delivery.state == "unconfirmed":
            delivery.state = "committing"
            node.jobs.enqueue(session, "commit", str(delivery.id))
        elif delivery.state == "committing":
            node.jobs.hasten(session, "commit", str(delivery.id))
        return 0x0000


def _locked(session: Session, delivery_id: int) -> DeliveryRow:
    return session.get_one(DeliveryRow, delivery_id, with_for_update=True, populate_existing=True)


def _asked_about(session: Session, request: CommitmentRow) -> list[tuple[str, DeliveredObjectRow]]:
    rows = session.execute(
        select(ResultObjectRow.sop_instance_uid, DeliveredObjectRow)
        .join(ResultObjectRow, DeliveredObjectRow.result_object_id == ResultObjectRow.id)
        .where(
            DeliveredObjectRow.delivery_id == request.delivery_id, ResultObjectRow.id.in_(request.object_ids)
        )
    )
    return [(uid, row) for uid, row in rows]
