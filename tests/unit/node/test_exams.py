"""Grouping: whose exam an object belongs to, when a revision opens, what is set aside."""

from sqlalchemy import select

from db.engine import utc_now
from db.tables import AuditEventRow, DeliveryRow, ExamRow, InstanceRow, JobRow, PatientRow, ResultObjectRow
from db.tables.exams import IBD
from node.exams import instances_of
from node.house import Node
from node.quarantine import move_study
from node.settings import Peer
from tests.unit.node.conftest import Sender


def _exams(node: Node) -> list[ExamRow]:
    with node.database.reading() as session:
        exams = list(session.scalars(select(ExamRow).order_by(ExamRow.opened_at, ExamRow.revision)))
        session.expunge_all()
    return exams


def _set_state(node: Node, exam_id: str, state: str) -> None:
    with node.database.writing() as session:
        session.get_one(ExamRow, exam_id).state = state


def test_frames_of_one_patient_and_study_make_one_exam(node: Node, send: Sender) -> None:
    """A patient is read from all frames of one exam together; padding and order do not split it."""
    assert {send(f"1.2.{n}").disposition for n in range(3)} == {"accepted"}
    (exam,) = _exams(node)
    assert (exam.state, exam.revision, exam.accession_number) == ("receiving", 1, "A1")
    with node.database.reading() as session:
        assert len(instances_of(session, exam)) == 3
        assert session.scalars(select(JobRow.kind)).all() == ["close"]


def test_every_new_image_pushes_the_end_of_quiet_time_out(node: Node, send: Sender) -> None:
    """Quiet time runs from the last new instance."""
    send("1.2.1")
    before = _exams(node)[0].closes_at
    send("1.2.2")
    assert _exams(node)[0].closes_at > before


def test_a_byte_equal_copy_never_extends_an_exam(node: Node, send: Sender) -> None:
    """A PACS that re-sends for an hour must not hold an exam open for an hour."""
    send("1.2.1")
    before = _exams(node)[0].closes_at
    assert send("1.2.1").disposition == "duplicate"
    assert _exams(node)[0].closes_at == before


def test_same_uid_with_other_bytes_waits_for_comparison(node: Node, send: Sender) -> None:
    """The store answers at once: whether the pixels differ is decided by a job, since it decodes."""
    first = send("1.2.1")
    second = send("1.2.1", content=b"other")
    assert (second.disposition, second.same_as_id) == ("pending", first.id)
    with node.database.reading() as session:
        assert "compare" in session.scalars(select(JobRow.kind)).all()


def test_a_second_patient_in_one_study_is_quarantined(node: Node, send: Sender) -> None:
    """Frames of two patients read as one would be the worst error of all."""
    send("1.2.1")
    other = send("1.2.2", patient_id="P2")
    assert (other.disposition, other.disposition_reason) == ("quarantined", "patient_id_conflict")
    assert _exams(node)[0].has_conflict


def test_an_absent_issuer_contradicts_nothing(node: Node, send: Sender) -> None:
    """Devices leave the issuer out; that makes no second patient."""
    send("1.2.1", issuer_of_patient_id="")
    assert send("1.2.2", issuer_of_patient_id="HOSPITAL").disposition == "accepted"
    assert send("1.2.3", issuer_of_patient_id="").disposition == "accepted"
    assert len(_exams(node)) == 1
    assert send("1.2.4", issuer_of_patient_id="CLINIC").disposition_reason == "issuer_conflict"


def test_an_empty_patient_id_is_linked_to_nothing(node: Node, send: Sender) -> None:
    """Two nameless studies are two exams of nobody in particular."""
    send("1.2.1", patient_id="")
    send("1.2.2", patient_id="", study_instance_uid="1.2.4")
    first, second = _exams(node)
    assert first.patient_row_id is second.patient_row_id is None
    assert first.exam_key != second.exam_key


def test_what_is_not_endoscopy_is_kept_without_an_exam(node: Node, send: Sender) -> None:
    """Refusing a PDF makes a PACS's send fail and retry for ever."""
    assert send("1.2.1", sop_class_uid="1.2.840.10008.5.1.4.1.1.104.1", modality="DOC").disposition == "kept"
    assert _exams(node) == []


