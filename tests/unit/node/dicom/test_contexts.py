"""What is offered to peers, held against what pynetdicom can serve and the Standard names."""

import pytest
from pydicom.uid import UID, VideoEndoscopicImageStorage
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from node.dicom.contexts import (
    IMAGE_CLASSES,
    OTHER_CLASSES,
    TRANSFER_SYNTAXES,
    echo_contexts,
    storage_contexts,
)
from node.settings import EndoscopyRule, Settings


def test_every_class_is_a_storage_class_that_can_be_served() -> None:
    """An accepted context whose messages nobody answers would hang its sender."""
    classes = IMAGE_CLASSES + OTHER_CLASSES
    assert len(set(classes)) == len(classes)
    assert all(uid_to_service_class(sop_class) is StorageServiceClass for sop_class in classes)
    assert len([UID(sop_class) for sop_class in IMAGE_CLASSES]) == 9


def test_every_transfer_syntax_is_named_and_none_twice() -> None:
    """The list is explicit: what a library adds later is not accepted by itself."""
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES) == 32
    assert all(UID(syntax).type == "Transfer Syntax" for syntax in TRANSFER_SYNTAXES)


@pytest.mark.parametrize(
    "stem", ["1.2.840.10008.1.2.4.11", "1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20"]
)
def test_what_no_decoder_reads_is_not_offered(stem: str) -> None:
    """JPEG XL (.11x), JPIP (.94, .95, .204, .205) and JPEG 2000 multi-component (.92, .93) stay out."""
    last = {syntax.removeprefix(stem) for syntax in TRANSFER_SYNTAXES if syntax.startswith(stem)}
    assert last <= {"0", "1", "2", "3"}
    assert not last & ({"2", "3"} if stem.endswith("9") else {"4", "5"})
    assert not (stem.endswith("11") and last)


def test_a_lossless_encoding_is_chosen_before_a_lossy_one() -> None:
    """A sender that offers both in one context would otherwise compress for us, and lose quality for good."""
    order = list(TRANSFER_SYNTAXES)
    assert order.index("1.2.840.10008.1.2.1") < order.index("1.2.840.10008.1.2.4.70")
    assert order.index("1.2.840.10008.1.2.4.70") < order.index("1.2.840.10008.1.2.4.50")


def test_only_what_can_be_endoscopy_is_offered_where_the_rest_is_refused() -> None:
    """Refusal happens at negotiation, by class; the rule's classes are the ones that remain."""
    rule = EndoscopyRule(sop_classes=(VideoEndoscopicImageStorage,), sop_classes_by_modality=())
    offered = storage_contexts(Settings(other_objects="refuse", endoscopy=rule))
    assert [context.abstract_syntax for context in offered] == [VideoEndoscopicImageStorage]
    assert len(storage_contexts(Settings())) == len(IMAGE_CLASSES + OTHER_CLASSES)
    assert [context.abstract_syntax for context in echo_contexts()] == ["1.2.840.10008.1.1"]
