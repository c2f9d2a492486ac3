"""The order behind an exam, where a modality worklist knows it without doubt."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import validate_value
from sqlalchemy.orm import Session

from db.audit import record
from db.engine import utc_now
from db.tables import ExamRow, OrderRow, PatientRow
from node.dicom.worklist_scu import WorklistItem, find_items
from node.errors import RefusedError, SendError
from node.house import Node
from node.results.iod import LONGEST_MEANING
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

    What a report cannot hold is left out, and a description that is too long is cut.
    """
    said = dict(order.attributes)
    said["RequestedProcedureDescription"] = said.get("RequestedProcedureDescription", "")[:LONGEST_MEANING]
    ds = Dataset()
    ds.StudyInstanceUID = _allowed("StudyInstanceUID", said) or study_instance_uid
    ds.ReferencedStudySequence = []
    for keyword in (
        "AccessionNumber", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID", "RequestedProcedureDescription",
    ):  # fmt: skip
        setattr(ds, keyword, _allowed(keyword, said))
    ds.RequestedProcedureCodeSequence = []
    words = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    stated = dict(zip(words, said.get("RequestedProcedureCode", ()), strict=False))
    if all(_allowed(word, stated) for word in words):
        item = Dataset()
        for word in words:
            setattr(item, word, stated[word])
        ds.RequestedProcedureCodeSequence = [item]
    return ds


def _allowed(keyword: str, said: Mapping[str, Any]) -> str:
    """Return a text, or nothing where its VR (PS3.5 6.2) or ASCII does not allow it.

    The images' character set, which the report keeps, may not have more than ASCII.
    """
    value: str = said.get(keyword, "")
    with suppress(ValueError):
        validate_value(dictionary_VR(keyword), value, RAISE)
        return value if value.isascii() and value.isprintable() else ""
    return ""
