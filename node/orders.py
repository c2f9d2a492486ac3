"""The order behind an exam, where a modality worklist knows it without doubt."""

from collections.abc import Sequence

import structlog
from pydicom import Dataset
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import ExamRow, OrderRow, PatientRow
from node.dicom.worklist_scu import WorklistItem, find_items
from node.errors import RefusedError, SendError
from node.house import Node
from node.settings import Peer
from pipeline.instance import UNREADABLE

log = structlog.get_logger()


def ask_for_order(node: Node, exam: ExamRow) -> OrderRow | None:
    """Ask the peers that have a worklist, up to the first that knows the order; None where no peer has one.

    Whatever they answer, the exam goes on: what is not without doubt is noted with its reason, and nothing of
    it taken. No transaction is open meanwhile.
    """
    with node.database.reading() as session:
        patient = session.get(PatientRow, exam.patient_row_id) if exam.patient_row_id else None
    order = None
    for peer in node.settings.peers:
        if peer.worklist:
            order = _ask(node, peer, exam, patient)
            if order.matched_by is not None:
                break
    return order


def write_order(session: Session, order: OrderRow) -> None:
    """Note what was answered, once an exam."""
    session.merge(order)
    record(
        session, "order_asked", order.exam_id,
        peer=order.peer_ae_title, matched_by=order.matched_by, reason=order.reason,
    )  # fmt: skip


def _ask(node: Node, peer: Peer, exam: ExamRow, patient: PatientRow | None) -> OrderRow:
    item, said = None, "no_match"
    patient_id, issuer = (patient.patient_id, patient.issuer_of_patient_id) if patient else ("", "")
    try:
        items = find_items(peer, node.settings, StudyInstanceUID=exam.study_instance_uid)
        item, said = _only([each for each in items if each.study_instance_uid == exam.study_instance_uid])
        if item is not None:
            said = "study" if _is_of(item, patient_id, issuer) else "mismatch"
        elif said == "no_match" and patient_id and exam.accession_number:
            items = find_items(
                peer, node.settings, PatientID=patient_id, AccessionNumber=exam.accession_number
            )
            mine = [each for each in items if each.accession_number == exam.accession_number]
            item, said = _only([each for each in mine if _is_of(each, patient_id, issuer)])
            said = "accession" if item is not None else said
            if said == "no_match" and mine:
                said = "mismatch"
    except SendError as error:
        said = "no_answer"
        log.warning("worklist_not_asked", exam_id=exam.id, peer=peer.ae_title, error=str(error))
    except RefusedError:
        said = "refused"
    except UNREADABLE:
        item, said = None, "unreadable"
    is_taken = said in ("study", "accession")
    return OrderRow(
        exam_id=exam.id,
        peer_ae_title=peer.ae_title,
        matched_by=said if is_taken else None,
        reason=None if is_taken else said,
        attributes=dict(item.attributes) if item is not None and is_taken else {},
        found_at=utc_now(),
    )


def _only(items: Sequence[WorklistItem]) -> tuple[WorklistItem | None, str]:
    if len(items) == 1:
        return items[0], ""
    return None, "several" if items else "no_match"


def _is_of(item: WorklistItem, patient_id: str, issuer: str) -> bool:
    """Tell whether an item is about the patient; an issuer that one side does not state tells nothing."""
    return item.patient_id == patient_id and (
        not issuer or not item.issuer_of_patient_id or item.issuer_of_patient_id == issuer
    )


def request_of(order: OrderRow, study_instance_uid: str) -> Dataset:
    """Return an item of a Referenced Request Sequence (PS3.3 C.17.2).

    Text that is not ASCII is left out: the images' character set, which the report keeps, may not have it.
    """
    found = {name: value for name, value in order.attributes.items() if str(value).isascii()}
    ds = Dataset()
    ds.StudyInstanceUID = found.get("StudyInstanceUID", study_instance_uid)
    ds.ReferencedStudySequence = []
    ds.AccessionNumber = found.get("AccessionNumber", "")
    for keyword in (
        "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID", "RequestedProcedureDescription",
    ):  # fmt: skip
        setattr(ds, keyword, found.get(keyword, ""))
    ds.RequestedProcedureCodeSequence = []
    procedure = found.get("RequestedProcedureCode", [])
    if procedure and all(procedure):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = procedure
        ds.RequestedProcedureCodeSequence = [item]
    return ds
