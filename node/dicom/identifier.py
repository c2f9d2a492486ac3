"""What queries and retrievals ask by: the Query/Retrieve Level and its unique keys (PS3.4 C.3, C.4)."""

from pydicom import Dataset
from pydicom.multival import MultiValue
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
)

from node.errors import NodeError

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
UNIQUE_KEYS = dict(
    zip(LEVELS, ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), strict=True)
)
PATIENT_ROOT = {
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
}

OUT_OF_RESOURCES, DOES_NOT_MATCH, UNABLE_TO_PROCESS = 0xA700, 0xA900, 0xC000
"""PS3.4 tables C.4-1 to C.4-3: out of resources; identifier does not match SOP class; unable to process."""


class QueryError(NodeError):
    """A query or retrieval that cannot be answered; `status` is what it is answered with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def read_level(identifier: Dataset, sop_class_uid: str) -> str:
    """Return the level, each above which must be named by one value of its unique key (PS3.4 C.4.1.2.1).

    Raises
    ------
    QueryError
        The model has no such level, or a key above it is missing.
    """
    levels = LEVELS if sop_class_uid in PATIENT_ROOT else LEVELS[1:]
    level = str(identifier.get("QueryRetrieveLevel") or "").strip()
    if level not in levels:
        raise QueryError(f"Query/Retrieve Level: {', '.join(levels)} expected", DOES_NOT_MATCH)
    for above in levels[: levels.index(level)]:
        values = values_of(identifier, UNIQUE_KEYS[above])
        if len(values) != 1 or "*" in values[0] or "?" in values[0]:
            raise QueryError(f"{UNIQUE_KEYS[above]}: one value expected at this level", DOES_NOT_MATCH)
    return level


def values_of(ds: Dataset, keyword: str) -> list[str]:
    """Return the values of an element as text; none where it is absent, empty or a sequence.

    Raises
    ------
    ValueError, LookupError, TypeError
        It cannot be decoded.
    """
    if keyword not in ds or ds[keyword].VR == "SQ":
        return []
    value = ds[keyword].value
    values = value if isinstance(value, MultiValue | list) else [value]
    return [text for each in values if each is not None and (text := str(each).strip(" \0"))]
