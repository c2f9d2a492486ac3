"""The query SCP: C-FIND over what the node holds and emitted (PS3.4 C.4.1), Patient and Study Root."""

import contextlib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pynetdicom import evt

from node.catalogue import CataloguedInstance, CataloguedStudy, Narrowing, list_studies, tell
from node.dicom.identifier import LEVELS, OUT_OF_RESOURCES, QueryError, read_level, values_of
from node.errors import StorageError
from node.house import Node
from node.results.raw import copy_raw, keep_raw
from pipeline.instance import UNREADABLE

log = structlog.get_logger()

PENDING, PENDING_UNSUPPORTED, CANCELLED = 0xFF00, 0xFF01, 0xFE00  # PS3.4 table C.4-1

COMPUTED = {
    "PATIENT": (
        "PatientID", "IssuerOfPatientID", "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    "STUDY": (
        "StudyInstanceUID", "StudyDate", "AccessionNumber", "ModalitiesInStudy", "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    "SERIES": ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPInstanceUID", "SOPClassUID"),
}  # fmt: skip
"""Keys by level (PS3.4 C.6.1.1, C.3.4) that the database answers."""

OF_HEADER = {
    "PATIENT": ("PatientName", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName", "PatientAge",
        "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "TimezoneOffsetFromUTC",
    ),
    "SERIES": (
        "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "BodyPartExamined", "Laterality",
        "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
        "PerformedProcedureStepDescription", "RequestAttributesSequence",
    ),
    "IMAGE": (
        "InstanceNumber", "ContentDate", "ContentTime", "AcquisitionDateTime", "ImageType", "NumberOfFrames",
        "Rows", "Columns", "BurnedInAnnotation", "ConceptNameCodeSequence", "CompletionFlag",
        "VerificationFlag",
    ),
}  # fmt: skip
"""Keys by level that are read from a stored object of it, byte for byte."""

UNASKED = {"QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability"}
"""In every answer, and no keys (PS3.4 C.4.1.1.3, C.3.4)."""

CREATOR, GROUP = "ENDONODE READING 1.0", 0x7151
STATE = {
    0x01: ("CS", "exam_state"), 0x02: ("CS", "reading"), 0x03: ("LO", "unpredicted_reason"),
    0x04: ("DS", "probability"), 0x05: ("IS", "revision"), 0x06: ("LO", "model_digest"),
}  # fmt: skip
"""Our private elements (PS3.5 7.8.1), from STUDY down, by the last byte of their numbers."""

MOST_HEADERS = 10_000
"""Objects that one query may have opened to be matched by what only they hold, such as a name."""

Found = tuple[list[CataloguedStudy], list[CataloguedInstance]]


def answer_find(event: evt.Event, node: Node) -> Iterator[tuple[int | Dataset, Dataset | None]]:
    """Answer a C-FIND match by match, as they are found; the query is an audit event."""
    level, matches, keys = "", 0, list[str]()
    try:
        query = event.identifier
        level = read_level(query, event.request.AffectedSOPClassUID)
        keys = sorted(element.keyword or f"{element.tag:08X}" for element in query)
        search = _Search(node, query, level, is_implicit_vr=event.context.transfer_syntax.is_implicit_VR)
        status = PENDING_UNSUPPORTED if search.has_unsupported else PENDING
        for answer in search.run():
            if event.is_cancelled:
                yield CANCELLED, None
                return
            if answer is not None:
                matches += 1
                yield status, answer
    except (QueryError, StorageError) as error:
        answer = Dataset()
        answer.Status = error.status if isinstance(error, QueryError) else OUT_OF_RESOURCES
        answer.ErrorComment = str(error)[:64]
        yield answer, None
    finally:
        title = str(event.assoc.requestor.ae_title).strip()
        asked = str(event.request.AffectedSOPClassUID)
        tell(node, "dicom_queried", title, sop_class_uid=asked, level=level, keys=keys, matches=matches)


