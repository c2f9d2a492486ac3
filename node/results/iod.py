"""Whether an object holds what its IOD demands: looked at in process, before a row of it is written.

Type 1 and 2 attributes of the mandatory modules (PS3.3 annex A) are those of highdicom's tables; which value
a content item must have follows from its value type (PS3.3 C.17.3), which those tables do not tell.
"""

import json
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from highdicom._standard_utils import get_iod_module_map, get_sop_class_iod_map
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.uid import UID
from pydicom.valuerep import STR_VR

from node.errors import InvalidResultError

MULTI_FRAME_TRUE_COLOUR_SC = "1.2.840.10008.5.1.4.1.1.7.4"
SINGLE_FRAME_SC = "1.2.840.10008.5.1.4.1.1.7"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
EMITTED = (
    MULTI_FRAME_TRUE_COLOUR_SC, SINGLE_FRAME_SC, COMPREHENSIVE_SR, COMPREHENSIVE_3D_SR, KEY_OBJECT_SELECTION,
)  # fmt: skip
"""SOP classes of our results."""

CONTENT = "sr-document-content"
NOT_OF_ONE_FRAME = "FrameIncrementPointer"
"""Type 1 in the Multi-frame module, 1C in SC Multi-frame Image (PS3.3 C.8.6.3), which goes before it."""

VALUE_OF = {
    "CONTAINER": ("ContinuityOfContent", "ContentSequence"),
    "TEXT": ("TextValue",),
    "CODE": ("ConceptCodeSequence",),
    "NUM": ("MeasuredValueSequence",),
    "UIDREF": ("UID",),
    "IMAGE": ("ReferencedSOPSequence",),
    "COMPOSITE": ("ReferencedSOPSequence",),
}
"""What a content item of each value type that we write must hold besides its name."""

INSIDE = {
    "MeasuredValueSequence": ("NumericValue", "MeasurementUnitsCodeSequence"),
    "ReferencedSOPSequence": ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),
    "ContentTemplateSequence": ("MappingResource", "TemplateIdentifier"),
}
LONGEST_CODE, LONGEST_MEANING = 16, 64
"""Characters of an SH and an LO (PS3.5 6.2)."""

Path = tuple[str, ...]


def check_object(ds: Dataset) -> None:
    """Raise `InvalidResultError`, which names the attribute, where an object is not what its IOD demands."""
    sop_class_uid = str(ds.get("SOPClassUID", ""))
    required = required_attributes().get(sop_class_uid)
    defect = "SOPClassUID is none of ours" if required is None else _defect(ds, (), required)
    if defect is None and CONTENT in _modules(sop_class_uid):
        defect = _missing(ds, ("ValueType", "ConceptNameCodeSequence", "ContentTemplateSequence"))
        defect = defect or _missing(ds, VALUE_OF["CONTAINER"])
    if defect is not None:
        name = UID(sop_class_uid).name or "result"
        raise InvalidResultError(f"{name}: {defect}; it is not sent: correct what makes it, then retry")


def defect_of_codes(items: Iterable[Dataset], keyword: str) -> str | None:
    """Return what is wrong with a code anywhere in the items of the sequence of that keyword, or None."""
    return next(filter(None, (_defect(item, (keyword,), {}) for item in items)), None)


def _defect(ds: Dataset, path: Path, required: Mapping[Path, Mapping[str, str]]) -> str | None:
    """Return the first thing wrong with a dataset or what is nested in it, with its place."""
    for keyword, type_ in required.get(path, {}).items():
        if keyword not in ds:
            return f"{_place(path)}{keyword} (Type {type_}) is missing"
        if type_ == "1" and _is_empty(ds.get_item(keyword)):
            return f"{_place(path)}{keyword} (Type 1) is empty"
    defect = _defect_of_item(ds, path[-1]) if path else None
    if defect is not None:
        return _place(path) + defect
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset itself decodes its elements
        if ds.get_item(tag).VR != "SQ":
            continue
        for item in ds[tag].value:
            defect = _defect(item, (*path, ds[tag].keyword), required)
            if defect is not None:
                return defect
    return None


def _defect_of_item(item: Dataset, sequence: str) -> str | None:
    if sequence.endswith("CodeSequence"):
        return _code_defect(item)
    if sequence == "ContentSequence":
        value_type = str(item.get("ValueType", ""))
        if value_type not in VALUE_OF:
            return f"ValueType is {value_type!r}, one of {', '.join(VALUE_OF)} was expected"
        return _missing(item, ("RelationshipType", "ConceptNameCodeSequence", *VALUE_OF[value_type]))
    return _missing(item, INSIDE.get(sequence, ()))


def _code_defect(item: Dataset) -> str | None:
    """Return what a code lacks (PS3.3 8.8): value, scheme and meaning, each within its length."""
    value = next((word for word in ("CodeValue", "LongCodeValue", "URNCodeValue") if word in item), None)
    if value is None:
        return "CodeValue is missing"
    words = ("CodeMeaning",) if value == "URNCodeValue" else ("CodingSchemeDesignator", "CodeMeaning")
    if (lacking := _missing(item, (value, *words))) is not None:
        return lacking
    for keyword, most in (
        ("CodeValue", LONGEST_CODE),
        ("CodingSchemeDesignator", LONGEST_CODE),
        ("CodeMeaning", LONGEST_MEANING),
    ):
        if len(str(item.get(keyword, ""))) > most:
            return f"{keyword} has more than {most} characters"
    return None


def _missing(ds: Dataset, keywords: tuple[str, ...]) -> str | None:
    return next((f"{word} is missing or empty" for word in keywords if _is_empty(ds.get_item(word))), None)


def _is_empty(element: DataElement | RawDataElement | None) -> bool:
    value = None if element is None else element.value
    if isinstance(element, RawDataElement):
        return not ((value or b"").strip(b" \0") if element.VR in STR_VR else value)
    if isinstance(value, str):
        return not value.strip()
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _place(path: Path) -> str:
    return "".join(f"{keyword} > " for keyword in path)


def _modules(sop_class_uid: str) -> list[str]:
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    return [module["key"] for module in modules if module["usage"] == "M"]


@cache
def required_attributes() -> dict[str, dict[Path, dict[str, str]]]:
    """Return SOP class -> place -> keyword -> type, of what mandatory modules demand unconditionally.

    highdicom's own reader of its table takes 110 MB for it, of which nearly nothing is needed; here the first
    call takes 50 MB for a moment.
    """
    table = pkgutil.get_data("highdicom", "_standard/module_attribute_map.json") or b"{}"
    attributes = json.loads(table, object_hook=_demanded)
    required: dict[str, dict[Path, dict[str, str]]] = {}
    for sop_class_uid in EMITTED:
        of_class = required.setdefault(sop_class_uid, {})
        for module in _modules(sop_class_uid):
            for path, keyword, type_ in filter(None, attributes[module] if module != CONTENT else ()):
                of_class.setdefault(path, {})[keyword] = type_
    return required


def _demanded(entry: dict[str, Any]) -> dict[str, Any] | tuple[Path, str, str] | None:
    """Return of an attribute's entry what is needed (None where it is not demanded); else the entry."""
    if "keyword" not in entry:
        return entry
    is_demanded = entry["type"] in ("1", "2") and entry["keyword"] != NOT_OF_ONE_FRAME
    return (tuple(entry["path"]), entry["keyword"], entry["type"]) if is_demanded else None
