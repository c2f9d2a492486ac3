"""The page on a node of rows, and browsers that are logged in."""

import datetime as dt
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from db.engine import utc_now
from db.tables import EvidenceRow, ExamRow, FrameRow, InstanceRow, ModelPackageRow, PatientRow, PredictionRow
from node import passwords
from node.house import Node
from node.roles import Role
from node.users import add_user
from node.web.app import make_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would have httpx2, which is not among our dependencies
    from starlette.testclient import TestClient

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
DIGEST = "d" * 64
PRIORITY_OF = {"ibd": 10, "failed": 20, "unpredicted": 30, None: 40, "healthy": 50}


class Browser(TestClient):
    """A client that repeats its session's token, as every form of the page does."""

    csrf = ""

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        """Log in by the form."""
        answer = self.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        self.csrf = answer.text.partition('"X-CSRF-Token":"')[2].partition('"')[0]
        self.headers["X-CSRF-Token"] = self.csrf


@pytest.fixture(autouse=True)
def _cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash by argon2 still, in a hundredth of the time."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    monkeypatch.setattr(passwords, "_nobody", [])


@pytest.fixture
def browser(node: Node) -> Iterator[Callable[..., Browser]]:
    """Return a function that gives a browser, logged in where a role is named."""
    app = make_app(node)
    opened: list[Browser] = []

    def start(role: Role | None = None) -> Browser:
        client = Browser(app, headers={"Accept": "text/html"}, raise_server_exceptions=False)
        opened.append(client)
        if role:
            name = f"{role}{len(opened)}"
            add_user(node, name, role, PASSWORD, actor="os:test")
            client.log_in(name)
        return client

    yield start
    for client in opened:
        client.close()


numbers = itertools.count(1)


def add_exam(
    node: Node,
    reading: str | None = "ibd",
    *,
    patient_id: str = "P1",
    opened_at: dt.datetime | None = None,
    evidence: int = 0,
    **columns: Any,
) -> str:
    """Write an exam with its reading ("failed": without one) and evidence frames; return its id."""
    number = next(numbers)
    exam_id = f"{number:012x}"
    now = opened_at or utc_now()
    values: dict[str, object] = {
        "id": exam_id, "exam_key": f"{number:064x}", "revision": 1, "study_instance_uid": f"1.2.{number}",
        "accession_number": "A1", "study_date": "20260131", "peer_ae_title": "PACS",
        "priority": PRIORITY_OF[reading], "opened_at": now, "last_new_at": now, "closes_at": now,
        "received_count": 3, "step_seconds": {},
        "state": {"failed": "failed", None: "reading"}.get(reading, "delivered"),
    }  # fmt: skip
    with node.database.writing() as session:
        patient = session.query(PatientRow).filter_by(patient_id=patient_id).first()
        if patient is None:
            patient = PatientRow(patient_id=patient_id, issuer_of_patient_id="", created_at=now)
            session.add(patient)
            session.flush()
        session.add(ExamRow(**{**values, "patient_row_id": patient.id, **columns}))
        session.flush()
        if reading in ("ibd", "healthy", "unpredicted"):
            if session.get(ModelPackageRow, DIGEST) is None:
                named = {"digest": DIGEST, "name": "m", "version": "1", "manifest": {}, "registered_at": now}
                session.add(ModelPackageRow(**named))
                session.flush()
            prediction = PredictionRow(
                exam_id=exam_id, model_digest=DIGEST, recipe_digest=DIGEST, reading=reading,
                unpredicted_reason="below_threshold" if reading == "unpredicted" else None,
                probability={"ibd": 0.97, "healthy": 0.05}.get(reading), threshold=0.85, top_k=5,
                vote_mode="probabilities", frames_kept=evidence, frames_rejected=1, frames_used=evidence,
                patient_row_id=patient.id, created_at=now,
            )  # fmt: skip
            session.add(prediction)
            session.flush()
            for position in range(1, evidence + 1):
                instance = InstanceRow(
                    sop_instance_uid=f"1.2.{number}.{position}", sop_class_uid="1", transfer_syntax_uid="1",
                    study_instance_uid=f"1.2.{number}", series_instance_uid="1", patient_id=patient_id,
                    issuer_of_patient_id="", modality="ES", sha256=f"{number:060x}{position:04x}",
                    disposition="accepted", size_bytes=1, exam_key=f"{number:064x}", first_revision=1,
                    calling_ae_title="PACS", received_at=now,
                )  # fmt: skip
                session.add(instance)
                session.flush()
                frame = FrameRow(
                    exam_id=exam_id, instance_id=instance.id, frame_number=1, kept=True, label=reading,
                    probability=0.97, confidence=0.97, synthetic_share=0.0,
                )  # fmt: skip
                session.add(frame)
                session.flush()
                shown = {"prediction_id": prediction.id, "frame_id": frame.id, "position": position}
                session.add(EvidenceRow(**shown, voted=True, gate="clean"))
    return exam_id
