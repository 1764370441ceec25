"""Alembic's entry point; `routoo.store.migrate` hands it an open connection."""

from alembic import context

from routoo.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
