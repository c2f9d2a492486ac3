"""What one association has brought of one study becomes one event, with its objects listed.

Each object's row says by which association it came until the event that lists it is written, which clears it
in the same transaction: every object is told of once, whoever dies in between.
"""

import datetime as dt
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import func, select, update

from db.audit import record
from db.engine import Database, utc_now
from db.tables import InstanceRow

SILENT = dt.timedelta(minutes=5)
"""An association that has brought nothing for so long is told of: it may have died with its receiver."""


def tell_reception(database: Database, association: str) -> None:
    """Record what an association has brought since it was last told of: one event a study."""
    with database.writing() as session:
        told = session.execute(
            update(InstanceRow)
            .where(InstanceRow.reception == association)
            .values(reception=None)
            .returning(
                InstanceRow.id, InstanceRow.sop_instance_uid, InstanceRow.sop_class_uid, InstanceRow.sha256,
                InstanceRow.study_instance_uid, InstanceRow.calling_ae_title,
            )
            .execution_options(synchronize_session=False)
        )  # fmt: skip
        studies: dict[str, list[Any]] = defaultdict(list)
        for row in sorted(told, key=lambda row: row.id):
            studies[row.study_instance_uid].append(row)
        for study, rows in studies.items():
            record(
                session, "study_received", study, actor=f"ae:{rows[0].calling_ae_title}",
                association=association,
                sop_classes=dict(Counter(row.sop_class_uid for row in rows)),
                instances=[[row.id, row.sop_instance_uid, row.sha256] for row in rows],
            )  # fmt: skip


def tell_silent_receptions(database: Database) -> None:
    """Tell of associations that have brought nothing for long: most have died with their receiver."""
    silent = (
        select(InstanceRow.reception)
        .where(InstanceRow.reception.is_not(None))
        .group_by(InstanceRow.reception)
        .having(func.max(InstanceRow.received_at) < utc_now() - SILENT)
    )
    with database.reading() as session:
        associations = list(session.scalars(silent))
    for association in associations:
        tell_reception(database, str(association))
