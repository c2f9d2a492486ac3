"""The file store: objects kept by digest. The only module that reaches stored files.

Below the root lie ``installation`` (whose folder this is), ``objects/ab/<sha256>`` and ``staging/<process>``.
The 256 folders are made once, so that keeping an object never has to make one durable first.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.errors import StorageError, StorageFullError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a system call answers where no more bytes fit."""

MARKER = "installation"
"""Name of the file that says whose folder it is."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Bytes that are durable: SHA-256 (hex, also the file's name) and length."""

    sha256: str
    size_bytes: int


def storage_error(error: OSError, what: str) -> StorageError:
    """Translate a system error into ours; a full or over-quota file system is told from the rest."""
    kind = StorageFullError if error.errno in FULL else StorageError
    return kind(f"{what}: {error.strerror or type(error).__name__}")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileStore:
    """Durable bytes below one folder, which several hosts may share.

    Attributes
    ----------
    staging
        This process's own folder for files not yet kept, on the same file system; there after `prepare`.
    """

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        self._owner_lock: int | None = None
        self.staging = root / "staging" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def prepare(self, installation_id: str, *, is_first: bool = True) -> None:
        """Make the folders, check whose they are, claim `staging` and sweep what dead processes left.

        Raises
        ------
        StorageError
            The folder belongs to another installation, cannot be written, or has no marker though the
            installation has stored before (`is_first` is False): a mount is missing.
        """
        if not is_first and not (self._root / MARKER).exists():
            raise StorageError(
                f"storage_dir {self._root} is not the folder that this installation has stored in; "
                "mount it there, or correct storage_dir"
            )
        try:
            for name in range(256):
                (self._root / "objects" / f"{name:02x}").mkdir(parents=True, exist_ok=True)
            self.staging.parent.mkdir(exist_ok=True)
            if self._owner_lock is None:
                self._claim_staging()
            self._leave_marker(installation_id)
            self._check_marker(installation_id)
            _fsync_folder(self._root / "objects")
            _fsync_folder(self._root)
            self._sweep()
        except OSError as error:
            raise storage_error(error, f"storage_dir {self._root} cannot be prepared") from error

    def close(self) -> None:
        """Give `staging` up; what a process that stores nothing more leaves behind is nothing."""
        if self._owner_lock is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._owner_lock)
            self._owner_lock = None

    def has_room(self) -> bool:
        """Tell whether more than `min_free_bytes` are free."""
        free = os.statvfs(self._root)
        return free.f_bavail * free.f_frsize > self._min_free_bytes

    def keep(self, staged: Path, sha256: str) -> StoredFile:
        """Give a durable file of `staging` its digest for a name, durably: rename, fsync of the folder.

        The same bytes twice are kept once. On failure the staged file stays, for the caller to remove.

        Raises
        ------
        StorageFullError
            No room is left.
        StorageError
            The file cannot be named.
        """
        try:
            size_bytes = staged.stat().st_size
            target = self.path(sha256)
            staged.replace(target)
            _fsync_folder(target.parent)
        except OSError as error:
            raise storage_error(error, "a received file cannot be kept") from error
        return StoredFile(sha256, size_bytes)

    def keep_bytes(self, data: bytes) -> StoredFile:
        """Make bytes durable under their digest; errors as in `keep`."""
        staged = self.staging / secrets.token_hex(8)
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return self.keep(staged, hashlib.sha256(data).hexdigest())
        except OSError as error:
            raise storage_error(error, "bytes cannot be kept") from error
        finally:
            staged.unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where bytes of that digest lie, if they are kept."""
        return self._root / "objects" / sha256[:2] / sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open kept bytes for reading.

        Raises
        ------
        StorageError
            They are not there, or cannot be read.
        """
        try:
            return self.path(sha256).open("rb")
        except OSError as error:
            raise storage_error(error, f"stored file {sha256} cannot be opened") from error

    def purge(self, sha256: str) -> None:
        """Remove kept bytes; those already gone are no error."""
        try:
            self.path(sha256).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, f"stored file {sha256} cannot be removed") from error

    def _claim_staging(self) -> None:
        """Lock first, then make the folder: one that exists unlocked is therefore a dead process's.

        The lock hangs on the open file: the kernel (or the NFS server) lets go of it when the process dies.
        """
        lock = self.staging.with_suffix(".lock")
        while self._owner_lock is None:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                self._owner_lock = descriptor
            else:  # swept between our open and our lock
                os.close(descriptor)
        self.staging.mkdir()

    def _sweep(self) -> None:
        for lock in (self._root / "staging").glob("*.lock"):
            try:
                descriptor = os.open(lock, os.O_RDWR)
            except (FileNotFoundError, PermissionError):  # swept by another, or another user's
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)

    def _leave_marker(self, installation_id: str) -> None:
        marker = self._root / MARKER
        if marker.exists():
            return
        staged = self.staging / MARKER
        staged.write_text(installation_id, encoding="ascii")
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another host was first
            os.link(staged, marker)
        staged.unlink()

    def _check_marker(self, installation_id: str) -> None:
        found = (self._root / MARKER).read_text(encoding="ascii").strip()
        if found != installation_id:
            raise StorageError(
                f"storage_dir {self._root} belongs to installation {found}, but the database to "
                f"{installation_id}; correct storage_dir or database_url"
            )
