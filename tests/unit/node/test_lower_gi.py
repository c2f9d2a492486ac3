"""Whether an exam is of the lower GI tract is read from what its headers state, and from nothing else."""

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from node.lower_gi import judge
from node.settings import LowerGiRule


def _stating(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        if keyword.endswith("Sequence"):
            item = Dataset()
            item.CodeValue = value
        setattr(ds, keyword, [item] if keyword.endswith("Sequence") else value)
    return ds


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, None),
        ({"BodyPartExamined": ""}, None),
        ({"BodyPartExamined": "COLON"}, True),
        ({"BodyPartExamined": "LARGE INTESTINE"}, True),
        ({"BodyPartExamined": "LOWERGI"}, True),
        ({"BodyPartExamined": "UNKNOWN"}, None),
        ({"BodyPartExamined": "OTHER"}, None),
        ({"BodyPartExamined": "ABDOMEN"}, None),
        ({"BodyPartExamined": "POSTOP CAM 2"}, None),
        ({"BodyPartExamined": "BRONCHUS"}, False),
        ({"AnatomicRegionSequence": "71854001"}, True),
        ({"AnatomicRegionSequence": "9040008"}, True),
        ({"AnatomicRegionSequence": "485005"}, True),
        ({"AnatomicRegionSequence": "32622004"}, True),
        ({"AnatomicRegionSequence": "955009"}, False),
        ({"AnatomicRegionSequence": "818983003"}, None),
        ({"AnatomicRegionSequence": "LOCAL-7"}, None),
        ({"ProcedureCodeSequence": "10847001"}, False),
        ({"StudyDescription": "Bronchoscopy, flexible"}, False),
        ({"StudyDescription": "Total colonoscopy"}, True),
        ({"StudyDescription": "Follow-up"}, None),
        ({"StudyDescription": "Gastroscopy and colonoscopy"}, True),
    ],
)
def test_only_what_is_stated_counts(stated: dict[str, object], expected: bool | None) -> None:  # noqa: FBT001
    """Silence is not a no: an exam that says nothing is read, and the result says so."""
    assert judge([_stating(**stated)], LowerGiRule()) is expected


def test_one_lower_gi_statement_decides_for_the_study() -> None:
    """An upper and a lower endoscopy done in one session must not leave the lower one unread."""
    upper, lower = _stating(BodyPartExamined="STOMACH"), _stating(BodyPartExamined="COLON")
    assert judge([upper, lower], LowerGiRule()) is True


def test_no_value_is_on_both_sides() -> None:
    """A value that meant both would be decided by the order of two lines of code."""
    rule = LowerGiRule()
    assert not {*rule.body_parts} & {*rule.other_body_parts}
    assert not {*rule.region_codes} & {*rule.other_region_codes}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("AnatomicRegionSequence", "LO", b"COLON "),
        ("AnatomicRegionSequence", "SQ", b"\x08\x00\x00\x01garbage that is no item"),
        ("ProcedureCodeSequence", "US", b"\x01"),
        ("BodyPartExamined", "US", b"\x01\x02\x03"),
        ("BodyPartExamined", "SQ", b""),
        ("StudyDescription", "FD", b"colonoscopy"),
        ("StudyDescription", "OB", b"colonoscopy "),
    ],
)
def test_what_cannot_be_read_says_nothing(keyword: str, vr: str, value: bytes) -> None:
    """One malformed header value must not keep the images of a whole exam from being read."""
    ds = Dataset()
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)
    assert judge([ds], LowerGiRule()) is None
    assert judge([ds, _stating(BodyPartExamined="COLON")], LowerGiRule()) is True
