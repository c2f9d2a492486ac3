"""Run by Alembic: our revisions, on the connection that `db.schema.migrate` has opened and locked."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
