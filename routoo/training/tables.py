"""Writing the store's graded answers as tables."""

from pathlib import Path

from routoo.console.run import run_with_database
from routoo.domain.tables import write_items, write_outcomes
from routoo.errors import NotFoundError
from routoo.evaluation_runs.graded_outcomes import (
    GradedOutcomes,
    OutcomeTables,
    join_tables,
    load_graded_outcomes,
)
from routoo.settings import load_settings
from routoo.store.database import Database


def export_tables(items: Path, outcomes: Path, *, with_evaluation: bool) -> dict[str, int]:
    """Write the items and outcomes tables.

    Returns:
        How many items and outcomes were written, and evaluation items left out.

    Raises:
        NotFoundError: There is nothing that may be written.
    """

    async def load(database: Database) -> GradedOutcomes:
        async with database.transaction() as conn:
            return await load_graded_outcomes(conn)

    found = run_with_database(load_settings(), load)
    tables = join_tables([found.training, found.evaluation]) if with_evaluation else found.training
    _check_any(tables, found)
    write_items(items, tables.items)
    write_outcomes(outcomes, tables.outcomes)
    return {
        "items": len(tables.items),
        "outcomes": len(tables.outcomes.item_ids),
        "evaluation_items_left_out": 0 if with_evaluation else len(found.evaluation.items),
    }


def _check_any(tables: OutcomeTables, found: GradedOutcomes) -> None:
    if not tables.items:
        raise NotFoundError(
            "no batch has graded answers that may be written",
            value=f"{len(found.evaluation.items)} evaluation items have some",
            remedy="Grade batches with `routoo-producer grade`, or run a set that was added with "
            "--for-training",
        )
