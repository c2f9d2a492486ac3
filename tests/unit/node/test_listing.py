"""What `exams --json` promises: programs read it."""

from pathlib import Path

from sqlalchemy import select

from db.engine import utc_now
from db.tables import (
    EvidenceRow,
    ExamRow,
    FrameRow,
    InstanceRow,
    ModelPackageRow,
    PredictionRow,
)
from node.house import Node
from node.listing import list_exams
from node.records import fail_exam
from tests.unit.node.conftest import Sender

PAGE = Path(__file__).resolve().parents[3] / "docs" / "exams-json.md"

KEYS = {
    "": {
        "exam_id", "patient_id", "issuer_of_patient_id", "accession_number", "study_date", "device_model",
        "priority", "study_uid", "state", "revision", "superseded_by", "verdict", "has_conflict", "peer",
        "opened_at", "counts", "completeness", "reading",
        "unpredicted_reason", "probability", "t", "k", "model", "body_part_stated", "order", "evidence",
        "unreadable",
        "result_uids", "deliveries", "committed", "error", "seconds",
    },
    "counts": {"received", "expected", "kept", "rejected", "out_of_distribution", "quarantined"},
    "completeness": {"verdict", "reason", "expected", "missing"},
    "model": {"name", "version", "digest"},
    "evidence": {"sop_instance_uid", "frame_number", "label", "probability", "confidence", "voted", "reason",
                 "synthetic_share", "gate"},
    "error": {"step", "text"},
}  # fmt: skip


def _read(node: Node) -> str:
    """Give the exam a reading with one frame of evidence; return its id."""
    with node.database.writing() as session:
        exam = session.scalars(select(ExamRow)).one()
        exam.state = "read"
        session.add(ModelPackageRow(digest="d", name="n", version="1", manifest={}, registered_at=utc_now()))
        session.flush()
        prediction = PredictionRow(
            exam_id=exam.id, model_digest="d", recipe_digest="r", reading="ibd", probability=0.97,
            threshold=0.9, top_k=6, vote_mode="majority", frames_kept=1, frames_rejected=0, frames_used=1,
            created_at=utc_now(),
        )  # fmt: skip
        frame = FrameRow(
            exam_id=exam.id, instance_id=session.scalars(select(InstanceRow.id)).one(), frame_number=1,
            kept=True, ledger=[], label="ibd", probability=0.97, confidence=0.97, synthetic_share=0.1,
        )  # fmt: skip
        session.add_all((prediction, frame))
        session.flush()
        session.add(
            EvidenceRow(
                prediction_id=prediction.id, frame_id=frame.id, position=1, voted=True, gate="blanked"
            )
        )
        return exam.id


def test_the_keys_of_an_exam_are_these(node: Node, send: Sender) -> None:
    """They are there from the first image on, whatever becomes of the exam: a program need not ask."""
    send("1.2.1")
    (received,) = list_exams(node)
    _read(node)
    (read,) = list_exams(node)
    assert received.keys() == read.keys() == KEYS[""]
    assert (received["reading"], received["model"], received["error"]) == (None, None, None)
    for name in ("counts", "completeness"):
        assert received[name].keys() == read[name].keys() == KEYS[name]
    assert read["model"].keys() == KEYS["model"]
    assert [frame.keys() for frame in read["evidence"]] == [KEYS["evidence"]]
    (shown,) = read["evidence"]
    assert (shown["reason"], shown["synthetic_share"], shown["gate"]) == (None, 0.1, "blanked")


def test_a_failed_exam_has_an_error_and_no_reading(node: Node, send: Sender) -> None:
    """One that failed on its way to the archive was read; nobody has got that reading."""
    send("1.2.1")
    exam_id = _read(node)
    assert (list_exams(node)[0]["reading"], list_exams(node)[0]["probability"]) == ("ibd", 0.97)
    with node.database.writing() as session:
        fail_exam(session, exam_id, "deliver", "refused")
    (failed,) = list_exams(node)
    assert (failed["state"], failed["reading"], failed["probability"]) == ("failed", None, None)
    assert failed["error"] == {"step": "deliver", "text": "refused"}
    assert failed["error"].keys() == KEYS["error"]
    assert failed.keys() == KEYS[""]


def test_every_key_is_documented() -> None:
    """A program is written from the page, not from the code."""
    page = PAGE.read_text(encoding="utf-8")
    for parent, names in KEYS.items():
        for name in names:
            assert f"| `{parent}{'.' if parent else ''}{name}` |" in page
