"""Jobs and processes that die: nothing is lost and nothing is done twice."""

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs_dbos import DbosJobs
from db.tables import AuditEventRow, JobRow

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
TTL_S, BEAT_S = 1.5, 0.3


class Worker:
    """A process of `job_process.py`, and what it printed."""

    def __init__(self, url: str, log: Path, *, beat_s: float, source: Path) -> None:
        script = ROOT / "tests" / "integration" / "job_process.py"
        command = [sys.executable, "-W", "error", str(script), url, str(TTL_S), str(beat_s)]
        self.log = log
        with log.open("w") as output:
            environment = {"PYTHONPATH": str(source)}
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    @property
    def is_up(self) -> bool:
        """Whether it has begun to take jobs, or has ended over one."""
        return "ready as " in self.said() or self.process.poll() is not None

    @property
    def owner(self) -> str:
        """What its claims and lease are signed with."""
        return self.said().partition("ready as ")[2].partition("\n")[0]

    def said(self) -> str:
        """Return all that it printed so far."""
        return self.log.read_text()

    def kill(self) -> None:
        """Kill it as the kernel does: it can tidy nothing up."""
        self.process.kill()
        self.process.wait(10)


Start = Callable[..., Worker]


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Start]:
    """Return what starts a worker process and waits until it is ready; all are killed at the end."""
    workers: list[Worker] = []

    def run(*, beat_s: float = BEAT_S, source: Path = ROOT) -> Worker:
        log = tmp_path / f"worker{len(workers)}.log"
        workers.append(Worker(database.url, log, beat_s=beat_s, source=source))
        until(lambda: workers[-1].is_up, 60)
        return workers[-1]

    yield run
    for worker in workers:
        worker.kill()


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait until the condition holds, at most so long."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def enqueue(database: Database, *subjects: str, kind: str = "read") -> list[str]:
    jobs = DbosJobs(database)
    with database.writing() as session:
        return [jobs.enqueue(session, kind, subject) for subject in subjects]


def events(database: Database, event: str) -> list[AuditEventRow]:
    with database.reading() as session:
        query = select(AuditEventRow).where(AuditEventRow.event == event).order_by(AuditEventRow.id)
        return list(session.scalars(query))


def states(database: Database) -> Counter[str]:
    with database.reading() as session:
        return Counter(session.scalars(select(JobRow.state)))


def owners(database: Database, event: str) -> list[str]:
    """Return the processes that left such an event: an owner less its dispatch number."""
    return [str(found.detail["owner"]).rpartition(".")[0] for found in events(database, event)]


def attempts(database: Database, event: str) -> list[int]:
    return [found.detail["attempts"] for found in events(database, event)]


def test_a_dead_workers_job_is_taken_over_though_it_never_returns(database: Database, start: Start) -> None:
    """DBOS alone leaves it PENDING for ever: a host that burns down would keep its exams."""
    one, other = start(), start()
    enqueue(database, "slow:1")
    until(lambda: owners(database, "started") != [])
    victim, heir = (one, other) if owners(database, "started") == [one.owner] else (other, one)
    victim.kill()
    killed_at = time.monotonic()
    until(lambda: len(events(database, "started")) == 2)
    assert time.monotonic() - killed_at < TTL_S + 2 * BEAT_S + 1.5
    until(lambda: states(database) == {"done": 1})
    assert owners(database, "started") == [victim.owner, heir.owner]
    assert attempts(database, "started") == [1, 2]
    assert owners(database, "ran") == [heir.owner]


def test_a_live_workers_long_job_is_left_to_it(database: Database, start: Start) -> None:
    """A video takes longer than a lease: taken over each time, it would be read thrice and buried."""
    workers = {start().owner, start().owner}
    enqueue(database, f"slow:{2 * TTL_S}")
    until(lambda: states(database) == {"done": 1})
    assert attempts(database, "started") == attempts(database, "ran") == [1]
    assert {*owners(database, "ran")} < workers


