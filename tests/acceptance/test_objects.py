"""Every kind of result before the validators that are not ours, and in a real PACS beside its images."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from node.demo.painting import paint_frame
from node.demo.wrapping import wrap
from node.results.envelope import COPIED
from node.results.key_objects import build_key_objects, build_rejection_note
from node.results.report import EncodedObject, SourceReference
from node.results.secondary_capture import build_secondary_capture, to_single_frames
from node.results.structured_report import build_structured_report, to_comprehensive
from node.results.uids import derive_uid
from tests.acceptance.conftest import Pair
from tests.acceptance.peers import dcmsend
from tests.unit.node.results.conftest import NAMES, REPORTS, make_exam, make_report
from tests.unit.node.test_answers import several_frames, video

pytestmark = pytest.mark.acceptance

KNOWN = (
    "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",  # IHE AIR asks for it
    "Unrecognized defined term = <99ENDONODE>",  # private, as its name says
    "Laterality(0020,0060)> - is only permitted to be empty when actually unknown",  # which it then is
)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="replace", check=False
    )


def complaints(path: Path) -> set[str]:
    """Return what dciodvfy finds, but for the warnings known."""
    done = run("dciodvfy", "-new", path)
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))
    ]
    return {line for line in lines if not any(known in line for known in KNOWN)}


def contradictions(folder: Path) -> list[str]:
    """Return what dcentvfy finds across all files of a folder."""
    done = run("dcentvfy", *sorted(folder.glob("*.dcm")))
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def still(number: int = 1) -> bytes:
    frame = paint_frame(number, ulcers=False, instrument=False, text=None, rows=288, columns=360)
    ds = wrap(frame, patient_id="P1", study_instance_uid="1.2.3", instance_number=number, jpeg_quality=90)
    return saved(ds)


def saved(ds: Any) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def results(name: str, source: bytes) -> list[EncodedObject]:
    """Return everything that a report of that name could send, in every form."""
    ds = dcmread(io.BytesIO(source), stop_before_pixels=True)
    frames = (1, 3) if ds.get("NumberOfFrames", 1) > 1 else ()
    sources = [SourceReference(ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, None, frames)]
    exam = make_exam(ds)
    report = REPORTS[name]()
    earlier = build_structured_report(make_report(), exam, sources=sources)
    replaced = [
        SourceReference(
            earlier.sop_instance_uid, earlier.sop_class_uid, earlier.series_instance_uid, None, ()
        )
    ]
    is_revision = report.supersedes is not None
    said = build_structured_report(
        report, exam, sources=sources, predecessors=replaced if is_revision else ()
    )
    pages = build_secondary_capture(report, exam, sources=sources)
    made = [said, to_comprehensive(said.data), pages, *to_single_frames(pages.data)]
    if report.evidence:
        made.append(build_key_objects(report, exam, sources=sources))
    if is_revision:
        made += [earlier, build_rejection_note(report, exam, rejected=replaced)]
    return made


@pytest.mark.parametrize("source", [still, several_frames, video], ids=["still", "multi-frame", "video"])
@pytest.mark.parametrize("name", sorted(REPORTS))
def test_validators_find_no_fault(name: str, source: Callable[[], bytes], tmp_path: Path) -> None:
    """What a validator faults, some PACS rejects; what contradicts its images is filed elsewhere."""
    data = source()
    (tmp_path / "source.dcm").write_bytes(data)
    for number, encoded in enumerate(results(name, data)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(encoded.data)
        assert complaints(path) == set(), (encoded.kind, encoded.form)
        if encoded.kind != "sc":
            shown = run("dsrdump", path)
            assert shown.returncode == 0, shown.stderr
            assert "CONTAINER:" in shown.stdout
    assert contradictions(tmp_path) == []


def study_of(character_set: str | None, name: bytes, folder: Path) -> dict[str, bytes]:
    """Write a study of three stills whose names have exactly these bytes; SOP Instance UID -> file."""
    study = derive_uid("study", str(character_set))
    made = {}
    for number in range(1, 4):
        ds = dcmread(io.BytesIO(still(number)))
        ds.StudyInstanceUID = study
        ds.SeriesInstanceUID = derive_uid(study, "series")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(derive_uid(study, number))
        ds.PatientID = f"P-{study[-8:]}"
        del ds.SpecificCharacterSet
        if character_set is not None:
            ds.SpecificCharacterSet = character_set.split("\\")
        padded = name + b" " * (len(name) % 2)
        ds.PatientName = ds.ReferringPhysicianName = "X" * len(padded)
        data = saved(ds).replace(b"X" * len(padded), padded)
        (folder / f"{study[-8:]}-{number}.dcm").write_bytes(data)
        made[str(ds.SOPInstanceUID)] = data
    return made


def raw(ds: Dataset) -> dict[str, bytes]:
    """Return the bytes of each attribute of patient and study, padding apart."""
    found = {}
    for keyword in ("SpecificCharacterSet", *COPIED):
        value = ds.get_item(keyword).value if keyword in ds else b""
        found[keyword] = (value if isinstance(value, bytes) else b"").rstrip(b" \0")
    return found


def test_a_pacs_files_results_with_their_images(start_pair: Callable[..., Pair], tmp_path: Path) -> None:
    """One study of one patient, whatever the character set: no name is transcoded on its way."""
    node, orthanc = start_pair(quiet_time_s=1)
    node.start()
    folder = tmp_path / "studies"
    folder.mkdir()
    studies = {}
    for character_set, name in NAMES.items():
        sources = study_of(character_set, name, folder)
        ds = dcmread(io.BytesIO(next(iter(sources.values()))), stop_before_pixels=True)
        studies[str(ds.StudyInstanceUID)] = sources
        for data in sources.values():
            orthanc.post("/instances", data)
    assert dcmsend(node.port, [folder]).returncode == 0
    exams = node.wait_delivered(list(studies), 120)
    assert len(orthanc.get("/patients")) == len(orthanc.get("/studies")) == len(studies)
    for number, (study, sources) in enumerate(studies.items()):
        held = orthanc.instances(study)
        assert set(held) == {*sources, *exams[study]["result_uids"]}
        returned = tmp_path / str(number)
        returned.mkdir()
        faulty = complaints(next(iter(folder.glob(f"{study[-8:]}-*.dcm"))))
        stated = raw(dcmread(io.BytesIO(next(iter(sources.values()))), stop_before_pixels=True))
        assert stated["PatientName"] in NAMES.values()
        kinds = set()
        for uid, instance in held.items():
            data = orthanc.file(instance["id"])
            ds = dcmread(io.BytesIO(data), stop_before_pixels=True)
            assert raw(ds) == stated, ds.SOPClassUID
            path = returned / f"{uid[-12:]}.dcm"
            path.write_bytes(data)
            if uid not in sources:
                kinds.add(ds.Modality)
                assert complaints(path) <= faulty  # dciodvfy knows no GBK, nor bytes of a set not named
        assert kinds == {"OT", "SR", "KO"}
        assert contradictions(returned) == []