class _Search:
    """One query. Where the database cannot tell whether something matches, one of its objects is read."""

    def __init__(self, node: Node, query: Dataset, level: str, *, is_implicit_vr: bool) -> None:
        self._node, self._level, self._is_implicit_vr = node, level, is_implicit_vr
        above = LEVELS[: LEVELS.index(level) + 1]
        computed = {keyword for each in above for keyword in COMPUTED[each]}
        of_header = {keyword for each in above for keyword in OF_HEADER[each]}
        asked = [element.keyword for element in query if element.keyword not in UNASKED]
        self._computed = [keyword for keyword in asked if keyword in computed]
        self._of_header = [keyword for keyword in asked if keyword in of_header]
        self._state = _asked_state(query) if level != "PATIENT" else None
        private = {element.tag for element in query if element.tag.is_private} if self._state else set()
        known = {*self._computed, *self._of_header}
        self.has_unsupported = any(
            element.keyword not in known | UNASKED and element.tag not in private for element in query
        )
        self._conditions = {
            keyword: values for keyword in known if (values := values_of(query, keyword))
        }  # a sequence is asked for, never matched
        self._state_conditions = _state_conditions(query, self._state)
        self._headers = 0

    def run(self) -> Iterator[Dataset | None]:
        """Give an answer for each candidate, None for one that does not match."""
        for studies, instances in self._candidates():
            yield self._answer(studies, instances)

    def _candidates(self) -> Iterator[Found]:
        studies = list_studies(self._node, self._narrowing(), by_patient=self._level == "PATIENT")
        if self._level == "PATIENT":
            for _, of_patient in itertools.groupby(studies, lambda study: study.patient):
                all_studies = list(of_patient)
                yield all_studies, [each for study in all_studies for each in study.instances]
            return
        for study in studies:
            if self._level == "STUDY":
                yield [study], list(study.instances)
            elif self._level == "IMAGE":
                yield from (([study], [each]) for each in study.instances)
            else:
                by_series = sorted(study.instances, key=lambda each: each.series_instance_uid)
                for _, series in itertools.groupby(by_series, lambda each: each.series_instance_uid):
                    yield [study], list(series)

    def _narrowing(self) -> Narrowing:
        def exactly(keyword: str) -> str | None:
            values = self._conditions.get(keyword, [])
            return values[0] if len(values) == 1 and not re.search(r"[*?]", values[0]) else None

        dates = self._conditions.get("StudyDate", [""])[0] if self._level != "PATIENT" else ""
        first, dash, last = dates.partition("-")
        return Narrowing(
            study_instance_uids=self._conditions.get("StudyInstanceUID", ()),
            patient_id=exactly("PatientID"),
            accession_number=exactly("AccessionNumber"),
            dates=(first or "0", (last or "9") if dash else first) if dates else None,
        )

    def _answer(
        self, studies: Sequence[CataloguedStudy], instances: list[CataloguedInstance]
    ) -> Dataset | None:
        computed = {keyword: _compute(keyword, studies, instances) for keyword in self._computed}
        said = studies[0].reading
        if not all(
            matches("UI" if keyword.endswith("UID") else dictionary_VR(keyword), wanted, computed[keyword])
            for keyword, wanted in self._conditions.items()
            if keyword in computed
        ) or not all(
            matches("CS", wanted, [said.get(name, "")]) for name, wanted in self._state_conditions.items()
        ):
            return None
        answer = Dataset()
        is_ascii = all(value.isascii() for values in computed.values() for value in values)
        header = self._header(instances) if self._of_header or not is_ascii else None
        if header is not None:
            copy_raw(header, answer, "SpecificCharacterSet")
        for keyword, values in computed.items():
            if all(value.isascii() for value in values):
                setattr(answer, keyword, values)
            elif header is not None:
                copy_raw(header, answer, keyword)
        for keyword in self._of_header:
            _copy(header, answer, keyword)
        if not self._matches_header(header):
            return None
        self._add_state(answer, said)
        answer.QueryRetrieveLevel = self._level
        is_here = {each.is_emitted for each in instances}
        answer.RetrieveAETitle = self._node.settings.ae_title if True in is_here else ""
        answer.InstanceAvailability = "ONLINE" if is_here == {True} else "UNAVAILABLE"
        keep_raw(answer, is_implicit_vr=self._is_implicit_vr)
        return answer

    def _matches_header(self, header: Dataset | None) -> bool:
        """Hold what only the object says against the query; decodes it, so its bytes were copied before."""
        conditions = {
            keyword: self._conditions[keyword] for keyword in self._of_header if keyword in self._conditions
        }
        if not conditions:
            return True
        self._headers += 1
        if self._headers > MOST_HEADERS:
            raise QueryError("too many candidates: narrow by date, patient or accession", OUT_OF_RESOURCES)
        try:
            return header is not None and all(
                matches(dictionary_VR(keyword), wanted, values_of(header, keyword))
                for keyword, wanted in conditions.items()
            )
        except UNREADABLE:
            return False

    def _header(self, instances: Sequence[CataloguedInstance]) -> Dataset | None:
        """Return what was asked for of the first object whose bytes are there, one received if possible."""
        tags: list[Any] = ["SpecificCharacterSet", *self._of_header, *self._computed]
        for each in sorted(instances, key=lambda each: each.is_emitted):
            if each.sha256 is not None:
                with contextlib.suppress(OSError, *UNREADABLE):
                    path = self._node.files.path(each.sha256)
                    return dcmread(path, stop_before_pixels=True, specific_tags=tags)
        return None

    def _add_state(self, answer: Dataset, said: Any) -> None:
        if self._state is None:
            return
        block, numbers = self._state
        answer[GROUP, block] = DataElement((GROUP, block), "LO", CREATOR)
        for number in numbers:
            vr, name = STATE[number]
            tag = (GROUP, block << 8 | number)
            answer[tag] = DataElement(tag, vr, said.get(name, ""))


