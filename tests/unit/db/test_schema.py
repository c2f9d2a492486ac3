"""Migrations, and what a start makes of the tables it finds."""

import datetime as dt
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from dbos import DBOS
from sqlalchemy import Engine, inspect, select, text

from db.engine import Database, open_database
from db.errors import SchemaError
from db.schema import MIGRATIONS, ensure_schema, installation_id, migrate, schema_state
from db.tables import Base, ExamRow, PredictionRow, TallyRow

SQLITE_DDL = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name <> 'alembic_version'"
POSTGRES_DDL = """
SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable,
    character_maximum_length, column_default) FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
"""


def ddl(engine: Engine) -> dict[str, list[str]]:
    """Return what the database itself says of its tables, columns, keys and indexes, by name.

    The clauses of each are sorted: in which order a table's constraints were stated says nothing.
    """
    query = SQLITE_DDL if engine.dialect.name == "sqlite" else POSTGRES_DDL
    with engine.connect() as connection:
        return {
            name: sorted(re.split(r"\s*,\s*|\s+\)$", said)) for name, said in connection.execute(text(query))
        }


@pytest.fixture
def other_url(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return a maker of further empty databases of the same kind."""
    if database_url.startswith("sqlite"):
        return lambda: f"sqlite:///{tmp_path / f'other{len(list(tmp_path.iterdir()))}.db'}"
    create: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return create


def test_migrations_give_exactly_the_tables(database: Database, other_url: Callable[[], str]) -> None:
    """Tests would run on one schema and hospitals on another. DBOS's own tables beside ours are not ours."""
    by_tables, by_dbos = open_database(other_url()), open_database(other_url())
    Base.metadata.create_all(by_tables.engine)
    DBOS.migrate(by_dbos.url)
    ours = {name: said for name, said in ddl(database.engine).items() if name not in ddl(by_dbos.engine)}
    assert ours == ddl(by_tables.engine)
    assert len(ours) > len(Base.metadata.tables)
    for opened in (by_tables, by_dbos):
        opened.close()


def test_only_one_row_in_force_is_let_in(database: Database) -> None:
    """The partial index keeps the promise that a received UID is never overwritten."""
    with database.engine.connect() as connection:
        query = "SELECT sql FROM sqlite_master WHERE name = 'uq_instances_in_force'"
        if database.dialect == "postgresql":
            query = "SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_instances_in_force'"
        said = connection.execute(text(query)).scalar_one()
    assert "UNIQUE" in said
    assert "accepted" in said.partition("WHERE")[2]


def test_a_database_goes_from_empty_to_current_and_stays(database_url: str) -> None:
    database = open_database(database_url)
    assert schema_state(database) == "empty"
    ensure_schema(database)
    before = ddl(database.engine)
    assert schema_state(database) == "current"
    migrate(database)
    ensure_schema(database)
    assert ddl(database.engine) == before
    database.close()


def test_tables_of_a_newer_version_are_refused(database: Database) -> None:
    """A node that works on tables it does not know loses what it cannot see."""
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    assert schema_state(database) == "newer"
    with pytest.raises(SchemaError, match="newer version"):
        ensure_schema(database)


def test_tables_of_an_older_version_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are changed by `migrate` alone, when all nodes are stopped; there is no older version yet."""
    monkeypatch.setattr("db.schema._revisions", lambda _: ("0000", ["0001", "0000"]))
    assert schema_state(database) == "older"
    with pytest.raises(SchemaError, match="endonode migrate"):
        ensure_schema(database)


def test_half_made_tables_are_finished(database: Database) -> None:
    """One process starts while another has made our tables and not yet the engine's, or died in between."""
    with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("DROP SCHEMA dbos CASCADE"))
        else:
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            ours = {*Base.metadata.tables, "alembic_version"}
            for table in set(inspect(connection).get_table_names()) - ours:
                connection.execute(text(f"DROP TABLE {table}"))
    assert schema_state(database) == "older"
    ensure_schema(database)
    assert schema_state(database) == "current"


def test_what_a_newer_version_made_is_not_migrated(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    with pytest.raises(SchemaError, match="newer version"):
        migrate(database)


def test_processes_that_start_together_make_one_schema(database_url: str) -> None:
    """`serve` on several hosts, or receiver and worker of one, are started at once on an empty database."""
    code = (
        "import sys; from db.engine import open_database; import db.schema as s\n"
        "database = open_database(sys.argv[1]); s.ensure_schema(database); print(s.installation_id(database))"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-W", "error", "-c", code, database_url]
    starts = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = [start.communicate(timeout=60)[0] for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert len(set(ids)) == 1


def test_the_installation_has_one_id_for_ever(database: Database) -> None:
    """Every UID of ours derives from it: two ids would give one result two names."""
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(installation_id(database))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert len({*ids, installation_id(database)}) == 1


def test_an_older_database_keeps_its_readings_and_gains_what_is_asked_by(database_url: str) -> None:
    database = open_database(database_url)
    with database.engine.execution_options(takes_write_lock=True).begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", MIGRATIONS)
        command.upgrade(config, "0001")
        for statement in OLDER_ROWS.split(";"):
            connection.execute(text(statement), {"at": "2026-03-01 23:30:00+00:00"})
    assert schema_state(database) == "older"
    migrate(database)
    with database.reading() as session:
        assert {row.id: row.priority for row in session.scalars(select(ExamRow))} == {
            "a": 10,
            "b": 20,
            "c": 40,
        }
        (prediction,) = session.scalars(select(PredictionRow))
        assert (prediction.patient_row_id, prediction.peer_ae_title) == (7, "TOWER")
        assert prediction.confidence == pytest.approx(0.93)
        (tally,) = session.scalars(select(TallyRow))
        assert (tally.week, tally.reading, tally.decile, tally.count) == (dt.date(2026, 3, 1), "ibd", 9, 1)
    database.close()


OLDER_ROWS = """
INSERT INTO patients (id, patient_id, issuer_of_patient_id, created_at) VALUES (7, 'P', '', :at);
INSERT INTO exams (id, exam_key, revision, patient_row_id, study_instance_uid, accession_number,
    peer_ae_title, state, opened_at, last_new_at, closes_at, has_conflict, step_seconds)
VALUES ('a', 'a', 1, 7, '1.2', '', 'TOWER', 'delivered', :at, :at, :at, false, '{}'),
    ('b', 'b', 1, 7, '1.2', '', 'TOWER', 'failed', :at, :at, :at, false, '{}'),
    ('c', 'c', 1, 7, '1.2', '', 'TOWER', 'receiving', :at, :at, :at, false, '{}');
INSERT INTO models (digest, name, version, manifest, registered_at) VALUES ('d', 'm', '1', '{}', :at);
INSERT INTO predictions (id, exam_id, model_digest, recipe_digest, reading, probability, threshold, top_k,
    vote_mode, frames_kept, frames_rejected, frames_used, created_at)
VALUES (1, 'a', 'd', 'r', 'ibd', 0.93, 0.8, 5, 'probabilities', 3, 0, 3, :at)
"""
