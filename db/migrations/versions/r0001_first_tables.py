"""All tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IN_FORCE = sa.text("disposition IN ('accepted', 'kept')")


def upgrade() -> None:
    op.create_table(
        "arrivals",
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("beat_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("token", name="pk_arrivals"),
    )
    op.create_index("ix_arrivals_study_instance_uid", "arrivals", ["study_instance_uid"])
    op.create_table(
        "audit_events",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("event", sa.String(length=48), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_subject_id_id", "audit_events", ["subject_id", "id"])
    op.create_table(
        "installation",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_table(
        "instances",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disposition", sa.String(length=16), nullable=False),
        sa.Column("disposition_reason", sa.String(length=64), nullable=True),
        sa.Column("same_as_id", ROW_ID, nullable=True),
        sa.Column("exam_key", sa.String(length=64), nullable=True),
        sa.Column("first_revision", sa.Integer(), nullable=True),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("purged_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["same_as_id"], ["instances.id"], name="fk_instances_same_as_id_instances"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    op.create_index("ix_instances_disposition", "instances", ["disposition"])
    op.create_index("ix_instances_exam_key_disposition", "instances", ["exam_key", "disposition"])
    op.create_index("ix_instances_sha256", "instances", ["sha256"])
    op.create_index("ix_instances_sop_instance_uid", "instances", ["sop_instance_uid"])
    op.create_index("ix_instances_study_instance_uid", "instances", ["study_instance_uid"])
    op.create_index(
        "uq_instances_in_force",
        "instances",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=IN_FORCE,
        postgresql_where=IN_FORCE,
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("not_before_at", INSTANT, nullable=False),
        sa.Column("dispatch", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("outage_since", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_kind_subject_id", "jobs", ["kind", "subject_id"])
    op.create_index("ix_jobs_state_not_before_at", "jobs", ["state", "not_before_at"])
    op.create_table(
        "leases",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_leases"),
    )
    op.create_index("ix_leases_expires_at", "leases", ["expires_at"])
    op.create_table(
        "models",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_models"),
    )
    op.create_table(
        "patients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_patients"),
        sa.UniqueConstraint(
            "patient_id", "issuer_of_patient_id", name="uq_patients_patient_id_issuer_of_patient_id"
        ),
    )
    op.create_table(
        "peer_memory",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("learned_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("ae_title", name="pk_peer_memory"),
    )
    op.create_table(
        "exams",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("exam_key", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("patient_row_id", sa.Integer(), nullable=True),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("peer_ae_title", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("superseded_by", sa.String(length=16), nullable=True),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("last_new_at", INSTANT, nullable=False),
        sa.Column("closes_at", INSTANT, nullable=False),
        sa.Column("first_asked_at", INSTANT, nullable=True),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("delivered_at", INSTANT, nullable=True),
        sa.Column("completeness_verdict", sa.String(length=16), nullable=True),
        sa.Column("completeness_reason", sa.String(length=64), nullable=True),
        sa.Column("received_count", sa.Integer(), nullable=True),
        sa.Column("expected_count", sa.Integer(), nullable=True),
        sa.Column("missing_count", sa.Integer(), nullable=True),
        sa.Column("body_part_stated", sa.Boolean(), nullable=True),
        sa.Column("has_conflict", sa.Boolean(), nullable=False),
        sa.Column("error_step", sa.String(length=32), nullable=True),
        sa.Column("error_text", sa.Text(), nullable=True),
        sa.Column("step_seconds", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["patient_row_id"], ["patients.id"], name="fk_exams_patient_row_id_patients"),
        sa.ForeignKeyConstraint(["superseded_by"], ["exams.id"], name="fk_exams_superseded_by_exams"),
        sa.PrimaryKeyConstraint("id", name="pk_exams"),
        sa.UniqueConstraint("exam_key", "revision", name="uq_exams_exam_key_revision"),
    )
    op.create_index("ix_exams_opened_at", "exams", ["opened_at"])
    op.create_index("ix_exams_patient_row_id", "exams", ["patient_row_id"])
    op.create_index("ix_exams_state_closes_at", "exams", ["state", "closes_at"])
    op.create_index("ix_exams_study_instance_uid", "exams", ["study_instance_uid"])
    op.create_index("ix_exams_superseded_by", "exams", ["superseded_by"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("exam_id", sa.String(length=16), nullable=False),
        sa.Column("peer_ae_title", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deadline_at", INSTANT, nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("delivered_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["exam_id"], ["exams.id"], name="fk_deliveries_exam_id_exams"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("exam_id", "peer_ae_title", name="uq_deliveries_exam_id_peer_ae_title"),
    )
    op.create_index("ix_deliveries_state", "deliveries", ["state"])
    op.create_table(
        "frames",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("exam_id", sa.String(length=16), nullable=False),
        sa.Column("instance_id", ROW_ID, nullable=False),
        sa.Column("frame_number", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("error_text", sa.Text(), nullable=True),
        sa.Column("ledger", sa.JSON(), nullable=False),
        sa.Column("label", sa.String(length=32), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("synthetic_share", sa.Float(), nullable=True),
        sa.Column("duplicate_group", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["exam_id"], ["exams.id"], name="fk_frames_exam_id_exams"),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name="fk_frames_instance_id_instances"),
        sa.PrimaryKeyConstraint("id", name="pk_frames"),
        sa.UniqueConstraint(
            "exam_id", "instance_id", "frame_number", name="uq_frames_exam_id_instance_id_frame_number"
        ),
    )
    op.create_index("ix_frames_instance_id", "frames", ["instance_id"])
    op.create_table(
        "predictions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("exam_id", sa.String(length=16), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("recipe_digest", sa.String(length=64), nullable=False),
        sa.Column("reading", sa.String(length=16), nullable=False),
        sa.Column("unpredicted_reason", sa.String(length=64), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("vote_mode", sa.String(length=16), nullable=False),
        sa.Column("frames_kept", sa.Integer(), nullable=False),
        sa.Column("frames_rejected", sa.Integer(), nullable=False),
        sa.Column("frames_used", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["exam_id"], ["exams.id"], name="fk_predictions_exam_id_exams"),
        sa.ForeignKeyConstraint(
            ["model_digest"], ["models.digest"], name="fk_predictions_model_digest_models"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
        sa.UniqueConstraint("exam_id", name="uq_predictions_exam_id"),
    )
    op.create_index("ix_predictions_created_at", "predictions", ["created_at"])
    op.create_index("ix_predictions_model_digest", "predictions", ["model_digest"])
    op.create_index("ix_predictions_reading", "predictions", ["reading"])
    op.create_table(
        "result_objects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("exam_id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["exam_id"], ["exams.id"], name="fk_result_objects_exam_id_exams"),
        sa.PrimaryKeyConstraint("id", name="pk_result_objects"),
        sa.UniqueConstraint(
            "exam_id", "kind", "form", "item", name="uq_result_objects_exam_id_kind_form_item"
        ),
        sa.UniqueConstraint("sop_instance_uid", name="uq_result_objects_sop_instance_uid"),
    )
    op.create_index("ix_result_objects_series_instance_uid", "result_objects", ["series_instance_uid"])
    op.create_table(
        "delivered_objects",
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("result_object_id", sa.Integer(), nullable=False),
        sa.Column("answered_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_delivered_objects_delivery_id_deliveries"
        ),
        sa.ForeignKeyConstraint(
            ["result_object_id"],
            ["result_objects.id"],
            name="fk_delivered_objects_result_object_id_result_objects",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "result_object_id", name="pk_delivered_objects"),
    )
    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prediction_id", sa.Integer(), nullable=False),
        sa.Column("frame_id", ROW_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("voted", sa.Boolean(), nullable=False),
        sa.Column("gate", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["frame_id"], ["frames.id"], name="fk_evidence_frame_id_frames"),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["predictions.id"], name="fk_evidence_prediction_id_predictions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evidence"),
        sa.UniqueConstraint("prediction_id", "position", name="uq_evidence_prediction_id_position"),
    )
