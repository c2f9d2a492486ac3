"""Workitems, their subscribers, and the events that these are yet to be told of."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "workitems",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("peer_ae_title", sa.String(length=16), nullable=False),
        sa.Column("is_foreign", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workitems"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_workitems_sop_instance_uid"),
    )
    for column in ("state", "study_instance_uid"):
        op.create_index(f"ix_workitems_{column}", "workitems", [column])
    op.create_table(
        "workitem_subscriptions",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("ae_title", "sop_instance_uid", name="pk_workitem_subscriptions"),
    )
    op.create_index(
        "ix_workitem_subscriptions_sop_instance_uid", "workitem_subscriptions", ["sop_instance_uid"]
    )
    op.create_table(
        "workitem_reports",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("event_type", sa.Integer(), nullable=False),
        sa.Column("information", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workitem_reports"),
    )
    op.create_index("ix_workitem_reports_ae_title", "workitem_reports", ["ae_title"])
