"""Audit messages (PS3.15 A.5): events that others want to know of, as the XML of its schema (A.5.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from node.audit.chain import Facts

Code = tuple[str, str, str]
"""csd-code, codeSystemName, originalText."""


def _dcm(code: str, meaning: str) -> Code:
    return code, "DCM", meaning  # PS3.16 annex D


ACTIVITY = _dcm("110100", "Application Activity")
LOG_USED = _dcm("110101", "Audit Log Used")
BEGIN_TRANSFER = _dcm("110102", "Begin Transferring DICOM Instances")
ACCESSED = _dcm("110103", "DICOM Instances Accessed")
TRANSFERRED = _dcm("110104", "DICOM Instances Transferred")
DELETED = _dcm("110105", "DICOM Study Deleted")
EXPORT = _dcm("110106", "Export")
QUERY = _dcm("110112", "Query")
ALERT = _dcm("110113", "Security Alert")
AUTHENTICATION = _dcm("110114", "User Authentication")

START, STOP = _dcm("110120", "Application Start"), _dcm("110121", "Application Stop")
LOGIN, LOGOUT = _dcm("110122", "Login"), _dcm("110123", "Logout")
SOFTWARE_CONFIGURATION = _dcm("110131", "Software Configuration")
RECORDING_STOPPED = _dcm("110133", "Audit Recording Stopped")
OBJECT_SECURITY_CHANGED = _dcm("110135", "Object Security Attributes Changed")
ROLES_CHANGED = _dcm("110136", "Security Roles Changed")
USER_CHANGED = _dcm("110137", "User Security Attributes Changed")

APPLICATION, LAUNCHER = _dcm("110150", "Application"), _dcm("110151", "Application Launcher")
DESTINATION, SOURCE = _dcm("110152", "Destination Role ID"), _dcm("110153", "Source Role ID")
MEDIA = _dcm("110154", "Destination Media")
STUDY_UID, SOP_CLASS_UID = _dcm("110180", "Study Instance UID"), _dcm("110181", "SOP Class UID")
PATIENT_NUMBER: Code = ("2", "RFC-3881", "Patient Number")
URI: Code = ("12", "RFC-3881", "URI")
NODE_ID = _dcm("110182", "Node ID")

DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (2.2) has no place for, and a Patient ID or a name may hold."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an event is to others: EventID, EventActionCode, EventTypeCode, EventOutcomeIndicator."""

    event: Code
    action: str
    type: Code | None = None
    outcome: str = "0"


KINDS: Mapping[str, Kind] = {
    "node_started": Kind(ACTIVITY, "E", START),
    "node_stopped": Kind(ACTIVITY, "E", STOP),
    "audit_exported": Kind(LOG_USED, "R"),
    "exam_delivering": Kind(BEGIN_TRANSFER, "E"),
    "results_retrieving": Kind(BEGIN_TRANSFER, "E"),
    "study_received": Kind(TRANSFERRED, "C"),
    "result_delivered": Kind(TRANSFERRED, "C"),
    "results_retrieved": Kind(TRANSFERRED, "C"),
    "exam_read": Kind(ACCESSED, "R"),
    "exam_viewed": Kind(ACCESSED, "R"),
    "reading_reviewed": Kind(ACCESSED, "U"),
    "exam_replayed": Kind(ACCESSED, "R"),
    "study_moved": Kind(ACCESSED, "U"),
    "quarantine_accepted": Kind(ACCESSED, "U"),
    "quarantine_discarded": Kind(ACCESSED, "D"),
    "study_purged": Kind(DELETED, "D"),
    "predictions_queried": Kind(QUERY, "E"),
    "quality_queried": Kind(QUERY, "E"),
    "dicom_queried": Kind(QUERY, "E"),
    "order_asked": Kind(QUERY, "E"),
    "worklist_viewed": Kind(QUERY, "E"),
    "worklist_searched": Kind(QUERY, "E"),
    "user_logged_in": Kind(AUTHENTICATION, "E", LOGIN),
    "user_login_failed": Kind(AUTHENTICATION, "E", LOGIN, "4"),
    "user_logged_out": Kind(AUTHENTICATION, "E", LOGOUT),
    "user_added": Kind(ALERT, "E", USER_CHANGED),
    "user_enabled": Kind(ALERT, "E", USER_CHANGED),
    "user_disabled": Kind(ALERT, "E", USER_CHANGED),
    "user_password_changed": Kind(ALERT, "E", USER_CHANGED),
    "user_role_changed": Kind(ALERT, "E", ROLES_CHANGED),
    "token_added": Kind(ALERT, "E", USER_CHANGED),
    "token_revoked": Kind(ALERT, "E", USER_CHANGED),
    "settings_changed": Kind(ALERT, "E", SOFTWARE_CONFIGURATION),
    "audit_messages_lost": Kind(ALERT, "E", RECORDING_STOPPED, "8"),
    "audit_trail_cut": Kind(ALERT, "E", OBJECT_SECURITY_CHANGED, "8"),
}
"""The events that are sent; the others are steps of our own work.

So are those of workitems: A.5.3 has no message of a procedure step that is created, changed, canceled or
watched. What peers ask of workitems is a query like any other.
"""
EXPORTED = Kind(EXPORT, "R")
FILES = ("csv", "parquet")
"""A query that is answered by a file is an export."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about, as the database knows it: empty where it is about no exam.

    Attributes
    ----------
    sop_classes
        SOP Class UID -> number of instances.
    """

    study_instance_uid: str = ""
    patient_id: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)


