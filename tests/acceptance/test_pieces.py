"""The ways a study really arrives: twice, interleaved, in pieces, late, over a broken association."""

import time
from collections.abc import Callable

import pytest
from pydicom import dcmread
from pynetdicom import AE

from node.demo.wrapping import wrap
from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import dcmsend, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.data]


def test_the_same_study_twice_is_read_once(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """Re-sending is what every PACS does; it must cost neither a second reading nor a second result."""
    node, orthanc = start_pair(quiet_time_s=2, late_quiet_time_s=2)
    node.start()
    study = "1.2.826.0.6.1"
    paths = studies.write(study, studies.of("uc"), patient_id="A")
    assert dcmsend(node.port, paths).returncode == 0
    assert dcmsend(node.port, paths).returncode == 0
    node.wait_delivered([study], 60)
    assert dcmsend(node.port, paths).returncode == 0
    time.sleep(4)
    (exam,) = node.exams()
    assert (exam["revision"], exam["counts"]["received"], exam["state"]) == (1, len(paths), "delivered")
    assert set(orthanc.instances(study)) == set(exam["result_uids"])


def test_interleaved_studies_are_kept_apart(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """Two rooms send at once: frames of one patient never count for the other."""
    node, _ = start_pair(quiet_time_s=2)
    node.start()
    first = studies.write("1.2.826.0.6.2", studies.of("uc"), patient_id="A")
    second = studies.write("1.2.826.0.6.3", studies.of("normal"), patient_id="B", limit=5)
    mixed = [path for pair in zip(first, second, strict=False) for path in pair]
    mixed += [path for path in (*first, *second) if path not in mixed]
    assert dcmsend(node.port, mixed).returncode == 0
    exams = node.wait_delivered(["1.2.826.0.6.2", "1.2.826.0.6.3"], 60)
    assert {exam["patient_id"]: exam["counts"]["received"] for exam in exams.values()} == {
        "A": len(first),
        "B": len(second),
    }


def test_three_pieces_within_quiet_time_are_one_revision(
    start_pair: Callable[..., Pair], studies: Studies
) -> None:
    """Quiet time runs from the last new image, so slow senders are not cut in pieces."""
    node, _ = start_pair(quiet_time_s=4)
    node.start()
    study = "1.2.826.0.6.4"
    paths = studies.write(study, studies.of("uc"), patient_id="A")
    for part in (paths[:3], paths[3:6], paths[6:]):
        assert dcmsend(node.port, part).returncode == 0
        time.sleep(2)
    exam = node.wait_delivered([study], 60)[study]
    assert (exam["revision"], exam["counts"]["received"]) == (1, len(paths))


def test_a_late_image_makes_a_revision_that_supersedes(
    start_pair: Callable[..., Pair], studies: Studies
) -> None:
    """The late image is never lost; the first result stands, and the second says what it replaces."""
    node, orthanc = start_pair(quiet_time_s=1, late_quiet_time_s=1)
    node.start()
    study = "1.2.826.0.6.5"
    paths = studies.write(study, studies.of("uc"), patient_id="A")
    assert dcmsend(node.port, paths[:-1]).returncode == 0
    node.wait_delivered([study], 60)
    assert dcmsend(node.port, paths[-1:]).returncode == 0
    wait_for("revision 2", lambda: len(node.exams()) == 2, 10)
    newest = node.wait_delivered([study], 60)[study]
    first = next(exam for exam in node.exams() if exam["revision"] == 1)
    assert (newest["revision"], newest["counts"]["received"]) == (2, len(paths))
    assert (first["superseded_by"], first["counts"]["received"]) == (newest["exam_id"], len(paths) - 1)
    held = orthanc.instances(study)
    assert set(held) == {*first["result_uids"], *newest["result_uids"]}
    assert len({instance["SeriesInstanceUID"] for instance in held.values()}) == 2 * 3  # a kind, a revision


def test_an_aborted_association_keeps_what_was_answered(
    start_pair: Callable[..., Pair], studies: Studies
) -> None:
    """The cable is pulled in mid study; what was answered 0x0000 is there, and the re-send completes it."""
    node, _ = start_pair(quiet_time_s=3)
    node.start()
    study = "1.2.826.0.6.6"
    paths = studies.write(study, studies.of("uc"), patient_id="A")
    datasets = [dcmread(path) for path in paths]
    ae = AE(ae_title="PACS")
    ae.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="ENDONODE")
    assert assoc.is_established
    for ds in datasets[:4]:
        assert assoc.send_c_store(ds).Status == 0x0000
    assoc.abort()
    assert dcmsend(node.port, paths).returncode == 0
    exam = node.wait_delivered([study], 60)[study]
    assert (exam["revision"], exam["counts"]["received"]) == (1, len(paths))


def test_a_bronchoscopy_is_answered_unpredicted(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """The model has never seen a bronchus: it is not run on one, and the answer says why."""
    node, orthanc = start_pair(quiet_time_s=1)
    node.start()
    study = "1.2.826.0.6.7"
    paths = studies.write(study, studies.of("normal"), patient_id="A", limit=3)
    for path in paths:
        ds = dcmread(path)
        ds.BodyPartExamined = "BRONCHUS"
        ds.save_as(path)
    assert dcmsend(node.port, paths).returncode == 0
    exam = node.wait_delivered([study], 60)[study]
    assert (exam["reading"], exam["unpredicted_reason"]) == ("unpredicted", "not_lower_gi")
    assert (exam["counts"]["kept"], exam["evidence"]) == (0, [])
    assert {each["Modality"] for each in orthanc.instances(study).values()} == {"OT", "SR"}


def test_another_picture_under_a_known_uid_is_quarantined(
    start_pair: Callable[..., Pair], studies: Studies
) -> None:
    """It is kept and reported, never read, and never takes the place of the first."""
    node, _ = start_pair(quiet_time_s=1)
    node.start()
    study = "1.2.826.0.6.8"
    paths = studies.write(study, studies.of("uc"), patient_id="A", limit=3)
    assert dcmsend(node.port, paths).returncode == 0
    node.wait_delivered([study], 60)
    ds = dcmread(paths[0])
    other = wrap(
        ds.pixel_array[::-1].copy(),
        patient_id="A",
        study_instance_uid=study,
        sop_instance_uid=str(ds.SOPInstanceUID),
        jpeg_quality=90,
    )
    other.save_as(paths[0], enforce_file_format=True)
    assert dcmsend(node.port, paths[:1]).returncode == 0
    exam = wait_for(
        "the quarantine",
        lambda: next((exam for exam in node.exams() if exam["counts"]["quarantined"] == 1), None),
        20,
    )
    assert exam["has_conflict"]
    assert "other pixels" in node.command("quarantine", "list").stdout
