"""Is this node fit to run? Looked at in the order in which things fail on a first day."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from db.audit import record
from db.engine import Database, open_database
from db.errors import DatabaseError
from db.schema import schema_state
from db.tables import PeerMemoryRow
from models.errors import PackageError
from models.package import load_package
from node.errors import NodeError
from node.settings import Peer, Settings
from pipeline.clean.recipe import load_recipe
from pipeline.errors import PipelineError

SCHEMA_ADVICE = {
    "empty": "no tables yet; they are made at the first start",
    "current": "at this version",
    "older": "of an older version; stop all nodes and run `endonode migrate`",
    "newer": "made by a newer version of endonode; install that version",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what, whether it is fit, and what was found."""

    subject: str
    is_ok: bool
    text: str


def check(settings: Settings) -> Iterator[Finding]:
    """Look at settings, schema, model digests, disk and each peer; what a peer refused is tried anew."""
    yield Finding("settings", is_ok=True, text=f"AE title {settings.ae_title}, port {settings.port}")
    yield _check_schema(settings)
    yield _check_model(settings)
    yield _check_disk(settings)
    if not settings.peers:
        yield Finding("peers", is_ok=False, text="none is named: nobody may send; add [[peers]]")
    for peer in settings.peers:
        yield _check_peer(peer, settings)


def _check_schema(settings: Settings) -> Finding:
    kind, _, file = settings.database_url.partition(":///")
    if kind == "sqlite" and not Path(file).exists():
        # Opening it would make the file, perhaps as another user than the node's.
        return Finding("database", is_ok=True, text=f"{file}: not there yet; made at the first start")
    try:
        database = open_database(settings.database_url)
    except DatabaseError as error:
        return Finding("database", is_ok=False, text=str(error))
    with closing(database):
        state = schema_state(database)
        if state == "current":
            _forget_refusals(database)
    return Finding("database", is_ok=state in {"empty", "current"}, text=SCHEMA_ADVICE[state])


def _forget_refusals(database: Database) -> None:
    with database.reading() as session:
        known = session.scalars(select(PeerMemoryRow)).all()
    if known:  # else nothing is written: this may be a user who may not
        with database.writing() as session:
            for memory in known:
                record(
                    session, "peer_refusal_forgotten", memory.ae_title, about=memory.subject, form=memory.form
                )
                session.delete(session.merge(memory))


def _check_model(settings: Settings) -> Finding:
    try:
        package = load_package(settings.model_dir, load_recipe(settings.recipe))
    except (PackageError, PipelineError) as error:
        return Finding("model", is_ok=False, text=str(error))
    return Finding(
        "model", is_ok=True, text=f"{package.name} {package.version}, digest {package.digest[:12]}"
    )


def _check_disk(settings: Settings) -> Finding:
    folder = settings.storage_dir.absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("disk", is_ok=False, text=f"{there}: not writable by this user; correct its owner")
    free = shutil.disk_usage(there).free
    text = f"{folder}: {free / 1e9:.1f} GB free, {settings.min_free_bytes / 1e9:.1f} GB are kept free"
    return Finding("disk", is_ok=free > settings.min_free_bytes, text=text)


def _check_peer(peer: Peer, settings: Settings) -> Finding:
    from node.dicom.scu import echo

    try:
        echo(peer, settings)
    except NodeError as error:
        return Finding("peer", is_ok=False, text=str(error))
    text = f"{peer.ae_title} at {peer.host}:{peer.port}: answered C-ECHO"
    return Finding("peer", is_ok=True, text=text)
