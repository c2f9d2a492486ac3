"""Instances become exams: admission inside the store's own transaction, and revisions."""

import datetime as dt
import hashlib
import secrets

from sqlalchemy import bindparam, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from db.audit import record
from db.engine import utc_now
from db.tables import DeliveryRow, ExamRow, InstanceRow, ModelPackageRow, ResultObjectRow
from db.tables.exams import IN_PROGRESS
from node.belonging import Exams, exam_of, issuer_of, latest_exams, patient_conflict, patient_row
from node.dicom.header import Header
from node.errors import ReceivedObjectError
from node.files import StoredFile
from node.house import Node
from node.next_object import OpenExams
from node.results.uids import device_uid
from node.settings import EndoscopyRule

IN_FORCE = ("accepted", "kept")


_OF_HEADER = (
    "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "study_instance_uid", "series_instance_uid",
    "patient_id", "issuer_of_patient_id", "accession_number", "study_date", "device_model", "modality",
)  # fmt: skip
"""Columns of an instance that its header fills."""

# Every stored object asks these while its sender waits: built once, they cost half.
_EMITTED = (
    select(ResultObjectRow.id)
    .where(
        or_(
            ResultObjectRow.sop_instance_uid.in_(bindparam("uids", expanding=True)),
            ResultObjectRow.series_instance_uid == bindparam("series"),
        )
    )
    .limit(1)
)
_EARLIER_COPIES = (
    select(InstanceRow)
    .where(
        InstanceRow.sop_instance_uid == bindparam("uid"),
        InstanceRow.disposition.in_((*IN_FORCE, "quarantined", "pending", "header_revision")),
    )
    .order_by(InstanceRow.id)
)


def exam_key(patient_id: str, issuer_of_patient_id: str, study_instance_uid: str) -> str:
    """Return the SHA-256 (hex) that stands for one patient's exam; an empty Patient ID names nobody."""
    issuer = issuer_of_patient_id if patient_id else ""
    return hashlib.sha256(f"{patient_id}\x1f{issuer}\x1f{study_instance_uid}".encode()).hexdigest()


def is_endoscopy(sop_class_uid: str, modality: str, rule: EndoscopyRule) -> bool:
    """Tell whether an object is read: by class alone, or by class and modality (some comes as SC, ES)."""
    by_modality = sop_class_uid in rule.sop_classes_by_modality and modality in rule.modalities
    return sop_class_uid in rule.sop_classes or by_modality


def admit(
    session: Session,
    node: Node,
    header: Header,
    stored: StoredFile,
    *,
    calling_ae_title: str,
    open_exams: OpenExams,
    reception: str | None = None,
) -> str:
    """Record one durable object and give it its place: exam, quarantine, or the comparison queue.

    Runs inside the store's transaction, so it reads no pixels: what needs decoding is left to a job. Returns
    the row's disposition.
    """
    node.database.lock_study(session, header.study_instance_uid)
    if not node.files.path(stored.sha256).is_file():
        raise ReceivedObjectError("its bytes were purged while it was stored; send it again", status=0xA700)
    now = utc_now()
    values = {name: getattr(header, name) for name in _OF_HEADER} | {
        "sha256": stored.sha256, "size_bytes": stored.size_bytes,
        "calling_ae_title": calling_ae_title, "received_at": now, "reception": reception,
    }  # fmt: skip
    refers_to_others = header.source_uids or header.equipment_uids
    if not refers_to_others and open_exams.admit_next(session, node.settings, values):
        return "accepted"
    row = InstanceRow(**values, disposition="kept")
    is_ours = _is_ours(session, node, header)
    earlier = list(session.scalars(_EARLIER_COPIES, {"uid": header.sop_instance_uid}))
    session.add(row)
    same_bytes = next((copy for copy in earlier if copy.sha256 == stored.sha256), None)
    in_force = next((copy for copy in earlier if copy.disposition in IN_FORCE), None)
    if is_ours:
        row.disposition, row.disposition_reason = "own", "emitted_here"
    elif same_bytes is not None:
        row.disposition, row.same_as_id = "duplicate", same_bytes.id
        same_bytes.purged_at = None  # its bytes are back, until they are purged once more
    elif in_force is not None:
        row.disposition, row.same_as_id = "pending", in_force.id
        session.flush()
        node.jobs.enqueue(session, "compare", str(row.id))
    else:
        with session.no_autoflush:  # one INSERT at the end, in place of an early one and an UPDATE
            place(session, node, row, now)
        open_exams.remember(values, row)
    return row.disposition


