"""Studies of real frames come back from a real PACS as Secondary Captures."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import dcmsend

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

MULTI_FRAME_TRUE_COLOUR_SC = "1.2.840.10008.5.1.4.1.1.7.4"


def _validate(path: Path) -> str:
    """Return dciodvfy's complaints."""
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith("Error"))


@pytest.mark.alone
@pytest.mark.parametrize("associations", [1, 4])
@pytest.mark.parametrize("jpeg_quality", [90, None], ids=["jpeg", "explicit-le"])
def test_three_studies_are_answered(
    start_pair: Callable[..., Pair],
    studies: Studies,
    tmp_path: Path,
    associations: int,
    jpeg_quality: int | None,
) -> None:
    """What the node is for: UC, normal and mixed studies sent in, their readings in the archive."""
    quiet_time_s = 3
    node, orthanc = start_pair(quiet_time_s=quiet_time_s)
    node.start()
    uc, normal = studies.of("uc")[0], studies.of("normal")[0]
    sent = {
        "1.2.826.0.1.1": studies.write("1.2.826.0.1.1", [uc], patient_id="A", jpeg_quality=jpeg_quality),
        "1.2.826.0.1.2": studies.write("1.2.826.0.1.2", [normal], patient_id="B", jpeg_quality=jpeg_quality),
        "1.2.826.0.1.3": studies.write(
            "1.2.826.0.1.3", [uc, normal], patient_id="C", limit=5, jpeg_quality=jpeg_quality
        ),
    }
    everything = [path for paths in sent.values() for path in paths]
    parts = [everything[start::associations] for start in range(associations)]
    with ThreadPoolExecutor(associations) as pool:
        for done in pool.map(lambda part: dcmsend(node.port, part), parts):
            assert done.returncode == 0, done.stderr
    started = time.monotonic()
    exams = node.wait_delivered(list(sent), quiet_time_s + 30)
    assert time.monotonic() - started <= quiet_time_s + 30
    for study, paths in sent.items():
        exam = exams[study]
        assert exam["counts"]["received"] == len(paths)
        assert exam["counts"]["kept"] + exam["counts"]["rejected"] == len(paths)
        assert exam["completeness"]["verdict"] == "unknown"
        assert exam["reading"] in ("ibd", "healthy", "unpredicted")
        assert exam["revision"] == 1
        assert exam["error"] is None
        held = orthanc.instances(study)
        assert set(held) == set(exam["result_uids"])
        result = next(each for each in held.values() if each["Modality"] == "OT")
        assert result["SOPClassUID"] == MULTI_FRAME_TRUE_COLOUR_SC
        assert {each["Modality"] for each in held.values()} == {"OT", "SR", "KO"}
        returned = orthanc.file(result["id"])
        (stored,) = [
            path for path in (node.folder / "store" / "objects").rglob("*")
            if path.is_file() and result["SOPInstanceUID"].encode() in path.read_bytes()[:2000]
        ]  # fmt: skip
        ours, theirs = dcmread(stored), dcmread(BytesIO(returned))
        assert np.array_equal(ours.pixel_array, theirs.pixel_array)
        copy = tmp_path / f"{study}.dcm"
        copy.write_bytes(returned)
        assert _validate(copy) == ""


def test_a_study_sent_by_the_pacs_itself_is_complete(
    start_pair: Callable[..., Pair], studies: Studies
) -> None:
    """Asked what it holds, the PACS names the images it sent, so the verdict is complete, not a guess."""
    node, orthanc = start_pair()
    node.start()
    study = "1.2.826.0.2.1"
    for path in studies.write(study, studies.of("uc"), patient_id="A"):
        orthanc.post("/instances", path.read_bytes())
    (orthanc_study,) = orthanc.get("/studies")
    orthanc.post("/modalities/node/store", {"Resources": [orthanc_study], "Synchronous": True})
    exam = node.wait_delivered([study], 60)[study]
    assert exam["completeness"] == {"verdict": "complete", "reason": "set", "expected": 8, "missing": 0}


def test_a_study_that_lacks_images_says_so(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """What did not arrive is asked for until `max_wait_s`; then the result names how many are missing."""
    node, orthanc = start_pair(quiet_time_s=1, extra="max_wait_s = 3")
    node.start()
    study = "1.2.826.0.2.2"
    paths = studies.write(study, studies.of("uc"), patient_id="A")
    for path in paths:
        orthanc.post("/instances", path.read_bytes())
    assert dcmsend(node.port, paths[:6]).returncode == 0
    exam = node.wait_delivered([study], 60)[study]
    assert exam["completeness"] == {"verdict": "incomplete", "reason": "set", "expected": 8, "missing": 2}
    assert exam["counts"]["received"] == 6


def test_own_results_sent_back_start_nothing(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """A PACS that forwards everything must not make the node read its own answer, recompressed or not."""
    node, orthanc = start_pair(quiet_time_s=1)
    node.start()
    study = "1.2.826.0.2.3"
    assert dcmsend(node.port, studies.write(study, studies.of("uc"), patient_id="A")).returncode == 0
    node.wait_delivered([study], 60)
    held = orthanc.instances(study).values()
    for each in held:
        orthanc.post("/modalities/node/store", {"Resources": [each["id"]], "Synchronous": True})
    result = next(each for each in held if each["Modality"] == "OT")
    recompressed = orthanc.post_bytes(
        f"/instances/{result['id']}/modify", {"Transcode": "1.2.840.10008.1.2.4.50", "Force": True}
    )
    copy = orthanc.post("/instances", recompressed)
    assert copy["ID"] != result["id"]
    orthanc.post("/modalities/node/store", {"Resources": [copy["ID"]], "Synchronous": True})
    time.sleep(3)
    exams = node.exams()
    assert [(exam["revision"], exam["state"]) for exam in exams] == [(1, "delivered")]
