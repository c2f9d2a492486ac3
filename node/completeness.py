"""Is the exam all there? The set held is compared with the set the PACS holds."""

from dataclasses import dataclass

from sqlalchemy import select

from db.tables import DeliveredObjectRow, DeliveryRow, ExamRow, InstanceRow, ResultObjectRow
from node.dicom.scu import Holdings, find_instances
from node.errors import RefusedError, SendError
from node.exams import is_endoscopy
from node.house import Node
from node.settings import EndoscopyRule


@dataclass(frozen=True, slots=True)
class Completeness:
    """A verdict (complete, incomplete or unknown), why, and the counts behind it."""

    verdict: str
    reason: str
    expected: int | None = None
    missing: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What this node has of a study.

    Attributes
    ----------
    arrived
        SOP Instance UIDs of everything that came, whatever became of it.
    emitted
        SOP Instance UIDs of our own results for it.
    delivered
        Those of them that the peer asked has answered with success.
    unread
        SOP Instance UIDs of what came and is not read.
    """

    arrived: frozenset[str]
    emitted: frozenset[str]
    delivered: frozenset[str]
    unread: frozenset[str]


def compare(holdings: Holdings, held: Held, rule: EndoscopyRule) -> Completeness:
    """Hold the PACS's answer against what is here, less what we emitted and what we do not read.

    A PACS that can only count (Study Root C-FIND, PS3.4 C.6.2) counts PDFs, reports and the results that it
    took from us too, so everything that arrived is counted against it.
    """
    if holdings.instances is None:
        reason, expected = "count", (holdings.count or 0) - len(held.delivered - held.arrived)
        missing = max(0, expected - len(held.arrived))
    else:
        theirs = {
            uid
            for uid, stored in holdings.instances.items()
            if is_endoscopy(stored.sop_class_uid, stored.modality, rule)
            or (not stored.sop_class_uid and stored.modality in rule.modalities)  # some peers tell no class
        } - held.emitted - held.unread  # fmt: skip
        reason, expected, missing = "set", len(theirs), len(theirs - held.arrived)
    if expected <= 0:
        return Completeness("unknown", "no_match")
    return Completeness("incomplete" if missing else "complete", reason, expected=expected, missing=missing)


def ask(node: Node, exam: ExamRow) -> Completeness:
    """Ask the peer that the images came from what it holds; no transaction is open meanwhile."""
    peer = node.settings.peer(exam.peer_ae_title)
    if peer is None or not peer.query_completeness:
        return Completeness("unknown", "not_asked")
    try:
        holdings = find_instances(peer, exam.study_instance_uid, node.settings)
    except SendError:
        return Completeness("unknown", "no_answer")
    except RefusedError:
        return Completeness("unknown", "query_refused")
    return compare(holdings, held_of(node, exam), node.settings.endoscopy)


def held_of(node: Node, exam: ExamRow) -> Held:
    """Return what this node has of an exam's study, seen from the peer that the exam came from."""
    with node.database.reading() as session:
        rows = session.execute(
            select(InstanceRow.sop_instance_uid, InstanceRow.disposition).where(
                InstanceRow.study_instance_uid == exam.study_instance_uid
            )
        ).all()
        results = (
            select(ResultObjectRow.sop_instance_uid)
            .join(ExamRow, ResultObjectRow.exam_id == ExamRow.id)
            .where(ExamRow.study_instance_uid == exam.study_instance_uid)
        )
        emitted = session.scalars(results).all()
        delivered = session.scalars(
            results.join(DeliveredObjectRow, DeliveredObjectRow.result_object_id == ResultObjectRow.id)
            .join(DeliveryRow, DeliveredObjectRow.delivery_id == DeliveryRow.id)
            .where(DeliveryRow.peer_ae_title == exam.peer_ae_title)
        ).all()
    own = {uid for uid, disposition in rows if disposition == "own"}
    return Held(
        arrived=frozenset(uid for uid, _ in rows),
        emitted=frozenset(emitted) | own,
        delivered=frozenset(delivered),
        unread=frozenset(uid for uid, disposition in rows if disposition == "kept"),
    )