def audit_message(event: Facts, subject: Subject, *, ae_title: str, host: str) -> bytes | None:
    """Return the message of an event (UTF-8), or None where it has none."""
    kind = KINDS.get(event["event"])
    if kind is None:
        return None
    if kind.event == QUERY and event["detail"].get("form") in FILES:
        kind = EXPORTED
    message = ET.Element("AuditMessage")
    identification = ET.SubElement(
        message, "EventIdentification", EventActionCode=kind.action,
        EventDateTime=event["at"].isoformat(timespec="milliseconds"),
        EventOutcomeIndicator="4" if event["detail"].get("failed") else kind.outcome,
    )  # fmt: skip
    _coded(identification, "EventID", kind.event)
    if kind.type is not None:
        _coded(identification, "EventTypeCode", kind.type)
    _add_participants(message, event, kind, ae_title=ae_title, host=host)
    source = ET.SubElement(message, "AuditSourceIdentification", AuditSourceID=f"{ae_title}@{host}")
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # A.5.1.2.1: application server process
    _add_objects(message, event, kind, subject)
    return DECLARATION + ILLEGAL.sub("\ufffd", ET.tostring(message, encoding="unicode")).encode()


def _add_participants(message: ET.Element, event: Facts, kind: Kind, *, ae_title: str, host: str) -> None:
    """Add who caused it and who carried it out (A.5.3): us, and the peer, person or program.

    A peer that has others sent something, as by C-MOVE, is the requestor beside source and destination.
    """
    actor, detail, peer = str(event["actor"]), event["detail"], ""
    if kind.event in (BEGIN_TRANSFER, TRANSFERRED) or event["event"] == "order_asked":
        peer = str(detail.get("destination") or detail.get("peer") or "")
    if not peer and actor.startswith("ae:"):
        peer = actor.removeprefix("ae:")
    is_query_of_us = kind.event == QUERY and event["event"] != "order_asked"
    is_inbound = event["event"] == "study_received" or is_query_of_us
    ours, theirs = (DESTINATION, SOURCE) if is_inbound else (SOURCE, DESTINATION)
    if kind.event not in (BEGIN_TRANSFER, TRANSFERRED, EXPORT, QUERY):
        ours, theirs = APPLICATION, LAUNCHER
    us = _participant(message, f"{ae_title}@{host}", ours, is_requestor=not (actor or is_inbound))
    us.attrib |= {"AlternativeUserID": f"AETITLES={ae_title}", "NetworkAccessPointID": host}
    us.attrib["NetworkAccessPointTypeCode"] = "1"  # a machine's name
    if peer:
        other = _participant(message, peer, theirs, is_requestor=actor == f"ae:{peer}")
        other.set("AlternativeUserID", f"AETITLES={peer}")
    if actor and actor != f"ae:{peer}":
        person = _participant(message, actor, theirs if theirs == LAUNCHER else None, is_requestor=True)
        if actor.startswith("ae:"):
            person.attrib |= {"UserID": actor[3:], "AlternativeUserID": f"AETITLES={actor[3:]}"}
        if address := detail.get("address"):
            person.attrib |= {"NetworkAccessPointID": str(address), "NetworkAccessPointTypeCode": "2"}
    if kind.event == EXPORT:
        _participant(message, "file", MEDIA, is_requestor=False)


def _add_objects(message: ET.Element, event: Facts, kind: Kind, subject: Subject) -> None:
    """Add what it is about: study and patient where it is of an exam, else what the event names."""
    if kind.event in (ACTIVITY, AUTHENTICATION):
        return
    if kind.event == QUERY:
        asked, id_type = event["event"], NODE_ID  # of ours, as a list of predictions
        if "sop_class_uid" in event["detail"]:
            asked, id_type = str(event["detail"]["sop_class_uid"]), SOP_CLASS_UID
        elif subject.study_instance_uid:
            asked, id_type = subject.study_instance_uid, STUDY_UID
        found = _object(message, asked, id_type, type_code="2", role="3")
        ET.SubElement(found, "ParticipantObjectQuery")  # what was asked for may name a patient: not repeated
    elif subject.study_instance_uid:
        study = _object(message, subject.study_instance_uid, STUDY_UID, type_code="2", role="3")
        ET.SubElement(study, "ParticipantObjectName").text = subject.study_instance_uid
        description = ET.SubElement(study, "ParticipantObjectDescription")
        for uid, count in subject.sop_classes.items():
            ET.SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))
        if subject.patient_id:
            patient = _object(message, subject.patient_id, PATIENT_NUMBER, type_code="1", role="1")
            ET.SubElement(patient, "ParticipantObjectName").text = subject.patient_id
    elif kind.event == LOG_USED:
        log = _object(message, "audit_events", URI, type_code="2", role="13")
        ET.SubElement(log, "ParticipantObjectName").text = "Security Audit Log"
    else:
        thing = _object(message, event["subject_id"] or event["event"], NODE_ID, type_code="2", role="13")
        ET.SubElement(thing, "ParticipantObjectName").text = event["event"]


def _participant(message: ET.Element, user: str, role: Code | None, *, is_requestor: bool) -> ET.Element:
    said = {"UserID": user, "UserIsRequestor": "true" if is_requestor else "false"}
    participant = ET.SubElement(message, "ActiveParticipant", said)
    if role is not None:
        _coded(participant, "RoleIDCode", role)
    return participant


def _object(message: ET.Element, uid: str, id_type: Code, *, type_code: str, role: str) -> ET.Element:
    found = ET.SubElement(
        message, "ParticipantObjectIdentification",
        ParticipantObjectID=uid, ParticipantObjectTypeCode=type_code, ParticipantObjectTypeCodeRole=role,
    )  # fmt: skip
    _coded(found, "ParticipantObjectIDTypeCode", id_type)
    return found


def _coded(parent: ET.Element, name: str, code: Code) -> None:
    ET.SubElement(parent, name, {"csd-code": code[0], "codeSystemName": code[1], "originalText": code[2]})
