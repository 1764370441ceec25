"""`routoo-producer explain`: explain why a job got its model."""

from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import JsonOption, NamedBatch
from routoo.console.output import console, json_line
from routoo.console.run import run_in_transaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from routoo.pipeline.explanation import JobExplanation
    from routoo.store.batches.records import BatchRecord


def explain_command(
    batch: NamedBatch,
    custom_id: Annotated[str, typer.Argument(metavar="CUSTOM_ID", help="The job's custom_id.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain a job's model: each candidate's quality, cost, latency, and what stood against it.

    Also the runner-up, the budget at which the choice would change either way, and what happened
    since. Works for plans, and for batches that run or are over.

    Examples:
        routoo-producer explain monday row-17
        routoo-producer explain 3f2a row-17 --json
    """
    from producer.screen.explanation import explanation_json, explanation_view
    from routoo.pipeline.explanation import explain_job
    from routoo.settings import load_settings
    from routoo.store import batches

    async def explain(conn: "AsyncConnection") -> "tuple[BatchRecord, JobExplanation]":
        record = await batches.find(conn, batch)
        return record, await explain_job(conn, record, custom_id)

    record, explanation = run_in_transaction(load_settings(), explain)
    if as_json:
        typer.echo(json_line(explanation_json(record, explanation)))
    else:
        console().print(explanation_view(record, explanation))
