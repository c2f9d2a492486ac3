"""All tables, one file a subject; importing this package fills `Base.metadata`."""

from db.tables.base import Base
from db.tables.exams import ExamRow, PatientRow
from db.tables.instances import ArrivalRow, InstanceRow
from db.tables.operations import AuditEventRow, AuditLinkRow, InstallationRow, JobRow, LeaseRow
from db.tables.people import ApiTokenRow, LoginFailureRow, UserRow, WebSessionRow
from db.tables.readings import EvidenceRow, FrameRow, ModelPackageRow, PredictionRow, ReviewRow, TallyRow
from db.tables.results import (
    CommitmentRow,
    DeliveredObjectRow,
    DeliveryRow,
    OrderRow,
    PeerMemoryRow,
    ResultObjectRow,
)
from db.tables.workitems import WorkitemReportRow, WorkitemRow, WorkitemSubscriptionRow

__all__ = [
    "ApiTokenRow",
    "ArrivalRow",
    "AuditEventRow",
    "AuditLinkRow",
    "Base",
    "CommitmentRow",
    "DeliveredObjectRow",
    "DeliveryRow",
    "EvidenceRow",
    "ExamRow",
    "FrameRow",
    "InstallationRow",
    "InstanceRow",
    "JobRow",
    "LeaseRow",
    "LoginFailureRow",
    "ModelPackageRow",
    "OrderRow",
    "PatientRow",
    "PeerMemoryRow",
    "PredictionRow",
    "ResultObjectRow",
    "ReviewRow",
    "TallyRow",
    "UserRow",
    "WebSessionRow",
    "WorkitemReportRow",
    "WorkitemRow",
    "WorkitemSubscriptionRow",
]
