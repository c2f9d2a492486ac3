"""`endonode send`: files given by a person go to this node or to a peer, each answer counted."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import typer
from pydicom.errors import InvalidDicomError

from node.dicom.scu import Outgoing, send
from node.errors import NodeError
from node.settings import Peer, Settings


def send_files(settings: Settings, paths: Sequence[Path], to: str) -> None:
    """Send every DICOM file below `paths`, up to the first that is not stored.

    Raises
    ------
    NodeError
        The peer is not named in the settings, a path holds no DICOM file, the peer cannot be reached or
        refuses an object.
    """
    receiver, calling = _to_peer(settings, to) if to else _to_ourselves(settings)
    objects = [found for path in paths for found in _below(path)]
    where = f"{receiver.ae_title} at {receiver.host}:{receiver.port}"
    typer.echo(f"sending {len(objects)} objects to {where} as {calling}")
    stored: list[str] = []
    try:
        send(
            receiver,
            objects,
            settings.model_copy(update={"ae_title": calling}),
            on_answer=lambda sop_instance_uid, _status: stored.append(sop_instance_uid),
        )
    finally:
        typer.echo(f"{len(stored)} of {len(objects)} objects were stored")


def _to_peer(settings: Settings, ae_title: str) -> tuple[Peer, str]:
    peer = settings.peer(ae_title)
    if peer is None:
        known = ", ".join(peer.ae_title for peer in settings.peers) or "none"
        raise NodeError(f"no peer is called {ae_title!r}; the settings name: {known}")
    return peer, settings.ae_title


def _to_ourselves(settings: Settings) -> tuple[Peer, str]:
    """Return this node as a peer, and the title to call it by: one that it lets in."""
    senders = [peer.ae_title for peer in settings.peers if peer.may_send]
    if not senders:
        raise NodeError("this node lets nobody send; add [[peers]] with may_send, or name a peer with --to")
    host = settings.bind if settings.bind not in {"0.0.0.0", "::"} else "localhost"  # noqa: S104 - compared only
    return Peer(ae_title=settings.ae_title, host=host, port=settings.port), senders[0]


def _below(path: Path) -> Iterator[Outgoing]:
    """Yield the file itself, or every DICOM file of a folder, in order of name."""
    found = [] if path.is_dir() else [_outgoing(path)]
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        if file.is_file():
            try:
                found.append(_outgoing(file))
            except NodeError:
                typer.echo(f"{file}: left out, not a DICOM file", err=True)
    if not found:
        raise NodeError(f"{path}: holds no DICOM file")
    yield from found


def _outgoing(file: Path) -> Outgoing:
    try:
        meta = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
        uids = meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
        return Outgoing(uids[0], uids[1], file, uids[2])
    except FileNotFoundError as error:
        raise NodeError(f"{file}: no such file") from error
    except (InvalidDicomError, AttributeError) as error:
        raise NodeError(f"{file}: not a DICOM file (PS3.10)") from error
