"""Whose attributes a result carries: those of a source of the exam's own patient."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydicom import Dataset

from db.tables import InstanceRow
from node.house import Node
from node.results.envelope import COPIED
from pipeline.errors import DecodeError
from pipeline.instance import read_header

PATIENT_MODULE = ("PatientName", "PatientBirthDate", "PatientSex")
"""Type 2 attributes of the patient (PS3.3 C.7.1.1): sent empty where the correction left none to copy."""
NAMED_BY_OTHERS = ("OtherPatientIDsSequence", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence")


def read_template(
    node: Node, instances: Sequence[InstanceRow], patient_id: str, study_instance_uid: str
) -> Dataset:
    """Return the header of the first instance of that patient, undecoded, as results copy it.

    After a study was moved to another patient its sources still name the old one: then the Patient ID is the
    corrected one, and what else they say of the patient is left empty rather than wrong. Where every source
    was purged, patient and study are all that is known.
    """
    if not instances:
        ds = Dataset()
        ds.PatientID, ds.StudyInstanceUID = patient_id, study_instance_uid
        return ds
    own = [row for row in instances if row.patient_id == patient_id]
    ds = _first_readable([node.files.path(row.sha256) for row in own or instances])
    if not own:
        for keyword in PATIENT_MODULE:
            setattr(ds, keyword, "")
        for keyword in NAMED_BY_OTHERS:
            ds.pop(keyword, None)
        ds.PatientID = patient_id
    return ds


def _first_readable(paths: Sequence[Path]) -> Dataset:
    for path in paths[:-1]:
        with suppress(DecodeError):
            return read_header(path, COPIED)
    return read_header(paths[-1], COPIED)
