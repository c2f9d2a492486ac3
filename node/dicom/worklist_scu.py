"""The modality worklist SCU: what a peer's worklist says of an exam (PS3.4 annex K)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import ModalityWorklistInformationFind

from node.dicom.identifier import values_of
from node.dicom.scu import named, open_association, shown
from node.errors import SendError
from node.settings import Peer, Settings

MOST_ITEMS = 100
"""More answers to one question are no answer; the rest is not waited for."""

TEXTS = (
    "StudyInstanceUID", "AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
)  # fmt: skip
STEP_TEXTS = ("ScheduledProcedureStepID", "ScheduledProcedureStepDescription")
PERSONS = ("ReferringPhysicianIdentificationSequence", "RequestingPhysicianIdentificationSequence")
"""Taken by their codes alone: no names."""


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One item: who it is about, and what it adds; a code is its value, scheme and, of procedures, name."""

    patient_id: str
    issuer_of_patient_id: str
    study_instance_uid: str
    accession_number: str
    attributes: Mapping[str, Any]


def find_items(peer: Peer, settings: Settings, **keys: str) -> list[WorklistItem]:
    """Return the items that a peer gives for these keys, whether or not it can match by all of them.

    Raises
    ------
    SendError
        No answer within ``query_timeout_s``, or a failure.
    RefusedError
        The peer has no worklist.
    """
    until = time.monotonic() + settings.query_timeout_s
    contexts = [build_context(ModalityWorklistInformationFind)]
    items: list[WorklistItem] = []
    with open_association(peer, settings, contexts, settings.query_timeout_s) as assoc:
        status = Dataset()
        for status, match in assoc.send_c_find(_query(keys), ModalityWorklistInformationFind):
            if "Status" not in status or time.monotonic() > until:
                assoc.abort()
                raise SendError(f"{named(peer)}: the worklist query was not answered in time")
            if match is not None:
                items.append(_read(match))
            if len(items) > MOST_ITEMS:
                assoc.abort()
                return items
            assoc.dimse_timeout = max(0.001, until - time.monotonic())
        if status.Status != 0:
            raise SendError(
                f"{named(peer)}: the worklist query was answered {shown(status)}, 0x0000 was expected"
            )
    return items


def _query(keys: Mapping[str, str]) -> Dataset:
    query = Dataset()
    for keyword in ("PatientID", "IssuerOfPatientID", *TEXTS):
        setattr(query, keyword, keys.get(keyword, ""))
    query.SpecificCharacterSet = "ISO_IR 192"
    query.RequestedProcedureCodeSequence = [_codes()]
    step = Dataset()
    for keyword in STEP_TEXTS:
        setattr(step, keyword, "")
    step.ScheduledProtocolCodeSequence = [_codes()]
    query.ScheduledProcedureStepSequence = [step]
    for keyword in PERSONS:
        person = Dataset()
        person.PersonIdentificationCodeSequence = [_codes()]
        setattr(query, keyword, [person])
    return query


def _codes() -> Dataset:
    item = Dataset()
    item.CodeValue = item.CodingSchemeDesignator = item.CodeMeaning = ""
    return item


def _read(ds: Dataset) -> WorklistItem:
    steps = ds.get("ScheduledProcedureStepSequence") or [Dataset()]
    found: dict[str, Any] = {keyword: _text(ds, keyword) for keyword in TEXTS}
    found |= {keyword: _text(steps[0], keyword) for keyword in STEP_TEXTS}
    found["RequestedProcedureCode"] = _first_code(ds, "RequestedProcedureCodeSequence")
    found["ScheduledProtocolCode"] = _first_code(steps[0], "ScheduledProtocolCodeSequence")
    for keyword in PERSONS:
        persons = ds.get(keyword) or []
        codes = [_first_code(person, "PersonIdentificationCodeSequence")[:2] for person in persons]
        found[keyword.removesuffix("IdentificationSequence") + "Codes"] = [code for code in codes if code]
    return WorklistItem(
        patient_id=_text(ds, "PatientID"),
        issuer_of_patient_id=_text(ds, "IssuerOfPatientID"),
        study_instance_uid=_text(ds, "StudyInstanceUID"),
        accession_number=_text(ds, "AccessionNumber"),
        attributes={name: value for name, value in found.items() if value},
    )


def _first_code(ds: Dataset, keyword: str) -> list[str]:
    codes = ds.get(keyword) or []
    if not codes or not _text(codes[0], "CodeValue"):
        return []
    return [_text(codes[0], each) for each in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]


def _text(ds: Dataset, keyword: str) -> str:
    return next(iter(values_of(ds, keyword)), "")
