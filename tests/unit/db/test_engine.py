"""Sessions: what they promise on SQLite and on PostgreSQL."""

import datetime as dt
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, StatementError

from db import engine
from db.engine import Database, filesystem_of, open_database, utc_now
from db.errors import DatabaseError
from db.tables import ArrivalRow, AuditEventRow, PeerMemoryRow

HERE = dt.timezone(dt.timedelta(hours=2))


def peer(title: str) -> PeerMemoryRow:
    return PeerMemoryRow(ae_title=title, subject="sc", form="multi_frame", learned_at=utc_now())


def arrival(beat_at: dt.datetime) -> ArrivalRow:
    return ArrivalRow(token="a" * 32, study_instance_uid="1.2", beat_at=beat_at)


def test_a_writing_session_keeps_all_or_nothing(database: Database) -> None:
    """A file row without its job, or the reverse, would be a lost image."""
    with database.writing() as session:
        session.add(peer("KEPT"))
    with pytest.raises(DBAPIError), database.writing() as session:
        session.add_all([peer("LOST"), peer("KEPT")])
    with database.reading() as session:
        assert session.scalars(select(PeerMemoryRow.ae_title)).all() == ["KEPT"]


def test_a_reading_session_can_change_nothing(database: Database) -> None:
    """What is added by mistake would be dropped in silence at the end; it has to be refused."""
    with database.reading() as session:
        session.add(peer("LOST"))
        with pytest.raises(DBAPIError):
            session.flush()
    with database.writing() as session:  # the same connection can write again
        session.add(peer("KEPT"))


def test_an_instant_comes_back_aware_and_equal(database: Database) -> None:
    """An exam closed an hour early or late would be read without its last images."""
    instant = dt.datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=HERE)
    with database.writing() as session:
        session.add(arrival(instant))
    with database.reading() as session:
        found = session.scalars(select(ArrivalRow.beat_at)).one()
        assert session.scalars(select(ArrivalRow).where(ArrivalRow.beat_at == instant)).one()
    assert (found, found.tzinfo) == (instant, dt.UTC)


def test_a_naive_instant_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="timezone-aware"), database.writing() as session:
        session.add(arrival(utc_now().replace(tzinfo=None)))


def test_the_shared_clock_is_aware_and_near_ours(database: Database) -> None:
    """Leases are compared with it: a clock that is naive or of another zone would kill every worker."""
    with database.reading() as session:
        now = database.now(session)
    assert now.tzinfo is dt.UTC
    assert abs(now - utc_now()) < dt.timedelta(seconds=5)


def test_an_error_names_no_value_of_a_row(database: Database) -> None:
    """SQLAlchemy quotes the values of a failed statement; a patient's would end in a log."""
    with database.writing() as session:
        session.add(peer("SECRET"))
    with pytest.raises(DBAPIError) as caught, database.writing() as session:
        session.execute(
            text(
                "INSERT INTO peer_memory (ae_title, subject, form, learned_at) VALUES (:a, 'sc', NULL, NULL)"
            ),
            {"a": "SECRET"},
        )
    assert "SECRET" not in str(caught.value).partition("DETAIL")[0]


def test_writers_of_one_study_wait_for_each_other(database: Database) -> None:
    """Two images of one exam that arrive at once must not open it twice."""
    order: list[str] = []
    locked = threading.Event()

    def second() -> None:
        locked.wait()
        with database.writing() as session:
            database.lock_study(session, "1.2.3")
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.writing() as session:
        database.lock_study(session, "1.2.3")
        locked.set()
        thread.join(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_write_session_within_another_fails_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that nests them by mistake should be found by its first test, not by a silent node."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 200)
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.writing(), pytest.raises(DatabaseError, match="write session"), database.writing():
        pass
    database.close()


def test_every_sqlite_connection_is_durable_and_patient(tmp_path: Path) -> None:
    """With less than these, 0x0000 is not durable or a store fails while another is written."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    for opened in (database.engine, database.dbos_engine):
        with opened.connect() as one, opened.connect() as another:
            for connection in (one, another):
                pragmas = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
                found = [connection.execute(text(f"PRAGMA {pragma}")).scalar() for pragma in pragmas]
                assert found == ["wal", 2, 30_000, 1]
    database.close()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    """With the usual `begin` listener every read takes the write lock, and the page dies under load."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.writing(), database.reading() as one, database.reading() as another:
        assert one.scalar(text("SELECT 1")) == another.scalar(text("SELECT 1")) == 1
    database.close()


def test_the_folder_of_a_new_sqlite_file_is_made(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'var' / 'lib' / 'a.db'}").close()
    assert (tmp_path / "var" / "lib" / "a.db").exists()


def test_a_sqlite_file_on_a_network_filesystem_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks do not hold there: two hosts would write one file to pieces."""
    here = filesystem_of(tmp_path.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    monkeypatch.setattr(engine, "NETWORK_FILESYSTEMS", frozenset({here}))
    with pytest.raises(DatabaseError, match=f"network filesystem \\({here}\\)"):
        open_database(f"sqlite:///{tmp_path / 'a.db'}")
    assert not (tmp_path / "a.db").exists()


def test_the_innermost_mount_decides_the_filesystem() -> None:
    table = (
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 21 0:40 / /srv rw shared:2 master:1 - nfs4 host:/export rw\n"
        "31 30 8:2 / /srv/local\\040disk rw - xfs /dev/vdb rw\n"
        "32 21 0:41 / /mnt rw - ext4 /dev/vdc rw\n"
        "33 21 0:42 / /mnt rw - cifs //host/share rw\n"
    )
    folders = ["/srv/a", "/srv/local disk/a", "/srvx", "/mnt/a"]
    assert [filesystem_of(Path(folder), table) for folder in folders] == ["nfs4", "xfs", "ext4", "cifs"]


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/db", "postgresql://host/db", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_of_another_kind_is_one_clear_line(url: str) -> None:
    with pytest.raises(DatabaseError, match=r"was expected$") as caught:
        open_database(url)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_clear_line_without_the_password() -> None:
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        open_database("postgresql+psycopg://me:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, but long enough to look like a header of one" * 20)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path / 'a.db'}")


def test_a_foreign_key_is_kept_on_sqlite_too(database: Database) -> None:
    """PostgreSQL keeps it anyway; a test that passes on SQLite alone would prove nothing."""
    with pytest.raises(DBAPIError), database.writing() as session:
        session.execute(
            text(
                "INSERT INTO evidence (prediction_id, frame_id, position, voted, gate)"
                " VALUES (1, 1, 1, TRUE, 'clean')"
            ),
        )


def test_ids_count_up_on_both(database: Database) -> None:
    """BIGINT alone is no rowid on SQLite: the audit trail would refuse its first event."""
    with database.writing() as session:
        events = [AuditEventRow(at=utc_now(), event="x_done", subject_id="a", detail={}) for _ in range(2)]
        session.add_all(events)
    assert [event.id for event in events] == [1, 2]