def test_a_job_that_kills_its_worker_is_buried_at_the_third(database: Database, start: Start) -> None:
    """One image that crashes a codec must not take every worker down for ever, and its exam must say so."""
    (job_id,) = enqueue(database, "poison")
    for death in range(1, 4):
        start().process.wait(20)
        assert attempts(database, "started") == list(range(1, death + 1))
    start()
    until(lambda: states(database) == {"buried": 1})
    assert [event.detail["error"] for event in events(database, "buried")] == ["its worker died"]
    assert attempts(database, "started") == [1, 2, 3]
    with database.reading() as session:
        assert session.get_one(JobRow, job_id).last_error == "its worker died"


@pytest.mark.parametrize("kind", ["close", "deliver"])
def test_a_death_is_not_laid_on_what_decodes_nothing(database: Database, start: Start, kind: str) -> None:
    """Four results wait for a PACS while a video kills the worker thrice: none of them may end buried."""
    (job_id,) = enqueue(database, "poison", kind=kind)
    for _ in range(4):
        start().process.wait(20)
    assert attempts(database, "started") == [1] * 4
    with database.reading() as session:
        assert session.get_one(JobRow, job_id).state != "buried"


def test_who_lost_its_lease_stores_nothing(database: Database, start: Start) -> None:
    """A process that slept through its lease wakes up and believes in its claim: two results of one exam."""
    zombie = start(beat_s=1000)
    enqueue(database, "slow:4")
    until(lambda: owners(database, "started") == [zombie.owner])
    heir = start()
    until(lambda: states(database) == {"done": 1})
    until(lambda: "job_lost" in zombie.said())
    assert owners(database, "started") == [zombie.owner, heir.owner]
    assert owners(database, "ran") == [heir.owner]


def test_an_upgrade_runs_the_jobs_that_it_finds(database: Database, start: Start, tmp_path: Path) -> None:
    """DBOS tells versions apart by a hash of the source: one edited line once stranded every queued job."""
    shutil.copytree(ROOT / "db", tmp_path / "db")
    adapter = tmp_path / "db" / "jobs_dbos.py"
    source = adapter.read_text(encoding="utf-8")
    edited = source.replace("self._run(job_id, dispatch)\n", "self._run(job_id, dispatch)  # edited\n")
    assert edited != source
    adapter.write_text(edited, encoding="utf-8")
    before = start()
    enqueue(database, "quick")
    until(lambda: states(database) == {"done": 1})
    before.process.terminate()
    assert before.process.wait(20) == 0
    enqueue(database, "quick", "quick")
    after = start(source=tmp_path)
    until(lambda: states(database) == {"done": 3})
    assert owners(database, "ran") == [before.owner, after.owner, after.owner]


def test_a_worker_opens_no_port_and_speaks_only_in_our_log(database: Database, start: Start) -> None:
    """The engine knows a console banner and a cloud to call; a hospital's firewall must see nothing of it."""
    worker = start()
    enqueue(database, "quick", kind="deliver")
    until(lambda: states(database) == {"done": 1})
    process = psutil.Process(worker.process.pid)
    assert process.net_connections("inet") == []
    assert process.num_threads() < 40
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    assert worker.said() == f"ready as {worker.owner}\n"


def test_random_kills_lose_nothing_and_do_nothing_twice(
    database: Database, start: Start, request: pytest.FixtureRequest
) -> None:
    """A kill may fall between any two statements: only many tell that none of them matters."""
    dice = random.Random(3)
    kinds = ("compare", "close", "read", "deliver")
    subjects = [f"slow:{dice.uniform(0, 0.4):.2f}#{number}" for number in range(40)]
    for number, subject in enumerate(subjects):
        enqueue(database, subject, kind=kinds[number % len(kinds)])
    workers = [start(), start()]
    for _ in range(20 if request.config.getoption("--full") else 3):
        time.sleep(dice.uniform(0.2, 1.5))
        workers.pop(dice.randrange(2)).kill()
        workers.append(start())
    until(lambda: states(database)["queued"] + states(database)["running"] == 0, 60)
    ran = Counter(event.subject_id for event in events(database, "ran"))
    buried = Counter(event.subject_id for event in events(database, "buried"))
    assert ran + buried == Counter(subjects)
    started = Counter(event.subject_id for event in events(database, "started"))
    assert all(started[subject] >= 3 for subject in buried)
    assert states(database) == {"done": len(ran)} | ({"buried": len(buried)} if buried else {})
