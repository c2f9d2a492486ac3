import re

from hypothesis import given
from hypothesis import strategies as st

from node.results.uids import derive_uid, device_uid


@given(st.lists(st.text() | st.integers(), max_size=9))
def test_a_derived_uid_is_a_valid_uid(parts: list[str | int]) -> None:
    """PS3.5 9.1: at most 64 characters, no leading zeros; a PACS refuses anything else."""
    uid = derive_uid(*parts)
    assert re.fullmatch(r"2\.25\.(0|[1-9][0-9]*)", uid)
    assert len(uid) <= 64


def test_parts_do_not_run_together() -> None:
    """Revision 1 of item 12 is not revision 11 of item 2."""
    assert len({derive_uid("1", "12"), derive_uid("11", "2"), derive_uid("1", 12), derive_uid("112")}) == 4


def test_the_device_changes_with_the_model_and_the_installation() -> None:
    """Two sets of weights are two devices to whoever reads Contributing Equipment."""
    assert len({device_uid("i", "a"), device_uid("i", "b"), device_uid("j", "a")}) == 3
    assert device_uid("i", "a") == device_uid("i", "a")
