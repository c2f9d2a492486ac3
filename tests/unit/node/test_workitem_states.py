"""The state transition table of PS3.4 (CC.1.1-2), cell by cell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.workitem_states import FINAL, OPEN, SCHEDULED, change, due_state, request_cancel

STATES = (None, "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")
EXAMS = ("receiving", "closed", "reading", "read", "delivering", "delivered", "failed")


@pytest.mark.parametrize(
    ("to", "holds_lock", "expected"),
    [
        ("IN PROGRESS", True, (0xC307, 0x0000, 0xC302, 0xC300, 0xC300)),
        ("IN PROGRESS", False, (0xC307, 0xC301, 0xC301, 0xC301, 0xC301)),
        ("SCHEDULED", True, (0xC307, 0xC303, 0xC303, 0xC303, 0xC303)),
        ("SCHEDULED", False, (0xC307, 0xC303, 0xC303, 0xC303, 0xC303)),
        ("COMPLETED", True, (0xC307, 0xC310, 0x0000, 0xB306, 0xC300)),
        ("COMPLETED", False, (0xC307, 0xC301, 0xC301, 0xC301, 0xC301)),
        ("CANCELED", True, (0xC307, 0xC310, 0x0000, 0xC300, 0xB304)),
        ("CANCELED", False, (0xC307, 0xC301, 0xC301, 0xC301, 0xC301)),
    ],
)
def test_every_cell_of_the_table_holds(to: str, holds_lock: bool, expected: tuple[int, ...]) -> None:  # noqa: FBT001
    """A performer finds out by these whether its claim holds."""
    assert tuple(change(state, to, holds_lock=holds_lock, is_ready=True) for state in STATES) == expected


@pytest.mark.parametrize("to", FINAL)
def test_nothing_ends_before_it_says_what_a_final_state_demands(to: str) -> None:
    """Who waits for the end takes outputs or a reason from it; they never come later."""
    assert change("IN PROGRESS", to, holds_lock=True, is_ready=False) == 0xC304
    assert change("SCHEDULED", to, holds_lock=True, is_ready=False) == 0xC310


def test_a_cancel_is_granted_only_before_the_reading() -> None:
    """The row of the table for Request Cancel; we are the performer, and choose to read to the end."""
    assert tuple(map(request_cancel, STATES)) == (0xC307, 0x0000, 0xC313, 0xC311, 0xB304)


@given(st.lists(st.tuples(st.sampled_from([*OPEN, *FINAL]), st.booleans(), st.booleans())))
def test_no_sequence_of_requests_leads_back_or_past(requests: list[tuple[str, bool, bool]]) -> None:
    """SCHEDULED, IN PROGRESS, one final state: whatever is asked, in whatever order."""
    walked = [SCHEDULED]
    for to, holds_lock, is_ready in requests:
        if change(walked[-1], to, holds_lock=holds_lock, is_ready=is_ready) == 0:
            walked.append(to)
    assert walked in (
        ["SCHEDULED"],
        ["SCHEDULED", "IN PROGRESS"],
        ["SCHEDULED", "IN PROGRESS", "COMPLETED"],
        ["SCHEDULED", "IN PROGRESS", "CANCELED"],
    )


@pytest.mark.parametrize(
    ("is_sent", "expected"),
    [
        (True, "SCHEDULED SCHEDULED IN_PROGRESS IN_PROGRESS IN_PROGRESS COMPLETED CANCELED"),
        (False, "SCHEDULED SCHEDULED IN_PROGRESS COMPLETED IN_PROGRESS COMPLETED CANCELED"),
    ],
)
def test_a_step_is_where_its_exam_is(is_sent: bool, expected: str) -> None:  # noqa: FBT001
    """Delivered is done; where results go to nobody, read is."""
    assert [due_state(exam, is_sent=is_sent).replace(" ", "_") for exam in EXAMS] == expected.split()
