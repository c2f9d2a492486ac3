"""Each message that is sent is one that PS3.15 A.5.1 allows; held against its rules as they stand there."""

import base64
import datetime as dt
import re
from xml.etree import ElementTree as ET

import pytest

from node.audit.messages import KINDS, Subject, audit_message

CODE = {"csd-code", "codeSystemName", "originalText"}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
ANY = ".+"
ATTRIBUTES: dict[str, dict[str, str]] = {
    "AuditMessage": {},
    "EventIdentification": {
        "EventActionCode?": "[CRUDE]", "EventDateTime": TIME, "EventOutcomeIndicator": "0|4|8|12",
    },
    "ActiveParticipant": {
        "UserID": ANY, "AlternativeUserID?": ANY, "UserName?": ANY, "UserIsRequestor": "true|false",
        "NetworkAccessPointID?": ANY, "NetworkAccessPointTypeCode?": "[1-5]",
    },
    "AuditSourceIdentification": {"AuditEnterpriseSiteID?": ANY, "AuditSourceID": ANY},
    "AuditSourceTypeCode": {"csd-code": "[1-9]"},
    "ParticipantObjectIdentification": {
        "ParticipantObjectID": ANY, "ParticipantObjectTypeCode?": "[1-4]",
        "ParticipantObjectTypeCodeRole?": "[1-9]|1[0-9]|2[0-6]",
        "ParticipantObjectDataLifeCycle?": "[1-9]|1[0-5]", "ParticipantObjectSensitivity?": ANY,
    },
    "ParticipantObjectName": {}, "ParticipantObjectQuery": {}, "ParticipantObjectDescription": {},
    "SOPClass": {"UID?": r"[0-9.]{1,64}", "NumberOfInstances": r"\d+"},
}  # fmt: skip
"""Element -> attribute -> what its value must be; one with a question mark may be absent."""
CHILDREN = {
    "AuditMessage": (
        "EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*"
    ),
    "EventIdentification": "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    "ActiveParticipant": "(RoleIDCode )*(MediaIdentifier )?",
    "AuditSourceIdentification": "(AuditSourceTypeCode )*",
    "ParticipantObjectIdentification": (
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*"
    ),
    "ParticipantObjectDescription": "(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?",
}
"""Element -> its children in order, each followed by a blank."""
CODED = {"EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode"}


def breaches(element: ET.Element) -> list[str]:
    """Return what the schema does not allow of an element and all below it."""
    found = []
    name = element.tag
    if name in CODED:
        if not CODE <= set(element.keys()) <= CODE | {"displayName"}:
            found.append(f"{name}: {sorted(element.keys())}")
    else:
        allowed = {key.rstrip("?"): pattern for key, pattern in ATTRIBUTES[name].items()}
        needed = {key for key in ATTRIBUTES[name] if not key.endswith("?")}
        if not needed <= set(element.keys()) <= allowed.keys():
            found.append(f"{name}: {sorted(element.keys())}")
        found += [
            f"{name}.{key}={value}"
            for key, value in element.items()
            if not re.fullmatch(allowed.get(key, ""), value)
        ]
    order = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(CHILDREN.get(name, ""), order):
        found.append(f"{name}: children {order}")
    if name == "ParticipantObjectQuery":
        base64.b64decode(element.text or "", validate=True)
    return found + [breach for child in element for breach in breaches(child)]


def event(name: str, *, actor: str = "", subject: str = "exam-1", **detail: object) -> dict[str, object]:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)
    return {"id": 1, "at": at, "event": name, "subject_id": subject, "actor": actor, "detail": detail}


def message(told: dict[str, object], subject: Subject = Subject()) -> ET.Element:  # noqa: B008 - frozen
    text = audit_message(told, subject, ae_title="ENDONODE", host="host1")
    assert text is not None
    return ET.fromstring(text)  # noqa: S314 - our own


EXAM = Subject("1.2.3", "P1", {"1.2.840.10008.5.1.4.1.1.77.1.1": 12})


@pytest.mark.parametrize("about", ["exam-1", ""])
@pytest.mark.parametrize("name", KINDS)
def test_every_message_is_what_the_schema_allows(name: str, about: str) -> None:
    for actor in ("", "ae:PACS", "os:root", "anna", "token:reports"):
        for subject in (EXAM, Subject("1.2.3"), Subject()):
            told = event(name, actor=actor, subject=about, address="127.0.0.1")
            assert breaches(message(told, subject)) == []


def test_the_check_finds_what_the_schema_forbids() -> None:
    """Else the test above could not fail."""
    broken = message(event("study_received", actor="ae:PACS"), EXAM)
    identification = broken[0]
    identification.set("EventOutcomeIndicator", "1")
    identification.append(identification[0])
    del broken[1].attrib["UserIsRequestor"]
    broken.append(broken[1])
    assert len(breaches(broken)) >= 4


