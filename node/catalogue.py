"""What the node holds and has emitted, as the levels of a query have it (PS3.4 C.3.1)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.audit import JsonValue, record
from db.tables import (
    DeliveredObjectRow,
    DeliveryRow,
    ExamRow,
    InstanceRow,
    PatientRow,
    PredictionRow,
    ResultObjectRow,
)
from node.errors import StorageError
from node.house import Node

MODALITIES = {"sc": "OT", "sr": "SR", "ko": "KO", "rn": "KO"}
"""Of what we emit, by kind: as `node.results.envelope` writes it."""
BEST_FORMS = ("multi_frame", "comprehensive_3d", "key_object")

STUDIES_AT_ONCE = 50
"""Studies that are fetched, and held in memory, at a time."""


@dataclass(frozen=True, slots=True)
class CataloguedInstance:
    """One object: received, or emitted by this node, which alone can be retrieved.

    Attributes
    ----------
    sha256
        Of its bytes in the file store; None where they have been purged.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    modality: str
    sha256: str | None
    is_emitted: bool


@dataclass(frozen=True, slots=True)
class CataloguedStudy:
    """One study of one patient: its newest revision, and the objects of all of them.

    Attributes
    ----------
    reading
        What the model said, by the names of `find_scp.STATE`; ``""`` where it has said nothing.
    """

    exam_id: str
    patient: int | None
    patient_id: str
    issuer_of_patient_id: str
    study_instance_uid: str
    study_date: str
    accession_number: str
    reading: Mapping[str, str]
    instances: Sequence[CataloguedInstance]


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What is asked in the database; None or empty: everything. Dates are YYYYMMDD, both included."""

    study_instance_uids: Sequence[str] = ()
    patient_id: str | None = None
    accession_number: str | None = None
    dates: tuple[str, str] | None = None


def list_studies(node: Node, narrowing: Narrowing, *, by_patient: bool = False) -> Iterator[CataloguedStudy]:
    """Give the studies of which something was to be read; no transaction stays open meanwhile.

    By patient, those of each come together, and those that name no patient are left out.

    Raises
    ------
    StorageError
        The database failed.
    """
    order = (ExamRow.patient_row_id, ExamRow.id) if by_patient else (ExamRow.id,)
    after: tuple[Any, ...] | None = (0, "") if by_patient else ("",)
    while after is not None:
        try:
            with node.database.reading() as session:
                studies, after = _page(session, narrowing, order, after)
        except SQLAlchemyError as error:
            raise StorageError(f"the database failed: {type(error).__name__}") from error
        yield from studies


def has_left() -> ColumnElement[bool]:
    """Tell of a result's row whether its revision counts as emitted: not where it was withdrawn unsent.

    One that was withdrawn on its way counts: of it a peer has stored something.
    """
    delivery = exists().where(DeliveryRow.exam_id == ResultObjectRow.exam_id)
    stored = exists().where(DeliveredObjectRow.delivery_id == DeliveryRow.id).correlate(DeliveryRow)
    return ~delivery | delivery.where(or_(DeliveryRow.state != "withdrawn", stored))


def tell(
    node: Node, event: str, ae_title: str, about: Mapping[str, Mapping[str, JsonValue]] | None = None, /,
    **detail: JsonValue,
) -> None:  # fmt: skip
    """Record what a peer has asked for, by the names of its keys, never their values.

    `about` gives what is to be said of each exam, in an event of its own; without it, there is one of none.
    """
    with node.database.writing() as session:
        for subject_id, of_exam in (about or {"": {}}).items():
            record(session, event, subject_id, actor=f"ae:{ae_title}", **detail, **of_exam)


def _page(
    session: Session, narrowing: Narrowing, order: tuple[Any, ...], after: tuple[Any, ...]
) -> tuple[list[CataloguedStudy], tuple[Any, ...] | None]:
    rows = session.execute(
        select(ExamRow, PatientRow, PredictionRow)
        .outerjoin(PatientRow, ExamRow.patient_row_id == PatientRow.id)
        .outerjoin(PredictionRow, PredictionRow.exam_id == ExamRow.id)
        .where(ExamRow.superseded_by.is_(None), tuple_(*order) > after, *_conditions(narrowing))
        .order_by(*order)
        .limit(STUDIES_AT_ONCE)
    ).all()
    exams = [exam for exam, *_ in rows]
    received, emitted = _received(session, exams), _emitted(session, exams)
    studies = [
        CataloguedStudy(
            exam.id, exam.patient_row_id,
            patient.patient_id if patient else "", patient.issuer_of_patient_id if patient else "",
            exam.study_instance_uid, exam.study_date, exam.accession_number, _reading(exam, prediction),
            received[exam.exam_key] + emitted[exam.exam_key],
        )
        for exam, patient, prediction in rows
    ]  # fmt: skip
    if len(rows) < STUDIES_AT_ONCE:
        return studies, None
    return studies, tuple(getattr(exams[-1], column.key) for column in order)


def _conditions(narrowing: Narrowing) -> Iterator[ColumnElement[bool]]:
    if narrowing.study_instance_uids:
        yield ExamRow.study_instance_uid.in_(narrowing.study_instance_uids)
    if narrowing.patient_id is not None:
        yield PatientRow.patient_id == narrowing.patient_id
    if narrowing.accession_number is not None:
        yield ExamRow.accession_number == narrowing.accession_number
    if narrowing.dates is not None:
        yield ExamRow.study_date.between(*narrowing.dates)


def _received(session: Session, exams: Sequence[ExamRow]) -> dict[str, list[CataloguedInstance]]:
    """Return by exam key what came; what was kept unread belongs to the first exam of its study."""
    found: dict[str, list[CataloguedInstance]] = defaultdict(list)
    row = InstanceRow
    of_study = {exam.study_instance_uid: exam.exam_key for exam in reversed(exams)}
    for each in session.execute(
        select(
            row.sop_instance_uid, row.sop_class_uid, row.series_instance_uid, row.modality, row.sha256,
            row.purged_at, row.exam_key, row.study_instance_uid,
        )
        .where(row.study_instance_uid.in_(of_study), row.disposition.in_(("accepted", "kept")))
        .order_by(row.id)
    ):  # fmt: skip
        found[each.exam_key or of_study[each.study_instance_uid]].append(
            CataloguedInstance(*each[:4], None if each.purged_at else each.sha256, is_emitted=False)
        )
    return found


def _emitted(session: Session, exams: Sequence[ExamRow]) -> dict[str, list[CataloguedInstance]]:
    """Return by exam key our results of all revisions that left, in the forms that peers took or the best."""
    found: dict[str, list[CataloguedInstance]] = defaultdict(list)
    row = ResultObjectRow
    rows = session.execute(
        select(ExamRow.exam_key, row, DeliveredObjectRow.state)
        .join(ExamRow, row.exam_id == ExamRow.id)
        .outerjoin(DeliveredObjectRow, DeliveredObjectRow.result_object_id == row.id)
        .where(ExamRow.exam_key.in_([exam.exam_key for exam in exams]), has_left())
        .order_by(row.id)
    ).all()
    taken = {(each.exam_id, each.kind, each.form) for _, each, state in rows if state is not None}
    kinds = {known[:2] for known in taken}
    for exam_key, each in {each.id: (exam_key, each) for exam_key, each, _ in rows}.values():
        has_peer = (each.exam_id, each.kind, each.form) in taken
        if has_peer or ((each.exam_id, each.kind) not in kinds and each.form in BEST_FORMS):
            found[exam_key].append(
                CataloguedInstance(
                    each.sop_instance_uid, each.sop_class_uid, each.series_instance_uid,
                    MODALITIES[each.kind], each.sha256, is_emitted=True,
                )
            )  # fmt: skip
    return found


def _reading(exam: ExamRow, prediction: PredictionRow | None) -> dict[str, str]:
    said = {"exam_state": exam.state.upper(), "revision": str(exam.revision)}
    if prediction is None or exam.state == "failed":
        return said
    return {
        **said,
        "reading": prediction.reading.upper(),
        "unpredicted_reason": prediction.unpredicted_reason or "",
        "probability": "" if prediction.probability is None else f"{prediction.probability:.6f}",
        "model_digest": prediction.model_digest,
    }
