"""Storage commitment, users and reviews, the chained audit trail, and what audit queries ask by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INSTANT = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _people()
    _exams_and_predictions()
    _deliveries()
    _audit()


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=True),
        sa.Column("oidc_subject", sa.String(length=255), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("disabled_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
        sa.UniqueConstraint("oidc_subject", name="uq_users_oidc_subject"),
    )
    op.create_table(
        "web_sessions",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_web_sessions_user_id_users"),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_web_sessions"),
    )
    op.create_index("ix_web_sessions_user_id", "web_sessions", ["user_id"])
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_tokens_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_api_tokens"),
        sa.UniqueConstraint("name", name="uq_api_tokens_name"),
        sa.UniqueConstraint("token_sha256", name="uq_api_tokens_token_sha256"),
    )
    op.create_table(
        "login_failures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name_sha256", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_login_failures"),
    )
    for column in ("name_sha256", "address", "at"):
        op.create_index(f"ix_login_failures_{column}", "login_failures", [column])


def _exams_and_predictions() -> None:
    for table in ("exams", "instances"):
        for name, length in (("study_date", 8), ("device_model", 64)):
            column = sa.Column(name, sa.String(length=length), nullable=False, server_default="")
            op.add_column(table, column)
    op.add_column("exams", sa.Column("priority", sa.Integer(), nullable=False, server_default="40"))
    op.create_index("ix_exams_study_date", "exams", ["study_date"])
    op.create_index("ix_exams_accession_number", "exams", ["accession_number"])
    op.create_index("ix_exams_priority_opened_at", "exams", ["priority", "opened_at"])
    op.add_column("predictions", sa.Column("patient_row_id", sa.Integer(), nullable=True))
    for name, length in (("peer_ae_title", 16), ("device_model", 64)):
        column = sa.Column(name, sa.String(length=length), nullable=False, server_default="")
        op.add_column("predictions", column)
    op.add_column("predictions", sa.Column("confidence", sa.Float(), nullable=True))
    op.add_column("predictions", sa.Column("verdict", sa.String(length=8), nullable=True))
    for name in ("created_at", "model_digest", "reading"):
        op.drop_index(f"ix_predictions_{name}", table_name="predictions")
    op.create_index("ix_predictions_created_at_id", "predictions", ["created_at", "id"])
    op.create_index("ix_predictions_patient", "predictions", ["patient_row_id", "created_at", "id"])
    reason = ["reading", "unpredicted_reason", "created_at", "id"]
    op.create_index("ix_predictions_reading_reason", "predictions", reason)
    model = ["model_digest", "created_at", "id", "probability", "verdict"]
    op.create_index("ix_predictions_model", "predictions", model)
    op.execute(_FROM_EXAMS)
    op.execute(_PRIORITIES)
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prediction_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name="fk_reviews_prediction_id_predictions"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_reviews_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
    )
    op.create_index("ix_reviews_prediction_id", "reviews", ["prediction_id"])
    texts = {
        "model_digest": 64, "peer_ae_title": 16, "device_model": 64, "reading": 16, "unpredicted_reason": 64,
    }  # fmt: skip
    op.create_table(
        "tallies",
        sa.Column("week", sa.Date(), nullable=False),
        *(sa.Column(name, sa.String(length=length), nullable=False) for name, length in texts.items()),
        sa.Column("decile", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("week", *texts, "decile", "verdict", name="pk_tallies"),
    )
    op.create_index("ix_tallies_model", "tallies", ["model_digest", "week", "verdict", "decile", "count"])
    device = ["peer_ae_title", "device_model", "week", "reading", "unpredicted_reason", "count"]
    op.create_index("ix_tallies_device", "tallies", device)
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(
        _TALLIES.format(
            week=_WEEK_SQLITE if is_sqlite else _WEEK_POSTGRESQL,
            decile="CAST(10 * probability AS INTEGER)"
            if is_sqlite
            else "CAST(floor(10 * probability) AS INTEGER)",
        )
    )


_FROM_EXAMS = """
UPDATE predictions SET
    patient_row_id = (SELECT patient_row_id FROM exams WHERE exams.id = predictions.exam_id),
    peer_ae_title = (SELECT peer_ae_title FROM exams WHERE exams.id = predictions.exam_id),
    confidence = CASE WHEN probability >= 0.5 THEN probability ELSE 1 - probability END
"""

_PRIORITIES = """
UPDATE exams SET priority = CASE
    WHEN state = 'failed' THEN 20
    ELSE coalesce((
        SELECT CASE reading WHEN 'ibd' THEN 10 WHEN 'unpredicted' THEN 30 ELSE 50 END
        FROM predictions WHERE predictions.exam_id = exams.id
    ), 40) END
"""

_WEEK_SQLITE = "max(date(created_at, 'start of month'), date(created_at, '-6 days', 'weekday 1'))"
_WEEK_POSTGRESQL = """
    greatest(date_trunc('month', created_at, 'UTC'), date_trunc('week', created_at, 'UTC'))
    AT TIME ZONE 'UTC'
"""

_TALLIES = """
INSERT INTO tallies (
    week, model_digest, peer_ae_title, device_model, reading, unpredicted_reason, decile, verdict, count
)
SELECT {week} AS week, model_digest, peer_ae_title, device_model, reading,
    coalesce(unpredicted_reason, '') AS reason,
    CASE WHEN probability IS NULL THEN -1 WHEN probability >= 1 THEN 9 ELSE {decile} END AS decile,
    '', count(*)
FROM predictions
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


def _deliveries() -> None:
    op.add_column("deliveries", sa.Column("committed", sa.Boolean(), nullable=True))
    op.drop_column("deliveries", "form")  # what was answered says it
    op.add_column(
        "delivered_objects", sa.Column("state", sa.String(length=16), nullable=False, server_default="sent")
    )
    op.add_column("delivered_objects", sa.Column("failure_reason", sa.Integer(), nullable=True))
    op.add_column("delivered_objects", sa.Column("resends", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("object_ids", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("asked_at", INSTANT, nullable=False),
        sa.Column("answered_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_commitments_delivery_id_deliveries"
        ),
        sa.PrimaryKeyConstraint("transaction_uid", name="pk_commitments"),
    )
    op.create_index("ix_commitments_delivery_id", "commitments", ["delivery_id"])
    op.drop_table("peer_memory")  # learned anew from the peer's next answer
    op.create_table(
        "peer_memory",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("learned_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("ae_title", "subject", name="pk_peer_memory"),
    )
    op.create_table(
        "orders",
        sa.Column("exam_id", sa.String(length=16), nullable=False),
        sa.Column("peer_ae_title", sa.String(length=16), nullable=False),
        sa.Column("matched_by", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("found_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["exam_id"], ["exams.id"], name="fk_orders_exam_id_exams"),
        sa.PrimaryKeyConstraint("exam_id", name="pk_orders"),
    )


def _audit() -> None:
    op.add_column("instances", sa.Column("reception", sa.String(length=32), nullable=True))
    is_untold = sa.text("reception IS NOT NULL")
    op.create_index(
        "ix_instances_reception",
        "instances",
        ["reception"],
        sqlite_where=is_untold,
        postgresql_where=is_untold,
    )
    op.add_column("audit_events", sa.Column("actor", sa.String(length=80), nullable=False, server_default=""))
    op.create_index("ix_audit_events_at_id", "audit_events", ["at", "id"])
    op.create_table(
        "audit_links",
        sa.Column("seq", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("linked_at", INSTANT, nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_links"),
        sa.UniqueConstraint("event_id", name="uq_audit_links_event_id"),
    )