def test_a_secondary_capture_is_endoscopy_only_by_its_modality(node: Node, send: Sender) -> None:
    """Bronchoscopy and endoscopy do arrive as Secondary Capture; a CT screen shot does too."""
    sc = "1.2.840.10008.5.1.4.1.1.7"
    assert send("1.2.1", sop_class_uid=sc, modality="ES").disposition == "accepted"
    assert send("1.2.2", sop_class_uid=sc, modality="OT").disposition == "kept"
    assert len(_exams(node)) == 1


def test_a_late_image_opens_the_next_revision_and_withdraws_what_is_unsent(node: Node, send: Sender) -> None:
    """A result known to lack an image must not leave any more; one that is being sent may end."""
    send("1.2.1")
    (exam,) = _exams(node)
    with node.database.writing() as session:
        read = session.get_one(ExamRow, exam.id)
        read.state, read.priority = "delivering", IBD
        for peer, state in (("PACS", "pending"), ("OTHER", "sending")):
            session.add(DeliveryRow(exam_id=exam.id, peer_ae_title=peer, state=state, deadline_at=utc_now()))
    send("1.2.2")
    first, second = _exams(node)
    assert (first.superseded_by, first.state, second.revision) == (second.id, "read", 2)
    with node.database.reading() as session:
        states = {(row.peer_ae_title, row.state) for row in session.scalars(select(DeliveryRow))}
        assert states == {("PACS", "withdrawn"), ("OTHER", "sending")}
        assert len(instances_of(session, first)) == 1
        assert len(instances_of(session, second)) == 2
    assert second.priority == IBD, "a late image takes no sure positive off the top of the list"
    assert (second.closes_at - second.opened_at).total_seconds() == node.settings.late_quiet_time_s


def test_an_own_result_never_starts_a_job(node: Node, send: Sender) -> None:
    """A PACS that forwards our result back to us must not make a loop; nor may a copy under a new UID."""
    send("1.2.1")
    (exam,) = _exams(node)
    _set_state(node, exam.id, "delivered")
    with node.database.writing() as session:
        session.add(
            ResultObjectRow(
                exam_id=exam.id, kind="sc", form="multi_frame", item=1, sop_instance_uid="2.25.7",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7.4", series_instance_uid="2.25.8",
                sha256="0" * 64, size_bytes=1, created_at=utc_now(),
            )
        )  # fmt: skip
    sc = "1.2.840.10008.5.1.4.1.1.7.4"
    assert send("2.25.7", sop_class_uid=sc).disposition == "own"
    assert send("2.25.9", sop_class_uid=sc, series_instance_uid="2.25.8").disposition == "own"
    assert len(_exams(node)) == 1
    with node.database.reading() as session:
        assert session.scalars(select(JobRow.kind)).all() == ["close"]


def test_every_step_of_an_exam_is_an_audit_event(node: Node, send: Sender) -> None:
    """What happened to an exam is told by its trail alone."""
    send("1.2.1")
    _set_state(node, _exams(node)[0].id, "read")
    send("1.2.2")
    with node.database.reading() as session:
        events = session.scalars(select(AuditEventRow.event).order_by(AuditEventRow.id)).all()
        assert session.scalars(select(InstanceRow.exam_key).distinct()).all() == [_exams(node)[0].exam_key]
    assert events == ["exam_opened", "exam_opened", "exam_superseded"]


def test_after_a_move_a_nameless_image_joins_the_moved_exam(node: Node, send: Sender) -> None:
    """A person has said whose the study is; what names nobody does not contradict it, however late."""
    send("1.2.1", patient_id="")
    move_study(node, "1.2.3", "P9")
    _set_state(node, _exams(node)[-1].id, "delivered")
    assert send("1.2.2", patient_id="").disposition == "accepted"
    assert send("1.2.3", patient_id="").disposition == "accepted"
    first, moved, late = _exams(node)
    assert (first.superseded_by, moved.superseded_by, late.superseded_by) == (moved.id, late.id, None)
    assert late.patient_row_id == moved.patient_row_id is not None
    with node.database.reading() as session:
        assert len(instances_of(session, late)) == 3


