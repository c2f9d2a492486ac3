"""Workitems walk with the exam of their study: the newest revision of it says how far they are.

A workitem is about a study. It is looked at when it comes and whenever an exam of that study has changed:
which came first makes no difference, and what a late image has opened is simply the newest revision.
"""

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import (
    DeliveredObjectRow,
    DeliveryRow,
    ExamRow,
    ResultObjectRow,
    WorkitemReportRow,
    WorkitemRow,
    WorkitemSubscriptionRow,
)
from node.belonging import latest_exams
from node.catalogue import BEST_FORMS
from node.house import Node
from node.workitem_dataset import (
    PERFORMED,
    PROGRESS,
    begin,
    cancel,
    complete,
    encode,
    is_ready,
    only,
    tell_progress,
)
from node.workitem_states import (
    CANCELED,
    COMPLETED,
    FINAL,
    IN_PROGRESS,
    OPEN,
    SCHEDULED,
    SUCCESS,
    change,
    due_state,
)

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5
"""Event Type IDs (PS3.4 table CC.2.4-1)."""

TOLD = {"reading": (10, "Reading"), "read": (90, "Sending"), "delivering": (90, "Sending")}
"""Progress in percent, and in a word, by the state of the exam."""


def follow(session: Session, node: Node, exam: ExamRow) -> None:
    """Let the open workitems of an exam's study follow a change of its state, in jobs of their own."""
    session.flush()  # who adds a workitem meanwhile waits for the exam's row, or is waited for
    of_study = WorkitemRow.study_instance_uid == exam.study_instance_uid, WorkitemRow.state.in_(OPEN)
    for row_id in session.scalars(select(WorkitemRow.id).where(*of_study)).all():
        node.jobs.enqueue(session, "perform", str(row_id))


def add_workitem(
    session: Session, node: Node, ds: Dataset, study: str, ae_title: str, *, is_foreign: bool
) -> WorkitemRow:
    """Write down a workitem that has come; a job brings it to where its study is."""
    of_study = ExamRow.study_instance_uid == study
    session.scalars(select(ExamRow.id).where(of_study).with_for_update()).all()  # for `follow`
    row = WorkitemRow(
        sop_instance_uid=str(ds.SOPInstanceUID), peer_ae_title=ae_title, is_foreign=is_foreign,
        state=SCHEDULED, transaction_uid="", study_instance_uid=study, dataset=encode(ds),
        created_at=utc_now(),
    )  # fmt: skip
    session.add(row)
    session.flush()
    record(session, "workitem_received", study, actor=f"ae:{ae_title}", workitem=row.sop_instance_uid)
    node.jobs.enqueue(session, "perform", str(row.id))
    return row


def fill_in(session: Session, node: Node, row: WorkitemRow, ds: Dataset) -> str | None:
    """Write what is known of its exam into a workitem; return its due state, None where there is no news."""
    exam = _exam_of(session, row.study_instance_uid, ds)
    if exam is None:
        return None
    is_sent = bool(session.scalar(select(exists().where(DeliveryRow.exam_id == exam.id))))
    due, now = due_state(exam.state, is_sent=is_sent), utc_now()
    if due == SCHEDULED:
        return None
    if not ds.get(PERFORMED):
        begin(ds, node.settings.ae_title, now)
    if due == COMPLETED:
        complete(ds, now, exam.study_instance_uid, _outputs(session, node, exam))
    elif due == CANCELED:
        cancel(ds, now, f"The exam failed at the step: {exam.error_step}", failed=True)
    elif not tell_progress(ds, *TOLD[exam.state]) and row.state == IN_PROGRESS:
        return None
    return due


def perform_own(session: Session, node: Node, row: WorkitemRow, ds: Dataset, due: str) -> None:
    """Bring one of our own to the state that is due; its subscribers are told of each step."""
    if row.state == SCHEDULED:
        move(session, node, row, ds, IN_PROGRESS)
    if due in FINAL:
        move(session, node, row, ds, due)
    else:
        row.dataset = encode(ds)
        report(session, node, row.sop_instance_uid, PROGRESS_REPORT, only(ds, [PROGRESS]))


