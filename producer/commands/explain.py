"""`routoo-producer explain`: why a job got its model."""

from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import JsonOption
from producer.json_text import json_line
from producer.running import run
from routoo.console.output import console
from routoo.settings import load_settings
from routoo.store import batches
from routoo.store.batches import BatchRecord
from routoo.store.database import Database

if TYPE_CHECKING:
    from routoo.pipeline.explanation import JobExplanation

EXPLAIN_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer explain monday row-17\n"
    "  routoo-producer explain 3f2a row-17 --json\n"
)


def explain_command(
    batch: Annotated[
        str, typer.Argument(metavar="BATCH", help="Id, start of an id, or name of the batch.")
    ],
    custom_id: Annotated[str, typer.Argument(metavar="CUSTOM_ID", help="The job's custom_id.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain a job's model: each candidate's quality, cost, latency, and what stood against it.

    Also the runner-up, the budget at which the choice would change either way, and what happened
    since. Works for plans, and for batches that run or are over.
    """
    # The selector takes 0.1 s to load: not for the other commands.
    from producer.explanation_json import explanation_json  # noqa: PLC0415
    from producer.screen.explanation import explanation_view  # noqa: PLC0415
    from routoo.pipeline.explanation import explain_job  # noqa: PLC0415

    async def explain(database: Database) -> "tuple[BatchRecord, JobExplanation]":
        async with database.transaction() as conn:
            record = await batches.find(conn, batch)
            return record, await explain_job(conn, record, custom_id)

    record, told = run(load_settings(), explain)
    if as_json:
        typer.echo(json_line(explanation_json(record, told)))
    else:
        console().print(explanation_view(record, told))