def test_after_a_move_the_old_name_still_contradicts(node: Node, send: Sender) -> None:
    """Whoever still sends the wrong Patient ID may mean another patient."""
    send("1.2.1", patient_id="WRONG")
    move_study(node, "1.2.3", "RIGHT")
    late = send("1.2.2", patient_id="WRONG")
    assert (late.disposition, late.disposition_reason) == ("quarantined", "patient_id_conflict")


def test_a_nameless_image_joins_no_patient_that_nobody_gave_it(node: Node, send: Sender) -> None:
    """Without a move, an empty Patient ID links to nothing."""
    send("1.2.1")
    send("1.2.2", patient_id="")
    assert len([exam for exam in _exams(node) if exam.superseded_by is None]) == 2


def test_the_default_issuer_names_a_new_patient_and_contradicts_nobody(node: Node) -> None:
    """Modality and archive have defaults of their own; only what a header states can differ."""
    peers = tuple(
        Peer(ae_title=name, host="127.0.0.1", port=1, default_issuer=issuer)
        for name, issuer in (("PACS", "HOSPITAL"), ("MODALITY", "ENDOSCOPY"))
    )
    settings = node.settings.model_copy(update={"peers": peers})
    send = Sender(Node(settings, node.database, node.files, node.jobs, node.installation_id))
    send("1.2.1")
    (exam,) = _exams(node)
    assert _issuer_of(node, exam) == "HOSPITAL"
    assert send("1.2.2", sender="MODALITY").disposition == "accepted"
    assert send("1.2.3", issuer_of_patient_id="CLINIC").disposition == "accepted"
    (exam,) = _exams(node)
    assert _issuer_of(node, exam) == "CLINIC"
    assert send("1.2.4", sender="MODALITY").disposition == "accepted"
    late = send("1.2.5", issuer_of_patient_id="HOSPITAL")
    assert late.disposition_reason == "issuer_conflict"


def _issuer_of(node: Node, exam: ExamRow) -> str:
    with node.database.reading() as session:
        return session.get_one(PatientRow, exam.patient_row_id).issuer_of_patient_id


def test_an_exam_superseded_after_one_peer_took_it_is_delivered(node: Node, send: Sender) -> None:
    """Nothing of it is under way any more: it must not stand as being delivered for ever."""
    send("1.2.1")
    (exam,) = _exams(node)
    with node.database.writing() as session:
        read = session.get_one(ExamRow, exam.id)
        read.state, read.priority = "delivering", IBD
        for peer, state in (("PACS", "delivered"), ("OTHER", "pending")):
            session.add(DeliveryRow(exam_id=exam.id, peer_ae_title=peer, state=state, deadline_at=utc_now()))
    send("1.2.2")
    first = _exams(node)[0]
    assert first.state == "delivered"
    assert first.delivered_at is not None


def test_a_new_revision_is_flagged_only_while_something_is_quarantined(node: Node, send: Sender) -> None:
    """A flag that outlives its cause sends a person to an empty list."""
    send("1.2.1")
    other = send("1.2.2", patient_id="P2")
    _set_state(node, _exams(node)[0].id, "delivered")
    send("1.2.3")
    assert _exams(node)[-1].has_conflict
    with node.database.writing() as session:
        session.get_one(InstanceRow, other.id).disposition = "discarded"
    _set_state(node, _exams(node)[-1].id, "delivered")
    send("1.2.4")
    assert not _exams(node)[-1].has_conflict


def test_an_exam_has_the_date_and_the_device_of_what_opened_it(node: Node, send: Sender) -> None:
    """It is searched for by the one and its rates are told by the other, in later revisions too."""
    send("1.2.1", study_date="20260301", device_model="MAKER 1")
    send("1.2.2", study_date="20260302")
    _set_state(node, _exams(node)[0].id, "read")
    send("1.2.3")
    assert [(exam.study_date, exam.device_model) for exam in _exams(node)] == [("20260301", "MAKER 1")] * 2
    (moved,) = move_study(node, "1.2.3", "P2")
    (exam,) = (exam for exam in _exams(node) if exam.id == moved)
    assert (exam.study_date, exam.device_model) == ("20260301", "MAKER 1")
