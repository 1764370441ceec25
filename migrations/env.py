"""Alembic's entry point; `routoo.store.administration` hands it an open connection."""

from alembic import context

from routoo.store.tables import batch, evaluation, facts, gateway, operations

# One registry holds the tables of all modules once each of them is imported.
(metadata,) = {
    row.metadata
    for row in (
        batch.BatchRow,
        evaluation.EvalRunRow,
        facts.JobRow,
        gateway.ApiKeyRow,
        operations.StreamRow,
    )
}

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
