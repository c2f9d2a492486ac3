"""The retrieve SCP: C-MOVE and C-GET of what this node emitted, in its very bytes (PS3.4 C.4.2, C.4.3).

pynetdicom's own service decodes and encodes each object anew, and opens its associations untuned.
"""

from collections import Counter
from collections.abc import Collection
from io import BytesIO

import structlog
from pydicom import Dataset
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext, build_context

from db.audit import JsonValue
from node.catalogue import Narrowing, list_studies, tell
from node.dicom.identifier import (
    DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    UNABLE_TO_PROCESS,
    UNIQUE_KEYS,
    QueryError,
    read_level,
    values_of,
)
from node.dicom.scu import Outgoing, offered_syntaxes, open_association, store
from node.errors import NodeError, RefusedError, SendError, StorageError
from node.house import Node
from node.settings import Peer
from pipeline.instance import UNREADABLE

log = structlog.get_logger()

SUCCESS, PENDING, CANCELLED, WITH_FAILURES = 0x0000, 0xFF00, 0xFE00, 0xB000
NOT_PERFORMED, NO_SUCH_DESTINATION = 0xA702, 0xA801
"""PS3.4 tables C.4-2 and C.4-3."""

MOST_SUBOPERATIONS = 65_535
"""Their numbers are US (PS3.7 9.3.3.2)."""


