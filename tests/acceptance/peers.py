"""Real peers and a real node as processes: Orthanc, DCMTK's senders, ``python -m node``."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ask: Callable[[], T | None], timeout_s: float, every_s: float = 0.2) -> T:
    """Return the first answer that is not None or False; fail after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Orthanc:
    """Debian's Orthanc on loopback, with its own folder; it can be stopped and started again."""

    def __init__(self, folder: Path, *, node_port: int, aet: str = "PACS") -> None:
        self.folder, self.aet = folder, aet
        self.dicom_port, self.http_port = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": aet,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "OverwriteInstances": False,
            "DicomModalities": {"node": ["ENDONODE", "127.0.0.1", node_port]},
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until both its ports answer."""
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_for("Orthanc", lambda: listens(self.dicom_port) and listens(self.http_port), 30)

    def stop(self) -> None:
        """Stop it by its pid."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def get(self, path: str) -> Any:
        """GET from its REST interface; JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        """GET from its REST interface; bytes."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: object) -> Any:
        """POST JSON (or bytes) to its REST interface; JSON comes back."""
        return json.loads(self.post_bytes(path, body))

    def post_bytes(self, path: str, body: object) -> bytes:
        """POST JSON (or bytes) to its REST interface; bytes come back."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())

    def delete(self, path: str) -> None:
        """DELETE through its REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310

    def instances(self, study_uid: str | None = None) -> dict[str, dict[str, Any]]:
        """Return SOP Instance UID -> Orthanc id and tags of all instances (of one study)."""
        found = {}
        for instance in self.get("/instances?expand"):
            tags = self.get(f"/instances/{instance['ID']}/simplified-tags")
            if study_uid in (None, tags["StudyInstanceUID"]):
                found[tags["SOPInstanceUID"]] = {"id": instance["ID"], **tags}
        return found

    def file(self, orthanc_id: str) -> bytes:
        """Return an instance's DICOM file."""
        return self.get_bytes(f"/instances/{orthanc_id}/file")


class NodeProcess:
    """``python -m node serve`` (or receive, work) in a process group of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        pacs_port: int,
        database_url: str | None = None,
        quiet_time_s: float = 3,
        late_quiet_time_s: float = 3,
        http_port: int = 0,
        extra: str = "",
    ) -> None:
        self.folder, self.port, self.http_port = folder, port, http_port
        folder.mkdir(parents=True, exist_ok=True)
        self.database_url = database_url or f"sqlite:///{folder / 'endonode.db'}"
        self.config = folder / "endonode.toml"
        self.config.write_text(
            f"""
ae_title = "ENDONODE"
port = {port}
storage_dir = "{folder / "store"}"
database_url = "{self.database_url}"
quiet_time_s = {quiet_time_s}
late_quiet_time_s = {late_quiet_time_s}
min_free_bytes = 0
http_port = {http_port}
{extra}
[[peers]]
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
receives_results = true
"""
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: str = "serve") -> subprocess.Popen[bytes]:
        """Start one process; a receiver is waited for until it listens."""
        with (self.folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "node", command, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        self.processes.append(process)
        if command not in ("work", "page"):
            wait_for("the node", lambda: listens(self.port), 30, every_s=0.05)
        return process

    def kill(self) -> None:
        """Kill -9 every process of the node at once."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self.processes = []

    def stop(self) -> None:
        """SIGTERM, and wait for the drain."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(90)
        self.processes = []

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the node's commands."""
        return subprocess.run(
            [sys.executable, "-m", "node", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=120,
            check=False,
        )

    def exams(self) -> list[dict[str, Any]]:
        """Return what ``exams --json`` prints."""
        done = self.command("exams", "--json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    def wait_delivered(self, studies: Sequence[str], timeout_s: float) -> dict[str, dict[str, Any]]:
        """Wait until the newest revision of each study is delivered; return them by study."""

        def newest() -> dict[str, dict[str, Any]] | None:
            current = {exam["study_uid"]: exam for exam in self.exams() if exam["superseded_by"] is None}
            if all(current.get(study, {}).get("state") == "delivered" for study in studies):
                return current
            return None

        # Seldom: each time a command starts, which takes a second of a core from the node.
        return wait_for("delivery of every study", newest, timeout_s, every_s=2)


def dcmsend(
    port: int, paths: Sequence[Path], *, aet: str = "PACS", aec: str = "ENDONODE"
) -> subprocess.CompletedProcess[str]:
    """Send files or folders with DCMTK's dcmsend on one association a transfer syntax set."""
    return subprocess.run(
        ["dcmsend", "-aet", aet, "-aec", aec, "+sd", "+r", "--no-uid-checks", "127.0.0.1", str(port),
         *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TCP_NODELAY": "1"},
    )  # fmt: skip


def missing_tools(*names: str) -> list[str]:
    """Return which of the programs are not installed."""
    return [name for name in names if shutil.which(name) is None]
