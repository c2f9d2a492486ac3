"""All tables, one file a subject; importing this package fills `Base.metadata`."""

from db.tables.base import Base
from db.tables.exams import ExamRow, PatientRow
from db.tables.instances import ArrivalRow, InstanceRow
from db.tables.operations import AuditEventRow, InstallationRow, JobRow, LeaseRow
from db.tables.readings import EvidenceRow, FrameRow, ModelPackageRow, PredictionRow
from db.tables.results import DeliveredObjectRow, DeliveryRow, PeerMemoryRow, ResultObjectRow

__all__ = [
    "ArrivalRow",
    "AuditEventRow",
    "Base",
    "DeliveredObjectRow",
    "DeliveryRow",
    "EvidenceRow",
    "ExamRow",
    "FrameRow",
    "InstallationRow",
    "InstanceRow",
    "JobRow",
    "LeaseRow",
    "ModelPackageRow",
    "PatientRow",
    "PeerMemoryRow",
    "PredictionRow",
    "ResultObjectRow",
]
