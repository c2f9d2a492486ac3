"""UIDs that follow from what they name: the same result has the same UID, however often it is made."""

import json
import uuid

_NAMESPACE = uuid.UUID("7ad7d9ea-0249-4bdf-8a2a-3a1ebc6a9667")
"""Drawn once; it keeps our names apart from everybody else's."""


def derive_uid(*parts: str | int) -> str:
    """Return ``2.25.<n>`` for a name-based UUID (RFC 9562 5.5; PS3.5 B.2) over the parts, in order.

    >>> derive_uid("a", 1) == derive_uid("a", 1), derive_uid("a", 1) == derive_uid("a1")
    (True, False)
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def device_uid(installation_id: str, model_digest: str) -> str:
    """Return the Device UID of this installation reading with this model: other weights, other device."""
    return derive_uid("device", installation_id, model_digest)


IMPLEMENTATION_CLASS_UID = derive_uid("implementation")
"""Names this software in file meta information and associations (PS3.7 D.3.3.2)."""