def place(session: Session, node: Node, row: InstanceRow, now: dt.datetime) -> None:
    """Give an instance with a new UID its exam, or quarantine it for whose it claims to be."""
    latest = latest_exams(session, row.study_instance_uid)
    conflict = patient_conflict(session, node, row, latest)
    if conflict is not None:
        row.disposition, row.disposition_reason = "quarantined", conflict
        flag_conflicts(session, row.study_instance_uid)
        record(session, "instance_quarantined", str(row.id), reason=conflict)
        return
    put_in_force(node, row)
    if row.disposition == "accepted":
        _attach(session, node, row, now, latest)


def put_in_force(node: Node, row: InstanceRow) -> None:
    """Accept an image; what is not endoscopy is kept, and never read."""
    if is_endoscopy(row.sop_class_uid, row.modality, node.settings.endoscopy):
        row.disposition, row.disposition_reason = "accepted", None
    else:
        row.disposition, row.disposition_reason = "kept", "not_endoscopy"
    row.same_as_id = None


def flag_conflicts(session: Session, study_instance_uid: str) -> None:
    """Let a study's newest exams say whether anything in quarantine is of it, or contradicts it."""
    session.flush()
    session.execute(
        update(ExamRow)
        .where(ExamRow.study_instance_uid == study_instance_uid, ExamRow.superseded_by.is_(None))
        .values(has_conflict=_is_contradicted(session, study_instance_uid))
    )


def _is_contradicted(session: Session, study_instance_uid: str) -> bool:
    first = aliased(InstanceRow)
    of_study = (row.study_instance_uid == study_instance_uid for row in (InstanceRow, first))
    quarantined = (
        select(InstanceRow.id)
        .outerjoin(first, InstanceRow.same_as_id == first.id)
        .where(InstanceRow.disposition == "quarantined", or_(*of_study))
    )
    return session.execute(quarantined.limit(1)).first() is not None


def attach(session: Session, node: Node, row: InstanceRow, now: dt.datetime) -> ExamRow:
    """Put an accepted instance into its exam's open revision; a closed exam gets its next one."""
    return _attach(session, node, row, now, latest_exams(session, row.study_instance_uid))


def _attach(session: Session, node: Node, row: InstanceRow, now: dt.datetime, newest: Exams) -> ExamRow:
    issuer = issuer_of(node, row)
    latest = exam_of(session, row, issuer, newest)
    if latest is not None and latest.state == "receiving":
        quiet_s = node.settings.quiet_time_s if latest.revision == 1 else node.settings.late_quiet_time_s
        latest.last_new_at = now
        latest.closes_at = now + dt.timedelta(seconds=quiet_s)
        for name in ("accession_number", "study_date", "device_model"):
            setattr(latest, name, getattr(latest, name) or getattr(row, name))
        exam = latest
    else:
        key = latest.exam_key if latest else exam_key(row.patient_id, issuer, row.study_instance_uid)
        # by default that issuer's, by its headers another's
        if latest is None and any(exam.exam_key == key for exam, _ in newest):
            key = exam_key(row.patient_id, f"{issuer}\x1f{row.id}", row.study_instance_uid)
        exam = open_revision(
            session, node, key=key, previous=latest,
            patient=latest.patient_row_id if latest else patient_row(session, row.patient_id, issuer, now),
            study_instance_uid=row.study_instance_uid,
            accession_number=row.accession_number,
            study_date=row.study_date,
            device_model=row.device_model,
            peer_ae_title=row.calling_ae_title,
        )  # fmt: skip
    if row.issuer_of_patient_id and row.patient_id:
        exam.patient_row_id = patient_row(session, row.patient_id, row.issuer_of_patient_id, now)
    row.exam_key, row.first_revision = exam.exam_key, exam.revision
    return exam


