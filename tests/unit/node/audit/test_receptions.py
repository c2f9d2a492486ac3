"""What an association has brought is one event a study, whoever dies in between."""

import datetime as dt
from typing import Any

from sqlalchemy import select, update

from db.engine import utc_now
from db.tables import AuditEventRow, InstanceRow
from node.audit.receptions import tell_reception, tell_silent_receptions
from node.house import Node
from tests.unit.node.conftest import Sender


def told(node: Node) -> list[AuditEventRow]:
    with node.database.reading() as session:
        events = select(AuditEventRow).where(AuditEventRow.event == "study_received")
        return list(session.scalars(events.order_by(AuditEventRow.id)))


def bring(send: Sender, association: str, *uids: str, **header: Any) -> list[InstanceRow]:
    rows = [send(uid, **header) for uid in uids]
    with send.node.database.writing() as session:
        ids = [row.id for row in rows]
        session.execute(update(InstanceRow).where(InstanceRow.id.in_(ids)).values(reception=association))
    return rows


def test_an_association_is_one_event_a_study_with_its_objects_listed(node: Node, send: Sender) -> None:
    rows = bring(send, "a", "1.2.3.4", "1.2.3.5")
    other = bring(send, "a", "1.9.1", study_instance_uid="1.9")
    bring(send, "b", "1.2.3.6")
    tell_reception(node.database, "a")
    first, second = told(node)
    assert (first.subject_id, second.subject_id, first.actor) == ("1.2.3", "1.9", "ae:PACS")
    assert first.detail == {
        "association": "a",
        "sop_classes": {"1.2.840.10008.5.1.4.1.1.77.1.1": 2},
        "instances": [[row.id, row.sop_instance_uid, row.sha256] for row in rows],
    }
    assert [uid for _, uid, _ in second.detail["instances"]] == [row.sop_instance_uid for row in other]


def test_nothing_is_told_of_twice(node: Node, send: Sender) -> None:
    bring(send, "a", "1.2.3.4")
    tell_reception(node.database, "a")
    tell_reception(node.database, "a")
    assert len(told(node)) == 1


def test_an_association_whose_receiver_died_is_told_of_once_it_has_been_silent(
    node: Node, send: Sender
) -> None:
    bring(send, "dead", "1.2.3.4")
    bring(send, "alive", "1.2.3.5")
    values: dict[str, Any] = {"received_at": utc_now() - dt.timedelta(minutes=6)}
    with node.database.writing() as session:
        session.execute(update(InstanceRow).where(InstanceRow.reception == "dead").values(values))
    tell_silent_receptions(node.database)
    assert [event.detail["association"] for event in told(node)] == ["dead"]
