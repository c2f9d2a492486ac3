"""A stand-in archive on loopback: stores what it is sent and says, series by series, what it holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

SUCCESS, PENDING = 0x0000, 0xFF00


class Archive:
    """One storage and query SCP on 127.0.0.1, started by ``with``.

    Attributes
    ----------
    results
        Files of the objects that were sent to it, in order of arrival.
    """

    def __init__(self, ae_title: str, port: int, folder: Path) -> None:
        self.results: list[Path] = []
        self._ae_title, self._port, self._folder = ae_title, port, folder
        self._held: list[Dataset] = []

    def hold(self, ds: Dataset) -> None:
        """Say from now on that this object is here; only what a query asks for is kept."""
        kept = Dataset()
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality"):
            setattr(kept, keyword, ds.get(keyword, ""))
        self._held.append(kept)

    def __enter__(self) -> Self:
        self._folder.mkdir()
        ae = AE(self._ae_title)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        self._server = ae.start_server(
            ("127.0.0.1", self._port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _store(self, event: Event) -> int:
        path = self._folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        self.hold(event.dataset)
        self.results.append(path)
        return SUCCESS

    def _find(self, event: Event) -> Iterator[tuple[int, Dataset]]:
        """Answer at SERIES and IMAGE level with unique keys matched exactly (PS3.4 C.4.1.2)."""
        query = event.identifier
        keys = [key for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID") if query.get(key)]
        found = [held for held in self._held if all(held[key].value == query[key].value for key in keys)]
        if query.QueryRetrieveLevel == "SERIES":
            series = {held.SeriesInstanceUID: held for held in found}
            matches = []
            for uid, first in series.items():
                match = Dataset()
                match.StudyInstanceUID, match.SeriesInstanceUID = first.StudyInstanceUID, uid
                match.Modality = first.Modality
                match.NumberOfSeriesRelatedInstances = sum(held.SeriesInstanceUID == uid for held in found)
                matches.append(match)
        else:
            matches = found if query.QueryRetrieveLevel == "IMAGE" else []
        for match in matches:
            match.QueryRetrieveLevel = query.QueryRetrieveLevel
            yield PENDING, match
