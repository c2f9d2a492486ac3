"""The revisions of our tables, run in this process by `db.schema.migrate`."""
