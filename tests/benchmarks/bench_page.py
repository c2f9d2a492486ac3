"""How long the server takes for a page of the worklist over 100,000 exams, as JSON; 100 ms are the bound.

Generated rows, on SQLite and on PostgreSQL: one exam in ten is of each rare kind. The older half is
reviewed; at last all but 40 are. Each request is timed at the server, from arrival to last byte, warm.
"""

import asyncio
import datetime as dt
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import func, insert, select, text, update

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from db.engine import utc_now
from db.tables import ExamRow, ModelPackageRow, PatientRow, PredictionRow
from node.house import Node
from node.serving import open_node
from node.sessions import log_in
from node.settings import Settings
from node.users import add_user
from node.web.app import make_app
from tests.benchmarks.databases import KINDS as DATABASES
from tests.benchmarks.databases import empty_database

EXAMS = 100_000
TIMES = 15
BOUND_MS = 100
DIGEST = "d" * 64
KINDS = (("ibd", 10), ("failed", 20), ("unpredicted", 30), ("reading", 40)) + (("healthy", 50),) * 6


def fill(node: Node) -> None:
    """Write patients, exams and predictions."""
    draw, began = random.Random(5), utc_now() - dt.timedelta(days=900)
    exams, predictions = [], []
    for number in range(EXAMS):
        kind, priority = draw.choice(KINDS)
        at = began + dt.timedelta(minutes=13 * number)
        exams.append({
            "id": f"{number:012x}", "exam_key": f"{number:064x}", "revision": 1,
            "patient_row_id": 1 + number // 3, "study_instance_uid": f"1.2.{number}",
            "accession_number": f"A{number}", "study_date": f"{at:%Y%m%d}", "device_model": "CF-1",
            "peer_ae_title": draw.choice(("PACS", "WARD")), "priority": priority,
            "state": {"failed": "failed", "reading": "reading"}.get(kind, "delivered"), "opened_at": at,
            "last_new_at": at, "closes_at": at, "received_count": 30, "has_conflict": False,
            "step_seconds": {},
        })  # fmt: skip
        if priority not in (20, 40):
            predictions.append({
                "exam_id": f"{number:012x}", "patient_row_id": 1 + number // 3, "model_digest": DIGEST,
                "recipe_digest": DIGEST, "reading": kind, "unpredicted_reason": None, "probability": 0.9,
                "threshold": 0.85, "top_k": 5, "vote_mode": "probabilities", "frames_kept": 20,
                "frames_rejected": 10, "frames_used": 5, "created_at": at,
                "verdict": "accepted" if number < EXAMS // 2 else None,
            })  # fmt: skip
    patients = [
        {"patient_id": f"P{number}", "issuer_of_patient_id": "", "created_at": began}
        for number in range(1 + EXAMS // 3)
    ]
    model = {"digest": DIGEST, "name": "m", "version": "1", "manifest": {}, "registered_at": began}
    with node.database.writing() as session:
        session.execute(insert(PatientRow), patients)
        session.execute(insert(ModelPackageRow), [model])
        session.execute(insert(ExamRow), exams)
        session.execute(insert(PredictionRow), predictions)


async def measure(node: Node, token: str) -> dict[str, dict[str, float]]:
    """Ask for each kind of page as a browser does."""
    transport = httpx.ASGITransport(make_app(node))
    said = {"Accept": "text/html", "Cookie": f"endonode={token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://page", headers=said) as client:
        csrf = (await client.get("/")).text.partition('"X-CSRF-Token":"')[2].partition('"')[0]
        deep = f"/?review=all&after=50~{(utc_now() - dt.timedelta(days=800)).isoformat()}~0".replace(
            "+", "%2B"
        )
        asked = {
            "first page": ("GET", "/", None),
            "all, far down": ("GET", deep, None),
            "newest first": ("GET", "/?sort=newest&review=all", None),
            "oldest not reviewed": ("GET", "/?sort=oldest", None),
            "accepted": ("GET", "/?review=accepted", None),
            "rejected: none is": ("GET", "/?review=rejected", None),
            "no reading": ("GET", "/?reading=none", None),
            "unpredicted of one peer": ("GET", "/?reading=unpredicted&peer=WARD", None),
            "being delivered: none is": ("GET", "/?state=delivering&review=all", None),
            "one day": ("GET", "/?since=2026-01-05&until=2026-01-05&review=all", None),
            "search by patient": ("POST", "/search", {"q": "P77", "csrf": csrf}),
            "search by day": ("POST", "/search", {"q": "2026-01-05", "csrf": csrf}),
            "refresh": ("GET", "/", None),
            "first page, all but 40 reviewed": ("GET", "/", None),
        }
        found = {}
        for name, (method, address, form) in asked.items():
            if name.endswith("reviewed") and "but" in name:
                with node.database.writing() as session:
                    last = (session.scalar(select(func.max(PredictionRow.id))) or 0) - 40
                    reviewed = update(PredictionRow).where(PredictionRow.id <= last)
                    session.execute(reviewed.values(verdict="accepted"))
                    rare = update(ExamRow).where(ExamRow.priority.in_((20, 40)))
                    session.execute(rare.values(priority=50, state="delivered"))
            live = {"X-Live": "1"} if name == "refresh" else {}
            took = []
            for _ in range(TIMES + 2):
                started = time.perf_counter()
                answer = await client.request(method, address, data=form, headers=live)
                took.append(1000 * (time.perf_counter() - started))
                if answer.status_code != httpx.codes.OK:
                    raise SystemExit(f"{name}: {answer.status_code}")
            warm = took[2:]
            found[name] = {"median_ms": round(statistics.median(warm), 1), "slowest_ms": round(max(warm), 1)}
    return found


def main() -> int:
    """Print a line for each database; 1 where a median is past the bound."""
    holds = True
    for kind in DATABASES:
        with tempfile.TemporaryDirectory() as folder, empty_database(kind, Path(folder)) as url:
            settings = Settings(storage_dir=Path(folder) / "store", database_url=url, min_free_bytes=0)
            with open_node(settings, stores=True) as node:
                fill(node)
                if kind == "postgresql":  # as its own service does in a node that has grown to this
                    with node.database.engine.connect() as connection:
                        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
                add_user(node, "bench", "viewer", "correct horse battery", actor="os:bench")
                token = log_in(node, "bench", "correct horse battery", address="127.0.0.1")
                found = asyncio.run(measure(node, token))
        holds &= all(each["median_ms"] <= BOUND_MS for each in found.values())
        print(json.dumps({"database": kind, "exams": EXAMS, "bound_ms": BOUND_MS, "pages": found}))  # noqa: T201
    return not holds


if __name__ == "__main__":
    sys.exit(main())
