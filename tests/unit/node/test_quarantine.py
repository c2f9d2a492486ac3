"""What a person does with what was set aside, and with a study under the wrong patient."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from db.tables import ExamRow, InstanceRow, PatientRow
from node.errors import NotFoundError
from node.exams import instances_of
from node.house import Node
from node.quarantine import accept, discard, list_quarantined, move_study
from node.settings import Peer
from tests.unit.node.conftest import Sender, digest_of, wait_for_lock


def _newest(node: Node) -> list[tuple[ExamRow, str, int]]:
    with node.database.reading() as session:
        found = [
            (exam, patient.patient_id if patient else "", len(instances_of(session, exam)))
            for exam, patient in session.execute(
                select(ExamRow, PatientRow)
                .outerjoin(PatientRow, ExamRow.patient_row_id == PatientRow.id)
                .where(ExamRow.superseded_by.is_(None))
                .order_by(ExamRow.opened_at)
            )
        ]
        session.expunge_all()
    return found


def test_an_accepted_object_is_read_under_its_own_patient(node: Node, send: Sender) -> None:
    """A person says that the second patient in the study is right: it gets an exam of its own."""
    send("1.2.1")
    other = send("1.2.2", patient_id="P2")
    assert [row["instance_id"] for row in list_quarantined(node)] == [other.id]
    accept(node, other.id)
    assert list_quarantined(node) == []
    assert [(patient, count) for _, patient, count in _newest(node)] == [("P1", 1), ("P2", 1)]


def test_a_discarded_object_is_gone_with_its_bytes(node: Node, send: Sender) -> None:
    """Nothing else holds them, so they are purged; the row remains as the record."""
    send("1.2.1")
    other = send("1.2.2", patient_id="P2", content=b"theirs")
    discard(node, other.id)
    assert not node.files.path(digest_of(b"theirs")).exists()
    with pytest.raises(NotFoundError):
        discard(node, other.id)


def test_bytes_that_another_object_holds_are_not_discarded(node: Node, send: Sender) -> None:
    """Files are kept by digest: two rows may rest on the same bytes."""
    send("1.2.1", content=b"same")
    discard(node, send("1.2.2", patient_id="P2", content=b"same").id)
    assert node.files.path(digest_of(b"same")).exists()


def test_an_accepted_replacement_puts_the_first_in_quarantine(node: Node, send: Sender) -> None:
    """Exactly one object a UID is in force, before and after; neither is lost."""
    first = send("1.2.1")
    send("1.2.9")
    second = send("1.2.1", content=b"other")
    with node.database.writing() as session:
        row = session.get_one(InstanceRow, second.id)
        row.disposition, row.disposition_reason = "quarantined", "other_pixels"
        session.scalars(select(ExamRow)).one().state = "delivered"
    accept(node, second.id)
    assert [row["instance_id"] for row in list_quarantined(node)] == [first.id]
    ((exam, _, count),) = _newest(node)
    assert (exam.revision, count) == (2, 2)


def test_a_moved_study_is_read_anew_with_what_waited_for_it(node: Node, send: Sender) -> None:
    """The correction of a wrong Patient ID: one exam, under the right patient, of all its images."""
    send("1.2.1", patient_id="WRONG")
    send("1.2.2", patient_id="RIGHT")
    move_study(node, "1.2.3", "RIGHT")
    ((exam, patient, count),) = _newest(node)
    assert (patient, count, exam.revision, exam.has_conflict) == ("RIGHT", 2, 2, False)
    assert list_quarantined(node) == []
    assert send("1.2.4", patient_id="RIGHT").disposition == "accepted"
    with pytest.raises(NotFoundError):
        move_study(node, "1.9.9", "RIGHT")


def _send_report(send: Sender, sop_instance_uid: str, patient_id: str) -> InstanceRow:
    pdf = "1.2.840.10008.5.1.4.1.1.104.1"
    return send(sop_instance_uid, patient_id=patient_id, sop_class_uid=pdf, modality="DOC")


def _quarantine(node: Node, instance_id: int, reason: str) -> None:
    """Settle a pending object as the comparison would."""
    with node.database.writing() as session:
        row = session.get_one(InstanceRow, instance_id)
        row.disposition, row.disposition_reason = "quarantined", reason


def _row(node: Node, instance_id: int) -> InstanceRow:
    with node.database.reading() as session:
        row = session.get_one(InstanceRow, instance_id)
        session.expunge(row)
    return row


def test_an_image_under_the_old_name_can_be_accepted_after_a_move(node: Node, send: Sender) -> None:
    """The old patient's exam had a first revision already: this is its next."""
    send("1.2.1", patient_id="OLD")
    move_study(node, "1.2.3", "NEW")
    late = send("1.2.2", patient_id="OLD")
    accept(node, late.id)
    assert [(patient, exam.revision, count) for exam, patient, count in _newest(node)] == [
        ("NEW", 2, 1),
        ("OLD", 2, 1),
    ]


def test_of_two_that_wait_under_one_uid_a_move_takes_one(node: Node, send: Sender) -> None:
    """Which of two pictures of one name is right is for a person to say."""
    send("1.2.1", patient_id="WRONG")
    first = send("1.2.2", patient_id="RIGHT")
    second = send("1.2.2", patient_id="RIGHT", content=b"again")
    move_study(node, "1.2.3", "RIGHT")
    assert [row["instance_id"] for row in list_quarantined(node)] == [second.id]
    ((exam, patient, count),) = _newest(node)
    assert (patient, count, exam.has_conflict) == ("RIGHT", 2, True)
    accept(node, second.id)
    assert [(row["instance_id"], row["reason"]) for row in list_quarantined(node)] == [(first.id, "replaced")]
    assert _newest(node)[0][2] == 2


