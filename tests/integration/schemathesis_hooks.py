"""What an OpenAPI document cannot say of a query: an issuer is of a patient. Schemathesis itself loads it."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _arguments: Any) -> None:
    """Name a patient beside each issuer that stands alone."""
    for asked in (case.query, case.body):
        if isinstance(asked, dict) and asked.get("issuer_of_patient_id") is not None:
            asked["patient_id"] = asked.get("patient_id") or "P1"
