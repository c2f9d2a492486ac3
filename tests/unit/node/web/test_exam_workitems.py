"""The page of an exam tells who waits for its reading."""

from collections.abc import Callable

import pytest
from pydicom import Dataset

from db.tables import ExamRow
from node.house import Node
from node.workitems import add_workitem, note_state
from tests.unit.node.web.conftest import Browser, add_exam


@pytest.mark.parametrize(("is_foreign", "told"), [(False, "canceled, from RIS"), (True, "canceled, of RIS")])
def test_a_workitem_of_the_study_is_told(
    node: Node,
    browser: Callable[..., Browser],
    is_foreign: bool,  # noqa: FBT001 - a parameter
    told: str,
) -> None:
    """With its state, and whether it was given to us or is managed elsewhere; the trail has its changes."""
    exam, ds = add_exam(node), Dataset()
    ds.SOPInstanceUID = "1.2.9"
    with node.database.writing() as session:
        study = session.get_one(ExamRow, exam).study_instance_uid
        row = add_workitem(session, node, ds, study, "RIS", is_foreign=is_foreign)
        note_state(session, row, ds, "CANCELED")
    html = browser("viewer").get(f"/exams/{exam}").text
    assert told in html
    assert "workitem changed" in html
