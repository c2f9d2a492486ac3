"""The composition root: a node is opened from its settings, and its processes run until told to stop."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog
from sqlalchemy import select

from db.engine import open_database
from db.errors import SchemaError
from db.jobs_dbos import DbosJobs
from db.schema import ensure_schema, installation_id, schema_state
from db.tables import InstanceRow
from node.audit.keeping import keeping_trail
from node.errors import NodeError, SettingsError
from node.files import FileStore
from node.house import Node
from node.settings import Settings

log = structlog.get_logger()

DRAIN_S = 60.0
"""How long a stop waits for associations and jobs under way; what is not done then is taken over later."""

RESTART_AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before a worker that died is started again; the last one repeats."""

START_S = 10.0
"""A worker that ends by itself within this time of the node's start has not started at all."""

STOPS = {signal.SIGTERM, signal.SIGINT}

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel ends a worker whose parent was killed, so that none outlives its node."""

FRUGAL = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20)}
"""For the worker's C library: threads share what they free, and a network's large buffers go back at once.
A 301 MB object read by two threads: 505 MiB with the receiver instead of 558, for up to a tenth more time."""

PARENT_VARIABLE = "_ENDONODE_PARENT"
"""Environment variable that tells a worker whose it is; absent where an operator started it."""


@contextmanager
def open_node(settings: Settings, *, stores: bool = False, actor: str = "") -> Iterator[Node]:
    """Open database and file store and hand them on; closed on the way out.

    A process that `stores` gives an empty database its schema and makes the store's folders; an older schema
    is always refused. `actor` is who causes what this process does, if it is not the node itself.
    """
    with closing(open_database(settings.database_url)) as database:
        database.actor = actor
        if not stores and schema_state(database) == "empty":
            raise SchemaError("the database holds no tables yet; run `endonode migrate`, or start the node")
        ensure_schema(database)
        installation = installation_id(database)
        files = FileStore(settings.storage_dir, min_free_bytes=settings.min_free_bytes)
        if stores:
            with database.reading() as session:
                is_first = session.scalars(select(InstanceRow.id).limit(1)).first() is None
            files.prepare(installation, is_first=is_first)
        with closing(files):
            yield Node(settings, database, files, DbosJobs(database), installation)


def receive(settings: Settings) -> None:
    """Run the receiver alone until SIGTERM or SIGINT."""
    _configure_logging(settings)
    hold_signals()
    with open_node(settings, stores=True) as node, keeping_trail(node, "receive"), _receiving(node):
        wait_for_signal()


def work(settings: Settings) -> None:
    """Run one worker alone until SIGTERM or SIGINT."""
    from node.worker import Worker  # late: OpenCV, ONNX Runtime and the text detector load here only

    _die_with_parent()
    _configure_logging(settings)
    hold_signals()
    with open_node(settings, stores=True) as node, keeping_trail(node, "work"):
        worker = Worker(node)
        worker.start()
        log.info("worker_started", pid=os.getpid())
        wait_for_signal()
        worker.stop(DRAIN_S)
        log.info("worker_stopped", pid=os.getpid())


def page(settings: Settings) -> None:
    """Serve the page alone until SIGTERM or SIGINT, which the web server takes itself."""
    from node.web.app import run_page  # late: the web framework loads here only

    _die_with_parent()
    _configure_logging(settings)
    if not settings.http_port:
        raise SettingsError("http_port is 0, which means no page; set a port")
    with open_node(settings) as node:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # held by who started us, and so here too
        log.info("page_started", pid=os.getpid(), port=settings.http_port)
        run_page(node)
        log.info("page_stopped", pid=os.getpid())


def serve(settings: Settings, config: Path | None) -> None:
    """Run the receiver here, a worker and the page beside it; what dies of them is started again."""
    _configure_logging(settings)
    hold_signals()
    stop, failures = threading.Event(), list[str]()
    with open_node(settings, stores=True) as node, keeping_trail(node, "serve"):
        commands = ["work", "page"] if settings.http_port else ["work"]
        supervisors = [
            threading.Thread(target=_supervise, args=(command, config, stop, failures), name=command)
            for command in commands
        ]
        with _receiving(node):
            for supervisor in supervisors:
                supervisor.start()
            wait_for_signal()
            stop.set()
        for supervisor in supervisors:
            supervisor.join()
    if failures:
        raise NodeError(failures[0])


@contextmanager
def _receiving(node: Node) -> Iterator[None]:
    from node.dicom.scp import Receiver  # late: commands that do not listen load no pynetdicom
    from node.workitem_requests import report_restart

    receiver = Receiver(node)
    receiver.start()
    report_restart(node)
    log.info("receiver_started", ae_title=node.settings.ae_title, port=receiver.port)
    try:
        yield
    finally:
        receiver.stop(DRAIN_S)
        log.info("receiver_stopped")


def _supervise(command: str, config: Path | None, stop: threading.Event, failures: list[str]) -> None:
    """Keep a process running; one that cannot even start ends the node, which would not be whole."""
    deaths = 0
    name = {"work": "worker"}.get(command, command)
    while not stop.is_set():
        started = time.monotonic()
        try:
            process = _start(command, config)
        except OSError as error:  # no memory for another process, say: the next try may have it
            log.error("process_not_started", process=name, error=error.strerror)  # noqa: TRY400 - told, not traced
            stop.wait(RESTART_AFTER_S[-1])
            continue
        while process.poll() is None and not stop.wait(0.2):
            pass
        if stop.is_set():
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(DRAIN_S + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return
        log.error("process_died", process=name, pid=process.pid, exit_status=process.returncode)
        if not deaths and process.returncode > 0 and time.monotonic() - started < START_S:
            failures.append(
                f"the {name} could not start; its own message stands above; mend that, start again"
            )
            os.kill(os.getpid(), signal.SIGTERM)
            return
        stop.wait(RESTART_AFTER_S[min(deaths, len(RESTART_AFTER_S) - 1)])
        deaths += 1


def _start(command: str, config: Path | None) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-P", "-m", "node", command]
    if config is not None:
        line += ["--config", str(config)]
    environment = {**FRUGAL, **os.environ, PARENT_VARIABLE: str(os.getpid())}
    return subprocess.Popen(line, env=environment)


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone, killed or not."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)


def hold_signals() -> None:
    """Keep SIGTERM and SIGINT, for all threads begun from here on, until `wait_for_signal` takes one.

    A handler in Python runs once the main thread does, which is never if that was just beginning to wait.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def wait_for_signal() -> None:
    """Wait until the process is asked to stop, or was asked since `hold_signals`."""
    signal.sigwait(STOPS)


def _configure_logging(settings: Settings) -> None:
    """Log one JSON object a line to standard error; pynetdicom's chatter, which quotes datasets, is cut."""
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
