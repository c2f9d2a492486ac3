"""A real archive answers for a real result; what it has lost it says so, and is given again."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import select

from db.engine import open_database
from db.tables import AuditEventRow
from tests.acceptance.conftest import Pair, Studies
from tests.acceptance.peers import dcmsend

pytestmark = [pytest.mark.acceptance, pytest.mark.data]

STUDY = "1.2.826.0.20.1"
LOSES_THE_FIRST_REPORT = """
function OnStoredInstance(id, tags, metadata, origin)
  if tags['Modality'] == 'SR' and not lost then
    lost = true
    RestApiDelete('/instances/' .. id)
  end
end
"""


def events(database_url: str) -> list[AuditEventRow]:
    database = open_database(database_url)
    try:
        with database.reading() as session:
            return list(session.scalars(select(AuditEventRow).order_by(AuditEventRow.id)))
    finally:
        database.close()


def test_orthanc_commits_a_result_set(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """It reports on an association of its own, as SCP, to the AE that its settings name."""
    node, orthanc = start_pair(quiet_time_s=1)
    node.start()
    assert dcmsend(node.port, studies.write(STUDY, studies.of("uc"), patient_id="A")).returncode == 0
    exam = node.wait_delivered([STUDY], 60)[STUDY]
    (delivery,) = exam["deliveries"]
    assert (exam["committed"], delivery["committed"]) == (True, True)
    assert delivery["objects"] == {"committed": len(exam["result_uids"])}
    held = orthanc.instances(STUDY)
    assert set(held) == set(exam["result_uids"])
    assert {instance["Modality"] for instance in held.values()} == {"OT", "SR", "KO"}
    (reported,) = [event for event in events(node.database_url) if event.event == "commitment_reported"]
    assert (reported.actor, reported.detail["committed"]) == ("ae:PACS", 3)


def test_what_orthanc_has_lost_is_sent_to_it_again(start_pair: Callable[..., Pair], studies: Studies) -> None:
    """In its own words: 0x0112; that one object goes out again, and all is committed in the end."""
    node, orthanc = start_pair(quiet_time_s=1)
    orthanc.stop()
    script, settings = orthanc.folder / "loses.lua", orthanc.folder / "orthanc.json"
    script.write_text(LOSES_THE_FIRST_REPORT)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "LuaScripts": [str(script)]}))
    orthanc.start()
    node.start()
    assert dcmsend(node.port, studies.write(STUDY, studies.of("uc"), patient_id="A")).returncode == 0
    exam = node.wait_delivered([STUDY], 60)[STUDY]
    assert exam["committed"] is True
    assert set(orthanc.instances(STUDY)) == set(exam["result_uids"])
    told = events(node.database_url)
    failures = [
        list(event.detail["failed"].values()) for event in told if event.event == "commitment_reported"
    ]
    assert failures == [["0x0112"], []]
    sent = Counter(event.detail["sop_instance_uid"] for event in told if event.event == "result_stored")
    assert sorted(sent.values()) == [1, 1, 2]
