"""Peers of a node that performs procedure steps: who asks and watches, and who manages a worklist."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)

GLOBAL, FILTERED_GLOBAL = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


def step(study: str, station: str = "", **attributes: Any) -> Dataset:
    """Return a workitem that asks for the reading of a study, as a requester would write it."""
    ds, source = Dataset(), Dataset()
    ds.ProcedureStepState, ds.ScheduledProcedureStepPriority = "SCHEDULED", "MEDIUM"
    ds.ProcedureStepLabel, ds.InputReadinessState = "Read for IBD", "READY"
    ds.ScheduledProcedureStepStartDateTime = "20260102030405"
    ds.PatientName, ds.PatientID, ds.TransactionUID = "Doe^Jane", "A", ""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "READ", "99SITE", "Read the study"
    ds.ScheduledWorkitemCodeSequence = [code]
    source.StudyInstanceUID = study
    ds.InputInformationSequence = [source]
    if station:
        name = Dataset()
        name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = station, "99SITE", station
        ds.ScheduledStationNameCodeSequence = [name]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


class Requester:
    """A peer that gives a node work and asks what became of it."""

    def __init__(self, port: int, ae_title: str = "PACS", syntax: str = ImplicitVRLittleEndian) -> None:
        ae = AE(ae_title)
        contexts = [
            build_context(each, syntax) for each in (UnifiedProcedureStepPush, UnifiedProcedureStepWatch)
        ]
        self.ae_title = ae_title
        self.assoc = ae.associate("127.0.0.1", port, contexts, ae_title="ENDONODE")
        assert self.assoc.is_established

    def create(self, ds: Dataset, uid: str | None = None) -> tuple[Dataset, str]:
        """N-CREATE; return the answer, and the UID of what was created."""
        uid = uid or generate_uid()
        answer, _ = self.assoc.send_n_create(ds, UnifiedProcedureStepPush, uid)
        return answer, uid

    def act(self, uid: str, action: int, **attributes: Any) -> int:
        """N-ACTION; return the status."""
        ds = Dataset()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        answer, _ = self.assoc.send_n_action(
            ds if attributes else None,
            action,
            UnifiedProcedureStepPush,
            uid,
            meta_uid=UnifiedProcedureStepWatch,
        )
        return int(answer.Status)

    def watch(self, uid: str, receiver: str = "", **attributes: Any) -> int:
        """Subscribe `receiver`, oneself if none is named."""
        return self.act(uid, 3, ReceivingAE=receiver or self.ae_title, DeletionLock="FALSE", **attributes)

    def get(self, uid: str, *keywords: str) -> tuple[int, Dataset]:
        """N-GET; return the status and what came."""
        tags = [Tag(keyword) for keyword in keywords]
        answer, ds = self.assoc.send_n_get(
            tags, UnifiedProcedureStepPush, uid, meta_uid=UnifiedProcedureStepWatch
        )
        return int(answer.Status), ds

    def find(self, **keys: Any) -> list[Dataset]:
        """C-FIND; return the matches."""
        query = Dataset()
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        answers = list(self.assoc.send_c_find(query, UnifiedProcedureStepWatch))
        assert answers[-1][0].Status == 0x0000
        return [match for _, match in answers if match is not None]


@dataclass
class Subscriber:
    """A peer that is told: what it was told of, in order."""

    port: int = 0
    told: list[tuple[int, str, Dataset]] = field(default_factory=list)
    status: int = 0x0000

    def states(self, uid: str) -> list[str]:
        """Return the states that were reported of a workitem."""
        return [ds.ProcedureStepState for kind, of, ds in list(self.told) if kind == 1 and of == uid]


@contextmanager
def subscriber(port: int = 0, ae_title: str = "PACS") -> Iterator[Subscriber]:
    """Take events as SCU of UPS Event: the node opens the association and is the SCP."""
    told = Subscriber()

    def on_event(event: evt.Event) -> tuple[int, None]:
        told.told.append(
            (event.event_type, str(event.request.AffectedSOPInstanceUID), event.event_information)
        )
        return told.status, None

    ae = AE(ae_title)
    ae.add_supported_context(UnifiedProcedureStepEvent, scu_role=False, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_event)]
    )
    told.port = server.server_address[1]
    try:
        yield told
    finally:
        server.shutdown()


class Worklist:
    """A manager of workitems: a small one, which holds to the state transition table in its own words.

    Attributes
    ----------
    refuses
        Number of N-ACTIONs and N-SETs that are answered with a processing failure first.
    forgets
        Whether the answer to the next claim is lost on its way: the association is aborted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.items: dict[str, Dataset] = {}
        self.locks: dict[str, str] = {}
        self.watchers: dict[str, str] = {}
        self.asked: list[str] = []
        self.refuses = 0
        self.forgets = False

    def add(self, ds: Dataset) -> str:
        """Schedule a workitem; return its UID."""
        uid = str(generate_uid())
        ds.SOPClassUID, ds.SOPInstanceUID = UnifiedProcedureStepPush, uid
        del ds.TransactionUID
        self.items[uid] = ds
        return uid

    def state(self, uid: str) -> str:
        """Return a workitem's state."""
        return str(self.items[uid].ProcedureStepState)

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Match by state alone, as a manager may that knows no better."""
        self.asked.append("find")
        for ds in list(self.items.values()):
            if ds.ProcedureStepState == event.identifier.ProcedureStepState:
                yield 0xFF00, ds

    def on_set(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """N-SET, of who holds the lock."""
        with self._lock:
            uid, changes = str(event.request.RequestedSOPInstanceUID), event.modification_list
            self.asked.append("set")
            if self._refuse():
                return 0x0110, None
            if self.state(uid) in ("COMPLETED", "CANCELED"):
                return 0xC300, None
            if self.state(uid) == "SCHEDULED":
                return 0xC310, None
            if changes.TransactionUID != self.locks[uid]:
                return 0xC301, None
            del changes.TransactionUID
            self.items[uid].update(changes)
            return 0x0000, None

    def on_action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Change a state, or be watched."""
        with self._lock:
            uid, asked = str(event.request.RequestedSOPInstanceUID), event.action_information
            if event.action_type == 3:
                self.watchers[uid] = asked.ReceivingAE
                return 0x0000, None
            self.asked.append(asked.ProcedureStepState)
            if self._refuse():
                return 0x0110, None
            status = self._change(uid, asked.ProcedureStepState, asked.TransactionUID)
            if self.forgets:
                self.forgets = False
                event.assoc.abort()
            return status, None

    def _change(self, uid: str, to: str, lock: str) -> int:
        now = self.state(uid)
        if now == "SCHEDULED":
            if to != "IN PROGRESS":
                return 0xC310
            self.locks[uid] = lock
        elif lock != self.locks.get(uid):
            return 0xC301
        elif now in ("COMPLETED", "CANCELED"):
            return {"COMPLETED": 0xB306, "CANCELED": 0xB304}[now] if now == to else 0xC300
        elif to == "IN PROGRESS":
            return 0xC302
        self.items[uid].ProcedureStepState = to
        return 0x0000

    def _refuse(self) -> bool:
        self.refuses -= 1
        return self.refuses >= 0

    def report(self, port: int, uid: str, event_type: int, information: Dataset) -> int:
        """Tell the node of an event; return its answer."""
        ae = AE("RIS")
        ae.add_requested_context(UnifiedProcedureStepEvent)
        roles = [build_role(UnifiedProcedureStepEvent, scp_role=True)]
        assoc = ae.associate("127.0.0.1", port, ae_title="ENDONODE", ext_neg=roles)
        answer, _ = assoc.send_n_event_report(
            information, event_type, UnifiedProcedureStepPush, uid, meta_uid=UnifiedProcedureStepEvent
        )
        assoc.release()
        return int(answer.Status)

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[int]:
        """Listen; give the port."""
        ae = AE("RIS")
        ae.add_supported_context(UnifiedProcedureStepPull)
        ae.add_supported_context(UnifiedProcedureStepWatch)
        handlers = [
            (evt.EVT_C_FIND, self.on_find), (evt.EVT_N_SET, self.on_set), (evt.EVT_N_ACTION, self.on_action),
        ]  # fmt: skip
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
