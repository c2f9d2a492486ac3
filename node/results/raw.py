"""Elements copied as the bytes they came in: never decoded, so never transcoded."""

from pydicom import Dataset, Sequence
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STR_VR

from pipeline.instance import UNREADABLE

UNSTATED_VRS = frozenset({None, "UN"})
"""Of an element in implicit VR, and of one whose sender did not know it."""


def copy_raw(source: Dataset, target: Dataset, keyword: str) -> None:
    """Copy an element of text, or a sequence of such, byte for byte; what the source lacks stays absent.

    An element that was set or decoded since the source was read has no bytes any more: it is encoded anew.
    One that is not what its tag stands for, or cannot be read, is not copied.
    """
    _copy(source, target, Tag(tag_for_keyword(keyword) or 0))


def raw_value(ds: Dataset, keyword: str) -> bytes:
    """Return the bytes of a raw element, or ``b""`` where there is none."""
    element = ds.get_item(keyword)
    return element.value or b"" if isinstance(element, RawDataElement) else b""


def keep_raw(ds: Dataset, *, is_implicit_vr: bool) -> None:
    """Let pydicom write raw elements of text and bytes, at any depth, as they are (little endian).

    It would decode and encode anew those of a dataset whose encoding or character set it takes for changed.
    """
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset itself decodes its elements
        if ds.get_item(tag).VR == "SQ":
            for item in ds[tag].value:
                keep_raw(item, is_implicit_vr=is_implicit_vr)
    encoding = ds._character_set  # noqa: SLF001 - what pydicom compares with, under no public name
    ds.set_original_encoding(is_implicit_vr, is_little_endian=True, character_encoding=encoding)


def _copy(source: Dataset, target: Dataset, tag: BaseTag) -> None:
    if tag not in source:
        return
    vr = dictionary_VR(tag)
    if vr == "SQ":
        try:
            items = source[tag].value
            copies = [_copy_item(item) for item in items] if isinstance(items, Sequence) else []
        except UNREADABLE:
            return
        if any(copies):
            target[tag] = DataElement(tag, "SQ", copies)
        return
    element = source.get_item(tag)
    if isinstance(element, DataElement):
        if str(element.VR) == vr:
            target[tag] = element
    elif element.VR in UNSTATED_VRS | STR_VR:
        value = element.value or b""
        target[tag] = RawDataElement(
            tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True
        )


def _copy_item(item: Dataset) -> Dataset:
    copied = Dataset()
    for tag in item.keys():  # noqa: SIM118 - as above
        if dictionary_has_tag(tag):
            _copy(item, copied, tag)
    return copied