def test_a_reception_names_who_sent_what_of_whom_and_no_name() -> None:
    told = message(event("study_received", actor="ae:PACS", subject="1.2.3"), EXAM)
    assert told.find("EventIdentification/EventID").get("csd-code") == "110104"  # type: ignore[union-attr]
    roles = {
        participant.get("UserID"): [role.get("csd-code") for role in participant]
        for participant in told.iter("ActiveParticipant")
    }
    assert roles == {"ENDONODE@host1": ["110152"], "PACS": ["110153"]}
    objects = [thing.get("ParticipantObjectID") for thing in told.iter("ParticipantObjectIdentification")]
    assert objects == ["1.2.3", "P1"]
    assert [found.get("NumberOfInstances") for found in told.iter("SOPClass")] == ["12"]


def test_a_delivery_goes_from_us_to_the_peer() -> None:
    told = message(event("result_delivered", peer="PACS"), EXAM)
    roles = {p.get("UserID"): p[0].get("csd-code") for p in told.iter("ActiveParticipant")}
    assert roles == {"ENDONODE@host1": "110153", "PACS": "110152"}


def participants(told: ET.Element) -> dict[str | None, tuple[str | None, list[str | None]]]:
    return {
        each.get("UserID"): (each.get("UserIsRequestor"), [role.get("csd-code") for role in each])
        for each in told.iter("ActiveParticipant")
    }


def test_a_retrieval_names_who_asked_and_where_it_went() -> None:
    """A.5.3.7: a third party that is the requestor is a participant beside source and destination."""
    for name in ("results_retrieving", "results_retrieved"):
        told = message(event(name, actor="ae:VIEWER", destination="WORKSTATION"), EXAM)
        assert participants(told) == {
            "ENDONODE@host1": ("false", ["110153"]),
            "WORKSTATION": ("false", ["110152"]),
            "VIEWER": ("true", []),
        }
        objects = [thing.get("ParticipantObjectID") for thing in told.iter("ParticipantObjectIdentification")]
        assert objects == ["1.2.3", "P1"]
        got = message(event(name, actor="ae:VIEWER", destination="VIEWER", failed=["1.9"]), EXAM)
        assert participants(got) == {
            "ENDONODE@host1": ("false", ["110153"]), "VIEWER": ("true", ["110152"]),
        }  # fmt: skip
        assert [each[0].get("EventOutcomeIndicator") for each in (told, got)] == ["0", "4"]


def test_a_query_names_its_sop_class_or_what_else_was_asked() -> None:
    model = "1.2.840.10008.5.1.4.1.2.2.1"
    for told, subject, said in (
        (
            event("dicom_queried", actor="ae:PACS", subject="", sop_class_uid=model),
            Subject(),
            (model, "110181"),
        ),
        (event("order_asked", peer="RIS"), EXAM, ("1.2.3", "110180")),
        (event("worklist_viewed", actor="anna", subject="7"), Subject(), ("worklist_viewed", "110182")),
        (event("predictions_queried", actor="anna"), Subject(), ("predictions_queried", "110182")),
    ):
        (thing,) = message(told, subject).iter("ParticipantObjectIdentification")
        assert (thing.get("ParticipantObjectID"), thing[0].get("csd-code")) == said


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_filter_by_peer_makes_the_peer_no_participant(form: str) -> None:
    """Who asked was a person; the peer knows nothing of it."""
    told = message(event("predictions_queried", actor="anna", form=form, filters=["peer"], peer="PACS"))
    assert participants(told)["anna"][0] == "true"
    assert "PACS" not in participants(told)


def test_a_failure_to_log_in_is_a_failure_and_names_where_from() -> None:
    told = message(event("user_login_failed", actor="anna", address="192.0.2.7"))
    assert told[0].get("EventOutcomeIndicator") == "4"
    person = told.findall("ActiveParticipant")[1]
    assert (person.get("UserID"), person.get("NetworkAccessPointID")) == ("anna", "192.0.2.7")


def test_a_query_that_is_answered_by_a_file_is_an_export() -> None:
    for form, code in (("json", "110112"), ("csv", "110106"), ("parquet", "110106")):
        told = message(event("predictions_queried", actor="anna", subject="predictions", form=form))
        assert breaches(told) == []
        assert told[0][0].get("csd-code") == code


def test_a_step_of_our_own_work_is_no_message() -> None:
    assert audit_message(event("exam_closed"), EXAM, ae_title="ENDONODE", host="host1") is None


def test_text_from_elsewhere_stays_text() -> None:
    """A Patient ID may hold markup, and bytes that XML has no place for."""
    told = message(event("exam_viewed", actor='"><a'), Subject("1.2.3", "<b>\x1b\x00P1\ud800&"))
    assert breaches(told) == []
    assert [thing.get("ParticipantObjectID") for thing in told.iter("ParticipantObjectIdentification")] == [
        "1.2.3", "<b>\ufffd\ufffdP1\ufffd&",
    ]  # fmt: skip