def test_of_three_pictures_of_one_uid_the_last_accepted_is_in_force(node: Node, send: Sender) -> None:
    """The second contradicted the first; by the time it is accepted, the third has taken its place."""
    first = send("1.2.1")
    second, third = send("1.2.1", content=b"second"), send("1.2.1", content=b"third")
    for row in (second, third):
        _quarantine(node, row.id, "other_pixels")
    accept(node, third.id)
    accept(node, second.id)
    assert {row["instance_id"] for row in list_quarantined(node)} == {first.id, third.id}
    assert _newest(node)[0][2] == 1


def test_a_corrected_re_send_takes_the_place_of_what_it_corrects(node: Node, send: Sender) -> None:
    """The archive sends the study again under the right Patient ID: results then copy the right header."""
    first = send("1.2.1", patient_id="WRONG")
    send("1.2.2", patient_id="WRONG")
    corrected = send("1.2.1", patient_id="RIGHT", content=b"corrected")
    _quarantine(node, corrected.id, "other_patient_id")
    move_study(node, "1.2.3", "RIGHT")
    ((exam, patient, count),) = _newest(node)
    assert (patient, count) == ("RIGHT", 2)
    with node.database.reading() as session:
        assert corrected.id in [row.id for row in instances_of(session, exam)]
    assert [(row["instance_id"], row["reason"]) for row in list_quarantined(node)] == [(first.id, "replaced")]


def test_a_move_opens_an_exam_where_everything_waits(node: Node, send: Sender) -> None:
    """A report under a wrong Patient ID came first: every image of the study was set aside."""
    _send_report(send, "1.2.1", "WRONG")
    late_report = _send_report(send, "1.2.9", "RIGHT")
    with pytest.raises(NotFoundError):
        move_study(node, "1.2.3", "RIGHT")
    send("1.2.2", patient_id="RIGHT", issuer_of_patient_id="HOSPITAL")
    send("1.2.3", patient_id="RIGHT")
    move_study(node, "1.2.3", "RIGHT")
    ((exam, patient, count),) = _newest(node)
    assert (patient, count, exam.revision, exam.peer_ae_title, exam.accession_number) == (
        "RIGHT", 2, 1, "PACS", "A1",
    )  # fmt: skip
    assert list_quarantined(node) == []
    assert _row(node, late_report.id).disposition == "kept"


def test_an_accepted_report_is_kept_and_not_read(node: Node, send: Sender) -> None:
    """A PDF has no frames: as an accepted image it would make every reading of its exam fail."""
    send("1.2.1")
    report = _send_report(send, "1.2.2", "P2")
    assert accept(node, report.id) is None
    assert (_row(node, report.id).disposition, _row(node, report.id).exam_key) == ("kept", None)
    assert len(_newest(node)) == 1


def test_the_flag_goes_with_the_last_of_what_is_quarantined(node: Node, send: Sender) -> None:
    """The list that the flag points to is empty then."""
    send("1.2.1")
    second, third = send("1.2.2", patient_id="P2"), send("1.2.3", patient_id="P2")
    discard(node, second.id)
    assert _newest(node)[0][0].has_conflict
    accept(node, third.id)
    assert [exam.has_conflict for exam, _, _ in _newest(node)] == [False, False]


def test_the_flag_of_another_study_goes_too(node: Node, send: Sender) -> None:
    """One UID in two studies: what contradicts lies in the second, the flagged exam in the first."""
    first = send("1.2.1")
    second = send("1.2.1", study_instance_uid="1.2.4", content=b"second")
    _quarantine(node, second.id, "other_study_instance_uid")
    accept(node, second.id)
    assert [exam.has_conflict for exam, _, _ in _newest(node)] == [True, True]
    discard(node, first.id)
    assert [exam.has_conflict for exam, _, _ in _newest(node)] == [False, False]


def test_an_accepted_issuer_is_not_read_with_another_s_images(node: Node) -> None:
    """The first exam is its issuer's by default only, and by its headers another's: two patients."""
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=1, default_issuer="HOSPITAL")
    settings = node.settings.model_copy(update={"peers": (peer,)})
    send = Sender(Node(settings, node.database, node.files, node.jobs, node.installation_id))
    send("1.2.1")
    send("1.2.2", issuer_of_patient_id="CLINIC")
    other = send("1.2.3", issuer_of_patient_id="HOSPITAL")
    accept(node, other.id)
    assert [(exam.revision, count) for exam, _, count in _newest(node)] == [(1, 2), (1, 1)]
    assert send("1.2.4", issuer_of_patient_id="HOSPITAL").disposition == "accepted"
    assert [count for _, _, count in _newest(node)] == [2, 2]


@pytest.mark.postgres
def test_what_was_discarded_meanwhile_is_not_accepted(postgres_node: Node) -> None:
    """Two people decide at once: the second must see what the first has done, for the bytes are gone."""
    node = postgres_node
    send = Sender(node)
    send("1.2.1")
    other = send("1.2.2", patient_id="P2")
    with ThreadPoolExecutor(1) as pool:
        with node.database.writing() as session:
            node.database.lock_study(session, "1.2.3")
            accepted = pool.submit(accept, node, other.id)
            wait_for_lock(node)
            session.get_one(InstanceRow, other.id).disposition = "discarded"
        with pytest.raises(NotFoundError):
            accepted.result(20)
