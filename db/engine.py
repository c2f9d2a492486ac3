"""Sessions on SQLite or PostgreSQL, told apart by the URL alone."""

import datetime as dt
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from db.errors import DatabaseError

BUSY_TIMEOUT_MS = 30_000
"""How long a connection waits for SQLite's one write lock: far longer than any write session lives."""

POOL: dict[str, Any] = {"pool_size": 8, "pool_timeout": 60, "hide_parameters": True}

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "ocfs2", "gfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.juicefs", "beegfs"}
)
"""SQLite's WAL needs memory shared between processes and locks that hold (https://sqlite.org/wal.html)."""


def utc_now() -> dt.datetime:
    """Return the present instant, timezone-aware."""
    return dt.datetime.now(dt.UTC)


class Database:
    """The two kinds of session; made by `open_database`.

    Attributes
    ----------
    url
        The SQLAlchemy URL, password and all: never log it.
    dialect
        ``"sqlite"`` or ``"postgresql"``.
    engine
        For the schema's own business; everyone else asks for a session.
    actor
        Who causes the audit events of this process that name nobody else; empty: the node itself.
    dbos_engine
        What DBOS works on: the same on PostgreSQL; on SQLite one where the driver begins, and takes the write
        lock at the first change. Under our `begin` a DBOS transaction would begin as a read, and its first
        write fail at once where another process has written meanwhile.
    """

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self.actor = ""
        self.dialect = engine.dialect.name
        self.engine = engine
        self.dbos_engine = engine
        if self.dialect == "sqlite":
            self.dbos_engine = create_engine(url, max_overflow=8, **POOL)
            event.listen(self.dbos_engine, "connect", _prepare_sqlite_connection)
            event.listen(self.dbos_engine, "connect", _let_driver_begin)
        read_only = engine.execution_options(read_only=True, postgresql_readonly=True)
        self._reading = sessionmaker(read_only, expire_on_commit=False)
        self._writing = sessionmaker(engine.execution_options(takes_write_lock=True), expire_on_commit=False)
        # SQLite's busy handler sleeps and is not fair; a lock is: with 16 writers the slowest hundredth waits
        # 20 ms instead of 150.
        self._turn = threading.Lock() if self.dialect == "sqlite" else None

    def reading(self) -> Session:
        """Give a session that sees one state of the database (SQLite) and can change nothing."""
        return self._reading()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Give a session that commits at the end and rolls back on an error.

        On SQLite it holds the one write lock from its first statement on: no decoding, inference, network or
        file work inside, and never a second one within.
        """
        if self._turn is not None and not self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise DatabaseError("the database stayed locked by another write session of this process")
        try:
            with self._writing.begin() as session:
                session.info["actor"] = self.actor
                yield session
        finally:
            if self._turn is not None:
                self._turn.release()

    def lock_study(self, session: Session, study_instance_uid: str) -> None:
        """Make other writers of this study wait until `session` ends; on SQLite writers are serial anyway."""
        if self.dialect == "postgresql":
            digest = hashlib.sha256(study_instance_uid.encode()).digest()
            key = int.from_bytes(digest[:8], "big", signed=True)
            session.execute(select(func.pg_advisory_xact_lock(key)))

    def now(self, session: Session) -> dt.datetime:
        """Return the clock that all processes share: the server's on PostgreSQL, the one host's on SQLite."""
        if self.dialect == "postgresql":
            now: dt.datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            return now.astimezone(dt.UTC)
        return utc_now()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.dbos_engine.dispose()


def open_database(url: str) -> Database:
    """Open the database that `url` names and see that it answers.

    Raises
    ------
    DatabaseError
        If the URL is of another kind, the database cannot be reached, or a SQLite file would lie on a network
        filesystem.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError("database_url is not a URL; sqlite:////path/to/file.db was expected") from error
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DatabaseError(
            f"database_url begins with {parsed.drivername}:; sqlite: or postgresql+psycopg: was expected"
        )
    engine = _open_sqlite(parsed) if parsed.drivername == "sqlite" else _open_postgresql(parsed)
    try:
        engine.connect().close()
    except DBAPIError as error:
        engine.dispose()
        shown = parsed.render_as_string(hide_password=True)
        raise DatabaseError(
            f"the database {shown} cannot be opened: {str(error.orig).strip().splitlines()[0]}"
        ) from error
    return Database(url, engine)


def filesystem_of(folder: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `folder`, given the text of /proc/self/mountinfo.

    >>> table = "1 0 8:1 / / rw - ext4 /dev/a rw" + chr(10) + "2 1 0:9 / /mnt/a rw shared:1 - nfs4 host:/a rw"
    >>> filesystem_of(Path("/mnt/a/b"), table), filesystem_of(Path("/mnt/ab"), table)
    ('nfs4', 'ext4')
    """
    found, depth = "", 0
    for line in mountinfo.splitlines():
        mounted, _, source = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mounted.split()[4]))
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = source.split()[0], len(point.parts)
    return found


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise DatabaseError("database_url names no file; sqlite:////path/to/file.db was expected")
    folder = Path(url.database).resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError as error:
        raise DatabaseError(
            f"the folder {folder} of the database cannot be used: {error.strerror}"
        ) from error
    filesystem = filesystem_of(folder, mountinfo)
    if filesystem in NETWORK_FILESYSTEMS:
        raise DatabaseError(
            f"{url.database} lies on a network filesystem ({filesystem}), where SQLite loses data; "
            "name a file on a local disk, or a PostgreSQL server"
        )
    engine = create_engine(url, max_overflow=24, **POOL)
    event.listen(engine, "connect", _prepare_sqlite_connection)
    event.listen(engine, "begin", _begin_sqlite_transaction)
    return engine


def _prepare_sqlite_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours to say; the driver would say it late
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _let_driver_begin(connection: Any, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"


def _begin_sqlite_transaction(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if options.get('read_only') else 'OFF'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("takes_write_lock") else "BEGIN")


def _open_postgresql(url: URL) -> Engine:
    try:
        timeout = {"connect_timeout": 10}
        return create_engine(url, max_overflow=16, pool_pre_ping=True, connect_args=timeout, **POOL)
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError("PostgreSQL needs a driver: install endonode[postgres]") from error
