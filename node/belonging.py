"""Whose an object is: the exam its headers put it in, and what contradicts the study's patient."""

import datetime as dt

from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import Session

from db.tables import ExamRow, InstanceRow, PatientRow
from node.house import Node

Exams = list[tuple[ExamRow, PatientRow | None]]
"""A study's newest revisions, each with its patient."""

_LATEST_EXAMS = (
    select(ExamRow, PatientRow)
    .outerjoin(PatientRow, ExamRow.patient_row_id == PatientRow.id)
    .where(ExamRow.study_instance_uid == bindparam("study"), ExamRow.superseded_by.is_(None))
    .order_by(ExamRow.opened_at)
)
"""Built once: every stored object asks it while its sender waits."""


def issuer_of(node: Node, row: InstanceRow) -> str:
    """Return the issuer that names a new exam's patient; the peer's default fills in, never contradicts."""
    peer = node.settings.peer(row.calling_ae_title)
    return row.issuer_of_patient_id or (peer.default_issuer if peer else "")


def latest_exams(session: Session, study_instance_uid: str) -> Exams:
    """Return a study's newest revisions with their patients, oldest first."""
    rows = session.execute(_LATEST_EXAMS, {"study": study_instance_uid})
    return [(exam, patient) for exam, patient in rows]


def patient_conflict(session: Session, node: Node, row: InstanceRow, latest: Exams) -> str | None:
    """Return why this object's patient contradicts the study's, or None; absent values contradict nothing."""
    if not row.patient_id:
        return None
    known = {patient.patient_id for _, patient in latest if patient}
    if known:
        if row.patient_id not in known:
            return "patient_id_conflict"
        return None if exam_of(session, row, issuer_of(node, row), latest) else "issuer_conflict"
    others = session.scalars(
        select(InstanceRow.patient_id)
        .where(
            InstanceRow.study_instance_uid == row.study_instance_uid,
            InstanceRow.disposition == "kept",
            InstanceRow.patient_id.not_in(("", row.patient_id)),
        )
        .limit(1)
    ).first()
    return "patient_id_conflict" if others else None


def exam_of(session: Session, row: InstanceRow, issuer: str, latest: Exams) -> ExamRow | None:
    """Return the newest revision that an object belongs to, one of the same issuer first.

    An absent issuer matches any. An object without a Patient ID belongs to the exam of nobody, or to the one
    that a person has moved the study to.
    """
    if not row.patient_id:
        nameless = [exam for exam, patient in latest if patient is None]
        if not nameless and len(latest) == 1 and _was_moved(session, latest[0][0]):
            return latest[0][0]
        return nameless[0] if nameless else None
    same = [(exam, patient) for exam, patient in latest if patient and patient.patient_id == row.patient_id]
    for exam, patient in sorted(same, key=lambda pair: pair[1].issuer_of_patient_id != issuer):
        if not row.issuer_of_patient_id or patient.issuer_of_patient_id == row.issuer_of_patient_id:
            return exam
        stated = _stated_issuers(session, exam, row.patient_id)
        if not stated or row.issuer_of_patient_id in stated:
            return exam
    return None


def _was_moved(session: Session, exam: ExamRow) -> bool:
    """Tell whether the study's only newest exam stands in for one under another patient."""
    under_another = exists().where(
        ExamRow.study_instance_uid == exam.study_instance_uid, ExamRow.exam_key != exam.exam_key
    )
    return bool(session.scalar(select(under_another)))


def _stated_issuers(session: Session, exam: ExamRow, patient_id: str) -> set[str]:
    stated = select(InstanceRow.issuer_of_patient_id).where(
        InstanceRow.exam_key == exam.exam_key,
        InstanceRow.disposition == "accepted",
        InstanceRow.patient_id == patient_id,
        InstanceRow.issuer_of_patient_id != "",
    )
    return set(session.scalars(stated.distinct()))


def patient_row(session: Session, patient_id: str, issuer: str, now: dt.datetime) -> int | None:
    """Return the patient's row id, made on first sight; None for an empty Patient ID, which links nothing."""
    if not patient_id:
        return None
    found = session.scalars(
        select(PatientRow.id).where(
            PatientRow.patient_id == patient_id, PatientRow.issuer_of_patient_id == issuer
        )
    ).first()
    if found is not None:
        return found
    patient = PatientRow(patient_id=patient_id, issuer_of_patient_id=issuer, created_at=now)
    session.add(patient)
    session.flush()
    return patient.id