def open_revision(  # noqa: PLR0913 - a row has as many columns as it has
    session: Session,
    node: Node,
    *,
    key: str,
    previous: ExamRow | None,
    patient: int | None,
    study_instance_uid: str,
    accession_number: str,
    peer_ae_title: str,
    study_date: str = "",
    device_model: str = "",
    quiet_s: float | None = None,
) -> ExamRow:
    """Open an exam, or its next revision; what the previous one has not sent is withdrawn.

    A revision stands as high in the worklist as the one before, until it is read itself.
    """
    now = utc_now()
    settings = node.settings
    if quiet_s is None:
        quiet_s = settings.late_quiet_time_s if previous else settings.quiet_time_s
    closes_at = now + dt.timedelta(seconds=quiet_s)
    taken = session.scalar(select(func.max(ExamRow.revision)).where(ExamRow.exam_key == key)) or 0
    exam = ExamRow(
        id=secrets.token_hex(6),
        exam_key=key,
        revision=1 + max(taken, previous.revision if previous else 0),
        patient_row_id=patient,
        study_instance_uid=study_instance_uid,
        accession_number=accession_number or (previous.accession_number if previous else ""),
        study_date=study_date or (previous.study_date if previous else ""),
        device_model=device_model or (previous.device_model if previous else ""),
        peer_ae_title=peer_ae_title,
        priority=min(previous.priority, IN_PROGRESS) if previous else IN_PROGRESS,
        state="receiving",
        opened_at=now,
        last_new_at=now,
        closes_at=closes_at,
        has_conflict=_is_contradicted(session, study_instance_uid),
    )
    session.add(exam)
    session.flush()
    record(session, "exam_opened", exam.id, revision=exam.revision)
    if previous is not None:
        supersede(session, previous, exam)
    node.jobs.enqueue(session, "close", exam.id, not_before_at=closes_at)
    return exam


def supersede(session: Session, previous: ExamRow, exam: ExamRow) -> None:
    """Let `exam` stand in for `previous`; what has not left of its result is withdrawn."""
    previous.superseded_by = exam.id
    withdrawn = session.scalars(
        update(DeliveryRow)
        .where(DeliveryRow.exam_id == previous.id, DeliveryRow.state == "pending")
        .values(state="withdrawn")
        .returning(DeliveryRow.id)
    ).all()
    if withdrawn and previous.state == "delivering":
        states = select(DeliveryRow.state).where(DeliveryRow.exam_id == previous.id)
        if {*session.scalars(states)} - {"withdrawn"} == {"delivered"}:
            previous.state, previous.delivered_at = "delivered", utc_now()
        else:
            previous.state = "read"
    record(session, "exam_superseded", previous.id, by=exam.id, withdrawn=len(withdrawn))


def instances_of(session: Session, exam: ExamRow) -> list[InstanceRow]:
    """Return what a revision is read from, in a stable order."""
    of_exam = InstanceRow.exam_key == exam.exam_key, InstanceRow.first_revision <= exam.revision
    rows = select(InstanceRow).where(*of_exam, InstanceRow.disposition == "accepted")
    return list(session.scalars(rows.order_by(InstanceRow.id)))


def _is_ours(session: Session, node: Node, header: Header) -> bool:
    """Tell our own results, however they return: same UID, same series, derived from one, our device."""
    uids = [header.sop_instance_uid, *header.source_uids]
    if session.execute(_EMITTED, {"uids": uids, "series": header.series_instance_uid}).first() is not None:
        return True
    if not header.equipment_uids:
        return False
    digests = session.scalars(select(ModelPackageRow.digest))
    return any(device_uid(node.installation_id, digest) in header.equipment_uids for digest in digests)


def in_force(session: Session, sop_instance_uid: str) -> InstanceRow | None:
    """Return the one object of that UID that is in force."""
    return session.scalars(
        select(InstanceRow)
        .where(InstanceRow.sop_instance_uid == sop_instance_uid, InstanceRow.disposition.in_(IN_FORCE))
        .execution_options(populate_existing=True)
    ).first()
