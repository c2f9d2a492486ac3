"""A reading that failed for good is answered too: by results that say so, and hold no finding."""

from db.audit import record
from db.engine import utc_now
from db.jobs import Claim
from db.tables import ExamRow
from node.frames import FrameReader
from node.house import Node
from node.reading import gather
from node.records import register_package, write_results
from node.reporting import make_results


def state_failure(node: Node, reader: FrameReader, claim: Claim) -> None:
    """Build, store and send what states that an exam's reading failed; the exam stays failed.

    Nothing is, where the exam has been taken up again or replaced meanwhile.
    """
    with node.database.writing() as session:
        exam = session.get_one(ExamRow, claim.subject_id)
        if not _is_failed(exam):
            node.jobs.finish(session, claim)
            return
        material = gather(session, exam)
    now = utc_now()
    objects = make_results(node, reader, material, None, panels=[], now=now)
    stored = {encoded.sop_instance_uid: node.files.keep_bytes(encoded.data) for encoded in objects}
    with node.database.writing() as session:
        node.database.lock_study(session, material.exam.study_instance_uid)
        exam = session.get_one(ExamRow, claim.subject_id, with_for_update=True)
        if _is_failed(exam):
            register_package(session, reader.package, now)  # what comes back is known by its Device UID
            write_results(session, node, exam, stored, objects, now)
            record(session, "failure_stated", exam.id)
        node.jobs.finish(session, claim)


def _is_failed(exam: ExamRow) -> bool:
    return exam.state == "failed" and exam.error_step == "read" and exam.superseded_by is None
