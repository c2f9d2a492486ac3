"""The short way into an open exam ends where the long way does."""

import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from db.engine import utc_now
from db.tables import ExamRow, InstanceRow, PatientRow, ResultObjectRow
from node.errors import NotFoundError
from node.house import Node
from node.next_object import OpenExams
from node.quarantine import move_study
from tests.unit.node.conftest import Sender

USUAL = st.fixed_dictionaries({"uid": st.integers(0, 60)})
ODD = st.fixed_dictionaries(
    {"uid": st.integers(0, 60)},
    optional={
        "study": st.just(2),
        "patient": st.sampled_from(["P2", ""]),
        "issuer_of_patient_id": st.sampled_from(["I1", "I2"]),
        "accession_number": st.just(""),
        "modality": st.just("CT"),
        "content": st.just(b"other"),
        "series": st.just(9),
    },
)
EVENTS = st.one_of(USUAL, USUAL, USUAL, ODD, ODD, st.sampled_from(["close", "move", "emit"]))
PLAIN = {"study": 1, "patient": "P1", "issuer_of_patient_id": "", "accession_number": "A1", "modality": "ES",
         "content": None, "series": 1}  # fmt: skip


class Counted(OpenExams):
    """Counts who took the short way."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def admit_next(self, *args: Any) -> bool:
        """Count and forward."""
        admitted = super().admit_next(*args)
        self.count += admitted
        return admitted


@dataclass
class World:
    """One of two copies of a hospital in the same database: its UIDs and Patient IDs are its own."""

    sender: Sender
    prefix: int
    is_forgetful: bool

    def live(self, event: Any) -> None:
        """Let something happen."""
        node = self.sender.node
        if self.is_forgetful:
            self.sender.open_exams = OpenExams()
        if event == "close":
            with node.database.writing() as session:
                for exam in self._exams(session):
                    exam.state = "read" if exam.state == "receiving" else exam.state
        elif event == "move":
            with contextlib.suppress(NotFoundError):
                move_study(node, f"1.{self.prefix}.1", f"{self.prefix}P2")
        elif event == "emit":
            self._emit(node)
        else:
            event = PLAIN | event
            patient = event["patient"]
            self.sender(
                f"1.{self.prefix}.7.{event['uid']}",
                study_instance_uid=f"1.{self.prefix}.{event['study']}",
                series_instance_uid=f"1.{self.prefix}.8.{event['series']}",
                patient_id=f"{self.prefix}{patient}" if patient else "",
                content=event["content"] and event["content"] + str(self.prefix).encode(),
                sop_class_uid="1.2.840.10008.5.1.4.1.1.77.1.1" if event["modality"] == "ES"
                else "1.2.840.10008.5.1.4.1.1.2",
                **{name: event[name] for name in ("issuer_of_patient_id", "accession_number", "modality")},
            )  # fmt: skip

    def _emit(self, node: Node) -> None:
        """Say that series 9 is one of ours."""
        with node.database.writing() as session:
            exams = self._exams(session)
            emitted = select(ResultObjectRow.id).where(
                ResultObjectRow.sop_instance_uid == f"1.{self.prefix}.9"
            )
            if exams and session.scalar(emitted) is None:
                session.add(ResultObjectRow(
                    exam_id=exams[0].id, kind="sc", form="multi_frame", item=0,
                    sop_instance_uid=f"1.{self.prefix}.9", sop_class_uid="1.2",
                    series_instance_uid=f"1.{self.prefix}.8.9", sha256="0" * 64, size_bytes=1,
                    created_at=utc_now(),
                ))  # fmt: skip

    def _exams(self, session: Any) -> list[ExamRow]:
        mine = ExamRow.study_instance_uid.startswith(f"1.{self.prefix}.")
        return list(
            session.scalars(select(ExamRow).where(mine).order_by(ExamRow.opened_at, ExamRow.revision))
        )

    def tells(self) -> list[Any]:
        """Return all that can be seen of it, instants and generated names apart."""
        mine = str(self.prefix)
        with self.sender.node.database.reading() as session:
            exams = self._exams(session)
            places = {(exam.exam_key, exam.revision): number for number, exam in enumerate(exams)}
            rows = list(session.scalars(
                select(InstanceRow).where(InstanceRow.study_instance_uid.startswith(f"1.{mine}."))
                .order_by(InstanceRow.id)
            ))  # fmt: skip
            patients = {row.id: row for row in session.scalars(select(PatientRow))}
            numbers = {row.id: number for number, row in enumerate(rows)}
            newest = {row.received_at: number for number, row in enumerate(rows)}
            of_exam = [
                (exam.revision, exam.state, exam.superseded_by is not None, exam.accession_number,
                 exam.has_conflict, newest.get(exam.last_new_at), exam.closes_at - exam.last_new_at,
                 _named(patients.get(exam.patient_row_id or 0), mine))
                for exam in exams
            ]  # fmt: skip
            of_row = [
                (row.sop_instance_uid.removeprefix(f"1.{mine}"), row.disposition, row.disposition_reason,
                 numbers.get(row.same_as_id or 0), places.get((row.exam_key or "", row.first_revision or 0)))
                for row in rows
            ]  # fmt: skip
        return [of_exam, of_row]


def _named(patient: PatientRow | None, prefix: str) -> Any:
    return patient and (patient.patient_id.removeprefix(prefix), patient.issuer_of_patient_id)


def test_the_short_way_ends_where_the_long_way_does(send: Sender) -> None:
    """Whether the last object of a patient is remembered must never decide what becomes of the next one."""
    prefixes = itertools.count(10)
    counted = Counted()

    @settings(max_examples=60)
    @example([{"uid": 1}, "emit", {"uid": 2, "series": 9}])
    @example([{"uid": 1, "accession_number": ""}, {"uid": 2, "accession_number": ""}, {"uid": 3}])
    @given(st.lists(EVENTS, min_size=8, max_size=25))
    def check(events: list[Any]) -> None:
        remembering, forgetful = (
            World(Sender(send.node), next(prefixes), is_forgetful=is_forgetful)
            for is_forgetful in (False, True)
        )
        remembering.sender.open_exams = counted
        for event in events:
            for world in (remembering, forgetful):
                world.live(event)
        assert remembering.tells() == forgetful.tells()

    check()
    assert counted.count > 30
