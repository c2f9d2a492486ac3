"""Pixels of delivered exams are purged after `keep_days`; nothing unread, unsent or quarantined ever is."""

import datetime as dt
from collections.abc import Sequence

import structlog
from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session, aliased

from db.audit import record
from db.engine import utc_now
from db.tables import ExamRow, InstanceRow
from node.house import Node
from node.picture_cache import PictureCache

log = structlog.get_logger()


def purge_delivered(node: Node) -> int:
    """Purge what is due; returns how many objects went.

    The row stays, with `purged_at`. The bytes go inside the transaction, so that no store of the same bytes
    can slip in between; after a crash before its commit the next purge finds them gone and marks the row.
    """
    if not node.settings.keep_days:
        return 0
    before = utc_now() - dt.timedelta(days=node.settings.keep_days)
    due = select(ExamRow).where(
        ExamRow.superseded_by.is_(None), ExamRow.state == "delivered", ExamRow.delivered_at < before
    )
    with node.database.reading() as session:
        exams = session.scalars(due).all()
    return sum(_purge_exam(node, exam.exam_key, exam.study_instance_uid, due) for exam in exams)


def _purge_exam(node: Node, key: str, study_instance_uid: str, due: Select[ExamRow]) -> int:
    with node.database.writing() as session:
        node.database.lock_study(session, study_instance_uid)
        newest = session.scalars(due.where(ExamRow.exam_key == key)).first()
        if newest is None:  # a late image came, or it was moved, since it was found
            return 0
        rows = _unpurged(session, key)
        now = utc_now()
        for row in rows:
            row.purged_at = now
            session.flush()
            if not is_held_elsewhere(session, row):
                node.files.purge(row.sha256)
            record(session, "instance_purged", str(row.id), sha256=row.sha256, exam=newest.id)
        revisions = session.scalars(select(ExamRow.id).where(ExamRow.exam_key == key))
        PictureCache(node.settings).drop(revisions)
        if rows:
            record(session, "study_purged", newest.id, instances=len(rows))
            log.info("exam_purged", exam_id=newest.id, instances=len(rows))
        return len(rows)


def _unpurged(session: Session, key: str) -> Sequence[InstanceRow]:
    """Return an exam's images, and what was settled as the same picture as one of them."""
    images = select(InstanceRow.id).where(InstanceRow.exam_key == key, InstanceRow.disposition == "accepted")
    copies = and_(
        InstanceRow.same_as_id.in_(images), InstanceRow.disposition.in_(("duplicate", "header_revision"))
    )
    return session.scalars(
        select(InstanceRow)
        .where(or_(InstanceRow.id.in_(images), copies), InstanceRow.purged_at.is_(None))
        .order_by(InstanceRow.id)
    ).all()


def is_held_elsewhere(session: Session, row: InstanceRow) -> bool:
    """Tell whether another row still needs these bytes; a byte-equal duplicate does not."""
    other = aliased(InstanceRow)
    held = select(other.id).where(
        other.sha256 == row.sha256,
        other.id != row.id,
        other.purged_at.is_(None),
        other.disposition != "duplicate",
    )
    return session.execute(held.limit(1)).first() is not None