class Retrieval:
    """One C-MOVE or C-GET: its sub-operations, and the responses that count them."""

    def __init__(
        self, node: Node, assoc: Association, request: C_MOVE | C_GET, context: PresentationContext
    ) -> None:
        self._node, self._assoc, self._request, self._context = node, assoc, request, context
        self._title = str(assoc.requestor.ae_title).strip()
        self._is_move = isinstance(request, C_MOVE)
        self._destination = str(request.MoveDestination).strip() if self._is_move else self._title
        self._completed = self._warnings = 0
        self._arrived: set[str] = set()
        self._failed: list[str] = []
        self._remaining: list[Outgoing] = []
        self._level = ""
        self._exams: dict[str, dict[str, str]] = {}  # id -> what is asked for of it: UID -> SOP Class UID

    def serve(self) -> None:
        """Perform it, and send its last response; of each study, begin and end are audit events."""
        comment = ""
        try:
            status = self._perform()
        except QueryError as error:
            status, comment = error.status, str(error)
        except StorageError as error:
            status, comment = OUT_OF_RESOURCES, str(error)
        said = {"level": self._level, "destination": self._destination, "status": f"0x{status:04X}"}
        if self._exams:
            tell(self._node, "results_retrieved", self._title, self._objects_told(self._arrived), **said)
        else:
            asked = str(self._request.AffectedSOPClassUID)
            tell(self._node, "dicom_queried", self._title, sop_class_uid=asked, matches=0, **said)
        if self._assoc.is_established:
            self._respond(status, comment)

    def _objects_told(self, sent: Collection[str]) -> dict[str, dict[str, JsonValue]]:
        """Return what an event says of each exam, given the objects that are sent; the others are not."""
        return {
            exam_id: {
                "instances": [uid for uid in objects if uid in sent],
                "failed": [uid for uid in objects if uid not in sent],
                "sop_classes": dict(Counter(name for uid, name in objects.items() if uid in sent)),
            }
            for exam_id, objects in self._exams.items()
        }

    def _perform(self) -> int:
        try:
            syntax = self._context.transfer_syntax[0]
            identifier = decode(
                self._request.Identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
            )
            self._level = read_level(identifier, self._request.AffectedSOPClassUID)
            found = self._objects(identifier)
        except UNREADABLE:
            raise QueryError("the identifier cannot be decoded", UNABLE_TO_PROCESS) from None
        peer = self._node.settings.peer(self._destination)
        if peer is None:
            raise QueryError("the move destination is no peer of this node", NO_SUCH_DESTINATION)
        if len(found) + len(self._failed) > MOST_SUBOPERATIONS:
            raise QueryError("more than 65535 objects: ask for fewer", OUT_OF_RESOURCES)
        self._remaining = found
        if found:  # before the first is sent: who dies meanwhile leaves a trace
            everything = {each.sop_instance_uid for each in found}
            tell(
                self._node, "results_retrieving", self._title, self._objects_told(everything),
                level=self._level, destination=self._destination,
            )  # fmt: skip
        is_cancelled = False
        if found and self._is_move:
            is_cancelled = self._move(peer)
        elif found:
            _config.STORE_SEND_CHUNKED_DATASET = True
            is_cancelled = self._store_all(self._assoc, peer)
        if is_cancelled:
            return CANCELLED
        if not self._failed:
            return SUCCESS
        return WITH_FAILURES if self._completed or self._warnings else NOT_PERFORMED

    def _objects(self, identifier: Dataset) -> list[Outgoing]:
        """Return what is asked for and was emitted; an object that is named and was not is a failure."""
        asked = {level: values_of(identifier, keyword) for level, keyword in UNIQUE_KEYS.items()}
        if not asked[self._level]:
            raise QueryError(f"{UNIQUE_KEYS[self._level]} is missing", DOES_NOT_MATCH)
        narrowing = Narrowing(
            study_instance_uids=asked["STUDY"], patient_id=next(iter(asked["PATIENT"]), None)
        )
        found = []
        for study in list_studies(self._node, narrowing):
            of_study = [
                Outgoing(each.sop_instance_uid, each.sop_class_uid, self._node.files.path(each.sha256))
                for each in study.instances
                if each.is_emitted and each.sha256 is not None
                if not asked["SERIES"] or each.series_instance_uid in asked["SERIES"]
                if not asked["IMAGE"] or each.sop_instance_uid in asked["IMAGE"]
            ]
            if of_study:
                self._exams[study.exam_id] = {each.sop_instance_uid: each.sop_class_uid for each in of_study}
                found += of_study
        self._failed = sorted(set(asked["IMAGE"]) - {each.sop_instance_uid for each in found})
        return found

    def _move(self, peer: Peer) -> bool:
        offered = {(each.sop_class_uid, uid) for each in self._remaining for uid in offered_syntaxes(each)}
        contexts = [build_context(sop_class, uid) for sop_class, uid in sorted(offered)]
        settings = self._node.settings
        _config.STORE_SEND_CHUNKED_DATASET = True
        try:
            with open_association(peer, settings, contexts, settings.network_timeout_s) as assoc:
                return self._store_all(assoc, peer)
        except (SendError, RefusedError) as error:
            log.warning("results_not_moved", peer=peer.ae_title, error=str(error))
            self._failed += [each.sop_instance_uid for each in self._remaining]
            self._remaining = []
            return False

    def _store_all(self, assoc: Association, peer: Peer) -> bool:
        """Store one after the other, counting; tell whether the requestor cancelled."""
        originator = (self._title, self._request.MessageID) if self._is_move else (None, None)
        while self._remaining and self._assoc.is_established:
            if self._request.MessageID in self._assoc.dimse.cancel_req:
                return True
            outgoing = self._remaining.pop(0)
            try:
                status = store(
                    assoc, peer, outgoing, self._node.settings.network_timeout_s, originator=originator
                )
            except (NodeError, OSError) as error:
                log.warning("result_not_retrieved", peer=peer.ae_title, error=str(error))
                self._failed.append(outgoing.sop_instance_uid)
            else:
                self._warnings += bool(status)
                self._completed += not status
                self._arrived.add(outgoing.sop_instance_uid)
            if self._remaining and self._assoc.is_established:
                self._respond(PENDING)
        return False

    def _respond(self, status: int, comment: str = "") -> None:
        response = C_MOVE() if self._is_move else C_GET()
        response.MessageID = response.MessageIDBeingRespondedTo = self._request.MessageID
        response.AffectedSOPClassUID = self._request.AffectedSOPClassUID
        response.Status = status
        if comment:
            response.ErrorComment = comment[:64]
        if status in (PENDING, CANCELLED):
            response.NumberOfRemainingSuboperations = len(self._remaining)
        response.NumberOfCompletedSuboperations = self._completed
        response.NumberOfFailedSuboperations = len(self._failed)
        response.NumberOfWarningSuboperations = self._warnings
        if self._failed and status in (CANCELLED, WITH_FAILURES, NOT_PERFORMED):
            response.Identifier = BytesIO(self._failures())
        self._assoc.dimse.send_msg(response, self._context.context_id)

    def _failures(self) -> bytes:
        ds = Dataset()
        ds.FailedSOPInstanceUIDList = self._failed
        syntax = self._context.transfer_syntax[0]
        encoded = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        return bytes(encoded or b"")
