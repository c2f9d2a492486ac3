"""Is an exam of the lower gastrointestinal tract? Only what the headers state counts; silence is not a no."""

from collections.abc import Iterable, Iterator

from pydicom import Dataset, Sequence
from pydicom.multival import MultiValue

from node.settings import LowerGiRule
from pipeline.instance import value_of

STATED_IN = (
    "AnatomicRegionSequence",
    "BodyPartExamined",
    "ProcedureCodeSequence",
    "PerformedProtocolCodeSequence",
    "StudyDescription",
    "SeriesDescription",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)
"""Where a source may say what was examined (PS3.3 C.8.12.1, C.7.2.1, C.7.3.1)."""


def judge(datasets: Iterable[Dataset], rule: LowerGiRule) -> bool | None:
    """Return True where lower GI is stated, False where only something else is, None where nothing is.

    One lower GI statement decides: an upper and a lower endoscopy in one study are read.
    """
    statements = {statement for ds in datasets for statement in _statements(ds, rule)}
    if True in statements:
        return True
    return False if False in statements else None


def _statements(ds: Dataset, rule: LowerGiRule) -> Iterator[bool]:
    for code in _codes(ds, "AnatomicRegionSequence"):
        if code in rule.region_codes + rule.other_region_codes:
            yield code in rule.region_codes
    body_part = "".join(_text(ds, "BodyPartExamined").upper().split())
    if body_part in rule.body_parts + rule.other_body_parts:
        yield body_part in rule.body_parts
    for keyword in ("ProcedureCodeSequence", "PerformedProtocolCodeSequence"):
        if any(code in rule.other_procedure_codes for code in _codes(ds, keyword)):
            yield False
    for keyword in STATED_IN[4:]:
        words = _text(ds, keyword).lower()
        if any(word in words for word in rule.descriptions):
            yield True
        elif any(word in words for word in rule.other_descriptions):
            yield False


def _codes(ds: Dataset, keyword: str) -> list[str]:
    items = value_of(ds, keyword)
    return [_text(item, "CodeValue") for item in items] if isinstance(items, Sequence) else []


def _text(ds: Dataset, keyword: str) -> str:
    """Return what is stated in words; what is no text, or cannot be decoded, is silence."""
    value = value_of(ds, keyword)
    parts = value if isinstance(value, MultiValue) else [value]
    return " ".join(part for part in parts if isinstance(part, str)).strip()
