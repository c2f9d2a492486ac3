"""Durable bytes by digest: what is kept, what is refused, and what a dead process leaves behind."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import StorageError, StorageFullError
from node.files import FileStore, StoredFile

DIGEST = hashlib.sha256(b"pixels").hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """Return a prepared store."""
    store = FileStore(tmp_path / "store", min_free_bytes=0)
    store.prepare("installation-1")
    return store


def test_kept_bytes_lie_under_their_digest_and_nowhere_else(files: FileStore) -> None:
    """The database stores digests alone: the name must follow from the bytes."""
    staged = files.staging / "arriving"
    staged.write_bytes(b"pixels")
    assert files.keep(staged, DIGEST) == StoredFile(DIGEST, 6)
    assert not staged.exists()
    with files.open(DIGEST) as file:
        assert file.read() == b"pixels"
    assert files.path(DIGEST).read_bytes() == b"pixels"


def test_the_same_bytes_twice_are_one_file(files: FileStore) -> None:
    """A study sent again takes no room, and keeping it again changes nothing."""
    assert files.keep_bytes(b"pixels") == files.keep_bytes(b"pixels") == StoredFile(DIGEST, 6)
    assert len([path for path in files.path(DIGEST).parents[1].rglob("*") if path.is_file()]) == 1
    assert list(files.staging.iterdir()) == []


def test_purged_bytes_are_gone_and_purging_twice_is_no_error(files: FileStore) -> None:
    """A purge that was interrupted is done again."""
    files.keep_bytes(b"pixels")
    files.purge(DIGEST)
    files.purge(DIGEST)
    with pytest.raises(StorageError, match=DIGEST):
        files.open(DIGEST)


@pytest.mark.usefixtures("files")
def test_a_folder_of_another_installation_is_refused(tmp_path: Path) -> None:
    """Two databases on one folder would purge each other's images; a second host of ours is welcome."""
    FileStore(tmp_path / "store", min_free_bytes=0).prepare("installation-1")
    with pytest.raises(StorageError, match="belongs to installation installation-1"):
        FileStore(tmp_path / "store", min_free_bytes=0).prepare("installation-2")


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """An operator's typing error is answered with the setting's name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"storage_dir .*file/store cannot be prepared: Not a directory"):
        FileStore(tmp_path / "file" / "store", min_free_bytes=0).prepare("installation-1")


def test_room_is_what_is_free_above_the_reserve(tmp_path: Path) -> None:
    """Below the reserve nothing more is taken in."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert FileStore(tmp_path, min_free_bytes=free // 2).has_room()
    assert not FileStore(tmp_path, min_free_bytes=free * 2).has_room()


HOLD = """
import sys, time
from pathlib import Path
from node.files import FileStore
store = FileStore(Path(sys.argv[1]), min_free_bytes=0)
store.prepare("installation-1")
(store.staging / "arriving").write_bytes(b"half")
print(store.staging, flush=True)
time.sleep(60)
"""


def test_what_a_dead_process_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """Several receivers share the folder: a restart of one must not take another's transfer away."""
    root = tmp_path / "store"
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        folders = [Path(process.stdout.readline().strip()) for process in processes if process.stdout]
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait(10)
        FileStore(root, min_free_bytes=0).prepare("installation-1")
        assert not folders[0].exists()
        assert (folders[1] / "arriving").read_bytes() == b"half"
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FileStore]:
    """Return a store on a disk of 1 MB, or skip loudly."""
    root = tmp_path / "store"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        store = FileStore(root, min_free_bytes=0)
        store.prepare("installation-1")
        yield store
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_a_full_disk_says_so_and_keeps_what_it_had(full: FileStore) -> None:
    """A result that cannot be stored is a clear, transient error; half of it must not stay."""
    full.keep_bytes(b"pixels")
    with pytest.raises(StorageFullError):
        full.keep_bytes(bytes(2_000_000))
    assert list(full.staging.iterdir()) == []
    assert full.path(DIGEST).read_bytes() == b"pixels"
    full.keep_bytes(b"others")


def test_a_missing_mount_is_never_taken_for_an_empty_store(tmp_path: Path) -> None:
    """Where the shared folder is not mounted, objects would land on a local disk that nobody else sees."""
    store = FileStore(tmp_path / "store", min_free_bytes=0)
    with pytest.raises(StorageError, match="mount it there"):
        store.prepare("an-installation", is_first=False)
    assert not (tmp_path / "store").exists()


def test_a_process_that_ends_leaves_no_staging_behind(tmp_path: Path) -> None:
    """A lock file of another user would keep the service from starting."""
    store = FileStore(tmp_path / "store", min_free_bytes=0)
    store.prepare("an-installation")
    store.close()
    assert list((tmp_path / "store" / "staging").iterdir()) == []