def move(session: Session, node: Node, row: WorkitemRow, ds: Dataset, state: str, *, actor: str = "") -> None:
    """Change the state of one of our own, which only its performer does; `ds` says what goes with it."""
    row.transaction_uid = row.transaction_uid or generate_uid(prefix=None)
    status = change(row.state, state, holds_lock=True, is_ready=is_ready(ds, state))
    if status != SUCCESS:
        raise RuntimeError(f"a workitem that is {row.state} cannot become {state} (0x{status:04X})")
    note_state(session, row, ds, state, actor=actor)
    report_state(session, node, row, ds)
    if state in FINAL:
        row_of = WorkitemSubscriptionRow.sop_instance_uid == row.sop_instance_uid
        session.execute(delete(WorkitemSubscriptionRow).where(row_of))


def note_state(session: Session, row: WorkitemRow, ds: Dataset, state: str, *, actor: str = "") -> None:
    """Write down the state that a workitem is in by now, whoever manages it."""
    row.state = ds.ProcedureStepState = state
    row.dataset = encode(ds)
    uid = row.sop_instance_uid
    record(session, "workitem_changed", row.study_instance_uid, actor=actor, workitem=uid, state=state)


def report_state(
    session: Session, node: Node, row: WorkitemRow, ds: Dataset, ae_titles: Iterable[str] | None = None
) -> None:
    """Report the state of one of our own, with what it was canceled for; to whom, as `report`."""
    said = only(ds, ("ProcedureStepState", "InputReadinessState"))
    if row.state == CANCELED:
        reasons = ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence")
        said.update(only(ds[PROGRESS].value[0], reasons))
    report(session, node, row.sop_instance_uid, STATE_REPORT, said, ae_titles)


def report(
    session: Session, node: Node, sop_instance_uid: str, event_type: int, information: Dataset,
    ae_titles: Iterable[str] | None = None,
) -> None:  # fmt: skip
    """Put an event on its way to these AE titles; to the subscribers, where none are named."""
    if ae_titles is None:
        row_of = WorkitemSubscriptionRow.sop_instance_uid == sop_instance_uid
        ae_titles = session.scalars(select(WorkitemSubscriptionRow.ae_title).where(row_of)).all()
    for ae_title in ae_titles:
        row = WorkitemReportRow(
            ae_title=ae_title, sop_instance_uid=sop_instance_uid, event_type=event_type,
            information=encode(information), created_at=utc_now(),
        )  # fmt: skip
        session.add(row)
        session.flush()
        node.jobs.enqueue(session, "notify", str(row.id))


def _exam_of(session: Session, study_instance_uid: str, ds: Dataset) -> ExamRow | None:
    """Return the newest revision of the exam that a workitem is about; what is absent contradicts nothing."""
    named = [str(ds.get(keyword) or "").strip() for keyword in ("PatientID", "IssuerOfPatientID")]
    for exam, patient in latest_exams(session, study_instance_uid):
        known = (patient.patient_id, patient.issuer_of_patient_id) if patient else ("", "")
        if all("" in pair or pair[0] == pair[1] for pair in zip(named, known, strict=True)):
            return exam
    return None


def _outputs(session: Session, node: Node, exam: ExamRow) -> list[tuple[str, tuple[str, ...], str, str]]:
    """Return what of an exam's results has arrived anywhere, or would be sent first, and where it is."""
    holders: dict[int, list[str]] = {}
    for object_id, ae_title in session.execute(
        select(DeliveredObjectRow.result_object_id, DeliveryRow.peer_ae_title)
        .join(DeliveryRow, DeliveredObjectRow.delivery_id == DeliveryRow.id)
        .where(DeliveryRow.exam_id == exam.id)
        .order_by(DeliveryRow.id)
    ):
        holders.setdefault(object_id, []).append(ae_title)
    is_result = ResultObjectRow.exam_id == exam.id, ResultObjectRow.kind != "rn"
    return [
        (each.series_instance_uid, (node.settings.ae_title, *holders.get(each.id, ())),
         each.sop_class_uid, each.sop_instance_uid)
        for each in session.scalars(select(ResultObjectRow).where(*is_result))
        if each.id in holders or (not holders and each.form in BEST_FORMS)
    ]  # fmt: skip
