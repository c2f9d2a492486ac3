"""Whether a result's pages could tell who the patient is, or when the images were made."""

import re
from collections.abc import Iterable

from pydicom import Dataset

from node.results.report import Report

NAMING = (
    "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyDate",
    "ReferringPhysicianName",
)  # fmt: skip

DATE = re.compile(
    r"(?<!\w)((19|20)\d\d[-./]?[01]\d[-./]?[0-3]\d|[0-3]?\d[-./][0-3]?\d[-./](19|20)\d\d)(?!\w)", re.ASCII
)
"""Year, month and day in either order; a part of a longer number, or of a digest, is none."""

SHORTEST = 2
"""Letters or digits from which a part of a name or an id tells anything: initials are not compared."""


def is_anonymous(report: Report, template: Dataset) -> bool:
    """Return whether every frame shown passed the evidence gate and our own words name nobody and no day.

    A plate shows nothing of its frame, but did not pass: where the gate could not tell, this does not. Words
    of the model package and reasons are looked at; all else on a page is fixed text, and what we counted.
    """
    words = [report.model_name, report.model_version, report.model_digest[:12], report.unpredicted_reason]
    words += [word for panel in report.evidence for word in (panel.label, panel.reason)]
    return all(panel.gate != "plate" for panel in report.evidence) and not tells_who_or_when(
        [word for word in words if word is not None], template
    )


def tells_who_or_when(words: Iterable[str], template: Dataset) -> bool:
    """Return whether any of the words holds a date, or a name, id or number of the source's header.

    Only what is ASCII is compared: our font has little else. The template's elements stay raw.
    """
    text = "\n".join(words).replace("_", " ").casefold()  # as it is drawn
    if DATE.search(text):
        return True
    parts = {part for keyword in NAMING for part in re.split(r"[\^=\\\s\0]+", _stated(template, keyword))}
    return any(
        re.search(rf"(?<![\w.]){re.escape(part)}(?!\w|\.\w)", text) for part in parts if len(part) >= SHORTEST
    )


def _stated(template: Dataset, keyword: str) -> str:
    element = template.get_item(keyword)
    value = "" if element is None or element.value is None else element.value
    return (value.decode("ascii", "ignore") if isinstance(value, bytes) else str(value)).casefold()