def matches(vr: str, wanted: Sequence[str], found: Sequence[str]) -> bool:
    r"""Match one attribute (PS3.4 C.2.2.2): list of UID, range, wildcard, or the value itself.

    A name matches without regard to case, as a whole or by one of its component groups.

    >>> matches("DA", ["20260101-"], ["20260203"]), matches("PN", ["yama*"], ["Yamada^Tarou=山田^太郎"])
    (True, True)
    >>> matches("LO", ["A?1"], ["AB1"]), matches("TM", ["10"], ["103000"]), matches("LO", ["a*"], ["AB1"])
    (True, True, False)
    """
    if vr == "UI":
        return not set(wanted).isdisjoint(found)
    if vr in ("DA", "TM", "DT"):
        first, dash, last = wanted[0].partition("-")
        low, high = first.ljust(26, "0"), (last if dash else first).ljust(26, "9")
        return any(low <= value.ljust(26, "0") <= high for value in found if value)
    if vr == "PN":
        found = [part.casefold() for value in found for part in (value, *value.split("="))]
        wanted = [value.casefold() for value in wanted]
    patterns = [re.compile(fnmatch.translate(value.replace("[", "[[]"))) for value in wanted]
    return any(pattern.match(value) for pattern in patterns for value in found)


def _compute(
    keyword: str, studies: Sequence[CataloguedStudy], instances: Sequence[CataloguedInstance]
) -> list[str]:
    study, first = studies[0], instances[0] if instances else None
    one: dict[str, Callable[[], Any]] = {
        "PatientID": lambda: study.patient_id,
        "IssuerOfPatientID": lambda: study.issuer_of_patient_id,
        "StudyInstanceUID": lambda: study.study_instance_uid,
        "StudyDate": lambda: study.study_date,
        "AccessionNumber": lambda: study.accession_number,
        "SeriesInstanceUID": lambda: first.series_instance_uid if first else "",
        "Modality": lambda: first.modality if first else "",
        "SOPInstanceUID": lambda: first.sop_instance_uid if first else "",
        "SOPClassUID": lambda: first.sop_class_uid if first else "",
        "NumberOfPatientRelatedStudies": lambda: len(studies),
    }
    if keyword in one:
        return [str(one[keyword]())]
    held = [each for study in studies for each in study.instances]
    if keyword == "ModalitiesInStudy":
        return sorted({each.modality for each in held} - {""})
    if keyword == "SOPClassesInStudy":
        return sorted({each.sop_class_uid for each in held})
    if keyword == "NumberOfSeriesRelatedInstances":
        return [str(len(instances))]
    if keyword.endswith("Series"):
        return [str(len({each.series_instance_uid for each in held}))]
    return [str(len(held))]


def _copy(header: Dataset | None, answer: Dataset, keyword: str) -> None:
    """Copy an element as it stands, numbers too; what is not there is answered empty (PS3.4 C.2.2.1.3)."""
    tag = tag_for_keyword(keyword) or 0
    if header is not None:
        copy_raw(header, answer, keyword)
        if tag in header and tag not in answer and dictionary_VR(tag) == "US":
            with contextlib.suppress(*UNREADABLE):
                answer[tag] = header[tag]
    if tag not in answer:
        answer[tag] = DataElement(tag, dictionary_VR(tag), None)


def _asked_state(query: Dataset) -> tuple[int, list[int]] | None:
    """Return the block that the query reserves for us, and which elements it asks for."""
    for block in range(0x10, 0x100):
        creator = query.get((GROUP, block))
        if creator is not None and _plain(creator.value) == CREATOR:
            asked = [number for number in STATE if (GROUP, block << 8 | number) in query]
            return block, asked
    return None


def _state_conditions(query: Dataset, state: tuple[int, list[int]] | None) -> dict[str, list[str]]:
    if state is None:
        return {}
    block, numbers = state
    asked = {STATE[number][1]: _plain(query[GROUP, block << 8 | number].value) for number in numbers}
    return {name: [value] for name, value in asked.items() if value}


def _plain(value: Any) -> str:
    """Return a private value as text: of no known VR it comes as bytes."""
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")
