"""What a monitor asks: whether the page lives, whether it can answer, and figures without patients."""

from collections.abc import Iterator

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import PlainTextResponse, Response

from db.engine import utc_now
from db.tables import DeliveryRow, ExamRow, InstallationRow, JobRow, LeaseRow
from node.house import Node
from node.web.security import TheNode

router = APIRouter()


@router.get("/health/live")
def live() -> PlainTextResponse:
    """Answer that the process answers."""
    return PlainTextResponse("live\n")


@router.get("/health/ready")
def ready(node: TheNode) -> PlainTextResponse:
    """Tell whether database and store can be used, and something be stored."""
    try:
        with node.database.reading() as session:
            session.execute(select(InstallationRow.id).limit(1))
        has_room = node.files.has_room()
    except (SQLAlchemyError, OSError):
        return PlainTextResponse("database or store not in reach\n", 503)
    if not has_room:
        return PlainTextResponse("no room is left in the store\n", 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Return the figures in Prometheus' text format."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


def registry(node: Node) -> CollectorRegistry:
    """Return a registry that asks the database when it is asked."""
    found = CollectorRegistry()
    found.register(_Figures(node))
    return found


class _Figures(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterator[Metric]:
        """Say nothing in advance: the database is not asked at start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Count exams, jobs and deliveries by state, and the workers that live."""
        with self._node.database.reading() as session:
            exams = session.execute(select(ExamRow.state, func.count()).group_by(ExamRow.state)).all()
            jobs = session.execute(
                select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
            ).all()
            sent = session.execute(select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state)).all()
            workers = session.scalar(select(func.count()).where(LeaseRow.expires_at > utc_now()))
        yield _gauge("endonode_exams", "Exam revisions", ("state",), exams)
        yield _gauge("endonode_jobs", "Jobs", ("kind", "state"), jobs)
        yield _gauge("endonode_deliveries", "Deliveries", ("state",), sent)
        yield GaugeMetricFamily("endonode_workers", "Workers that live", value=workers)


def _gauge(name: str, said: str, labels: tuple[str, ...], rows: object) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, said, labels=labels)
    for *values, count in rows:  # type: ignore[attr-defined]
        gauge.add_metric(values, count)
    return gauge
