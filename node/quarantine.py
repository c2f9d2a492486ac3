"""What contradicted what was there: listed, accepted or discarded by a person, and studies moved."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import ExamRow, InstanceRow
from node.belonging import patient_row
from node.errors import NodeError, NotFoundError
from node.exams import (
    attach,
    exam_key,
    flag_conflicts,
    in_force,
    is_endoscopy,
    open_revision,
    put_in_force,
    supersede,
)
from node.house import Node
from node.purge import is_held_elsewhere

PATIENT_ID_LENGTH = 64
"""PS3.5 6.2: an LO has at most 64 characters."""


def list_quarantined(node: Node) -> list[dict[str, Any]]:
    """Return each quarantined object: its id, why, where it belongs and what it contradicts."""
    with node.database.reading() as session:
        rows = session.scalars(
            select(InstanceRow).where(InstanceRow.disposition == "quarantined").order_by(InstanceRow.id)
        )
        return [
            {
                "instance_id": row.id,
                "reason": row.disposition_reason,
                "patient_id": row.patient_id,
                "study_uid": row.study_instance_uid,
                "series_uid": row.series_instance_uid,
                "sop_instance_uid": row.sop_instance_uid,
                "contradicts": row.same_as_id,
                "calling_ae_title": row.calling_ae_title,
                "received_at": row.received_at.isoformat(),
            }
            for row in rows
        ]


def accept(node: Node, instance_id: int) -> str | None:
    """Put a quarantined object in force; the one of its UID that was takes its place in quarantine.

    Returns the id of the exam that is read next: the object's own patient's, in a new revision; or, where it
    is not endoscopy, that of the image it replaces; None where there is neither.
    """
    with node.database.writing() as session:
        row, studies = _locked(session, node, instance_id)
        replaced = in_force(session, row.sop_instance_uid)
        exam_id = None
        if replaced is not None:
            _set_aside(session, replaced, row)
            if replaced.exam_key is not None:
                exam_id = _next_revision(session, node, replaced.exam_key)
        put_in_force(node, row)
        if row.disposition == "accepted":
            exam_id = attach(session, node, row, utc_now()).id
        for uid in studies:
            flag_conflicts(session, uid)
        record(session, "quarantine_accepted", str(row.id), exam=exam_id)
        return exam_id


def discard(node: Node, instance_id: int) -> None:
    """Set a quarantined object aside for good; its bytes are purged where nothing else holds them."""
    with node.database.writing() as session:
        row, studies = _locked(session, node, instance_id)
        row.disposition, row.purged_at = "discarded", utc_now()
        for uid in studies:
            flag_conflicts(session, uid)
        if not is_held_elsewhere(session, row):
            node.files.purge(row.sha256)
        record(session, "quarantine_discarded", str(row.id), sha256=row.sha256)


def move_study(node: Node, study_instance_uid: str, patient_id: str) -> list[str]:
    """Move a study's exams to another Patient ID after a correction: one new revision under it.

    What is quarantined only for naming that patient is accepted with it, and replaces what it corrects; where
    the study has no exam yet, it makes one. Returns the new exam's id.
    """
    if not 0 < len(patient_id.strip()) <= PATIENT_ID_LENGTH or "\\" in patient_id:
        raise NodeError("a Patient ID has 1-64 characters and no backslash (PS3.5 6.2, LO); correct --to")
    patient_id = patient_id.strip()
    with node.database.writing() as session:
        node.database.lock_study(session, study_instance_uid)
        exams = session.scalars(
            select(ExamRow).where(
                ExamRow.study_instance_uid == study_instance_uid, ExamRow.superseded_by.is_(None)
            )
        ).all()
        waiting = _waiting(session, study_instance_uid, patient_id)
        images = [
            row for row in waiting if is_endoscopy(row.sop_class_uid, row.modality, node.settings.endoscopy)
        ]
        if not exams and not images:
            raise NotFoundError(f"study {study_instance_uid}: no exam has it; see `endonode exams`")
        key = exam_key(patient_id, "", study_instance_uid)
        last = max(exams, key=lambda exam: exam.revision, default=None)
        issuers = {row.issuer_of_patient_id for row in images} - {""}
        issuer = issuers.pop() if len(issuers) == 1 else ""
        moved = open_revision(
            session, node, key=key, previous=last,
            patient=patient_row(session, patient_id, issuer, utc_now()),
            study_instance_uid=study_instance_uid,
            accession_number=last.accession_number if last else images[0].accession_number,
            study_date="" if last else images[0].study_date,
            device_model="" if last else images[0].device_model,
            peer_ae_title=last.peer_ae_title if last else images[0].calling_ae_title,
            quiet_s=node.settings.quiet_time_s,
        )  # fmt: skip
        for exam in exams:
            if exam is not last:
                supersede(session, exam, moved)
        session.execute(
            update(InstanceRow)
            .where(
                InstanceRow.exam_key.in_({exam.exam_key for exam in exams}),
                InstanceRow.disposition == "accepted",
            )
            .values(exam_key=key, first_revision=moved.revision)
        )
        for row in waiting:
            replaced = in_force(session, row.sop_instance_uid)
            if replaced is not None:
                if not _corrects(row, replaced):
                    continue
                _set_aside(session, replaced, row)
            put_in_force(node, row)
            if row.disposition == "accepted":
                row.exam_key, row.first_revision = key, moved.revision
        flag_conflicts(session, study_instance_uid)
        patients = {exam.patient_row_id for exam in exams}
        record(
            session, "study_moved", moved.id,
            exams=[exam.id for exam in exams],
            from_patients=[patient for patient in patients if patient is not None],
            to_patient=moved.patient_row_id,
        )  # fmt: skip
        return [moved.id]


def _waiting(session: Session, study_instance_uid: str, patient_id: str) -> Sequence[InstanceRow]:
    """Return what is quarantined only because it names that patient."""
    reasons = ("patient_id_conflict", "issuer_conflict", "other_patient_id")
    return session.scalars(
        select(InstanceRow)
        .where(
            InstanceRow.study_instance_uid == study_instance_uid,
            InstanceRow.patient_id == patient_id,
            InstanceRow.disposition == "quarantined",
            InstanceRow.disposition_reason.in_(reasons),
        )
        .order_by(InstanceRow.id)
    ).all()


def _corrects(row: InstanceRow, replaced: InstanceRow) -> bool:
    """Tell whether it is the object in force once more, under the Patient ID that is now right."""
    return (
        row.disposition_reason == "other_patient_id"
        and replaced.study_instance_uid == row.study_instance_uid
        and replaced.patient_id != row.patient_id
    )


def _set_aside(session: Session, replaced: InstanceRow, row: InstanceRow) -> None:
    """Quarantine what `row` replaces; flushed, since only one object of a UID may be in force."""
    replaced.disposition, replaced.disposition_reason = "quarantined", "replaced"
    replaced.same_as_id = row.id
    session.flush()


def _next_revision(session: Session, node: Node, key: str) -> str:
    """Read an exam again without what was just taken from it."""
    latest = session.scalars(
        select(ExamRow).where(ExamRow.exam_key == key, ExamRow.superseded_by.is_(None))
    ).one()
    if latest.state == "receiving":
        return latest.id
    following = open_revision(
        session, node, key=key, previous=latest, patient=latest.patient_row_id,
        study_instance_uid=latest.study_instance_uid,
        accession_number=latest.accession_number,
        peer_ae_title=latest.peer_ae_title,
        quiet_s=node.settings.quiet_time_s,
    )  # fmt: skip
    return following.id


def _locked(session: Session, node: Node, instance_id: int) -> tuple[InstanceRow, list[str]]:
    """Return a quarantined object, and the studies that have to do with it: locked, always in one order."""
    row = session.get(InstanceRow, instance_id)
    studies: list[str] = []
    if row is not None:
        contradicted = session.get(InstanceRow, row.same_as_id) if row.same_as_id else None
        others = (row, contradicted, in_force(session, row.sop_instance_uid))
        studies = sorted({other.study_instance_uid for other in others if other is not None})
        for uid in studies:
            node.database.lock_study(session, uid)
        session.refresh(row)
    if row is None or row.disposition != "quarantined":
        raise NotFoundError(f"instance {instance_id}: not in quarantine; see `endonode quarantine list`")
    return row, studies
