"""The state of the tables and how they come to be: ours by Alembic, the job engine's by its own hand."""

import uuid
from pathlib import Path
from typing import Literal, TypeAlias

from sqlalchemy import Connection, inspect, select, text

from db.engine import Database, utc_now
from db.errors import SchemaError
from db.tables import InstallationRow

SchemaState: TypeAlias = Literal["empty", "current", "older", "newer"]

MIGRATIONS = str(Path(__file__).parent / "migrations")

MIGRATION_LOCK = int.from_bytes(b"endonode", "big")
"""Key of the PostgreSQL advisory lock that lets one process migrate at a time."""


def schema_state(database: Database) -> SchemaState:
    """Compare the database's tables with those that this version works with."""
    with database.engine.connect() as connection:
        return _state(connection)


def migrate(database: Database) -> None:
    """Bring our tables, then DBOS's own, up to this version; safe twice and from several processes at once.

    Raises
    ------
    SchemaError
        If the database was made by a newer version.
    """
    from alembic import command  # late, as in `_state`: they cost every import what one call needs
    from alembic.config import Config
    from dbos import DBOS

    with database.engine.execution_options(takes_write_lock=True).begin() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if _state(connection) == "newer":
            raise _made_by_newer()
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", MIGRATIONS.replace("%", "%%"))
        command.upgrade(config, "head")
    DBOS.migrate(database.url)


def ensure_schema(database: Database) -> None:
    """Make the tables of an empty database; refuse one of another version.

    Raises
    ------
    SchemaError
        If the tables are older (run ``endonode migrate``) or newer than this version's.
    """
    with database.engine.connect() as connection:
        state = _state(connection)
        revision, known = _revisions(connection)
    # of the newest revision and yet older: another process is making them now, or died over it; go on
    if state == "empty" or (state == "older" and revision == known[0]):
        migrate(database)
    elif state == "older":
        raise SchemaError("the database is of an older version; stop all nodes and run `endonode migrate`")
    elif state == "newer":
        raise _made_by_newer()


def installation_id(database: Database) -> str:
    """Return the id that this installation's UIDs derive from; the first call of all makes it."""
    with database.reading() as session:
        found = session.scalars(select(InstallationRow.id)).first()
    if found is not None:
        return found
    with database.writing() as session:
        if database.dialect == "postgresql":
            session.execute(text("LOCK TABLE installation IN EXCLUSIVE MODE"))
        found = session.scalars(select(InstallationRow.id)).first()
        if found is None:
            found = str(uuid.uuid4())
            session.add(InstallationRow(id=found, created_at=utc_now()))
    return found


def _revisions(connection: Connection) -> tuple[str | None, list[str]]:
    """Return the database's revision and those we know, newest first."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    known = [script.revision for script in ScriptDirectory(MIGRATIONS).walk_revisions()]
    return MigrationContext.configure(connection).get_current_revision(), known


def _state(connection: Connection) -> SchemaState:
    revision, known = _revisions(connection)
    if revision is None:
        return "empty"
    if revision not in known:
        return "newer"
    dbos_schema = "dbos" if connection.dialect.name == "postgresql" else None
    if revision != known[0] or not inspect(connection).has_table("dbos_migrations", schema=dbos_schema):
        return "older"
    return "current"


def _made_by_newer() -> SchemaError:
    return SchemaError("the database was made by a newer version of endonode; install that version")
