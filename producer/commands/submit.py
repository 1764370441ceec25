"""`routoo-producer submit`: a file of prompts becomes a batch."""

from typing import Annotated
from uuid import UUID

import typer

from producer.commands.options import JsonOption, MaybeFileArgument
from producer.commands.order_options import OrderOptions
from producer.commands.watch import watch_batch
from producer.json_text import json_line
from producer.notice import note
from producer.plans import submit_plan
from producer.rows.source import Source
from producer.running import run
from producer.sending import send_request, wake_for
from producer.session import wake_workers
from producer.submit import Submission
from routoo.console.options import with_options
from routoo.domain.job import Stage
from routoo.errors import InputError
from routoo.settings import Settings, load_settings

SUBMIT_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer submit prompts.jsonl --budget-usd 5 --watch\n"
    "  cat prompts.csv | routoo-producer submit - --format csv --name monday\n"
    "  routoo-producer submit --plan 3f2a --watch\n"
)


PlanOption = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="Run this plan, as it is, instead of a FILE."),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Stay and show the progress until the batch ends.")
]


@with_options(OrderOptions)
def submit_command(
    file: MaybeFileArgument = None,
    *,
    options: OrderOptions,
    plan: PlanOption = None,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a file of prompts as one batch and print the batch's id.

    Rows are OpenAI Batch requests {custom_id, method, url, body} or plain rows {prompt} with, as
    wanted, custom_id, max_tokens, model, min_quality, max_cost_usd, max_latency_s, deadline,
    allowed_models and denied_models. A row's own limits override the options. Either all rows are
    submitted or, with every problem listed, none.

    With --plan, exactly what `plan` showed is run: its prompts, prices, choices and budget.
    """
    settings = load_settings()
    if (file is None) == (plan is None) or (plan is not None and options != OrderOptions()):
        raise InputError(
            "give a FILE, or --plan with a plan, whose limits are fixed",
            remedy="`routoo-producer submit --help` shows both",
        )
    if plan is not None:
        batch_id = _submit_plan(settings, plan, as_json=as_json)
    else:
        batch_id = _submit_file(settings, str(file), options, as_json=as_json)
    if watch:
        watch_batch(settings, str(batch_id), as_json=as_json)


def _submit_file(settings: Settings, file: str, options: OrderOptions, *, as_json: bool) -> UUID:
    submission = send_request(
        settings, Source.of(file, options.row_format), options.request(settings)
    )
    typer.echo(_json(submission) if as_json else str(submission.batch_id))
    wake_for(settings, submission)
    return submission.batch_id


def _submit_plan(settings: Settings, plan: str, *, as_json: bool) -> UUID:
    submission = run(settings, lambda database: submit_plan(database, plan))
    if submission.created:
        note(f"submitted {submission.job_count:,} jobs as planned")
    else:
        note("the plan was submitted before: nothing was added")
    facts = {
        "batch_id": str(submission.batch_id),
        "created": submission.created,
        "job_count": submission.job_count,
    }
    typer.echo(json_line(facts) if as_json else str(submission.batch_id))
    if submission.created:
        shard_count = submission.ready_shards
        wake_workers(settings, Stage.DISPATCH, submission.batch_id, shard_count)
    return submission.batch_id


def _json(submission: Submission) -> str:
    error_file = submission.error_file
    return json_line(
        {
            "batch_id": str(submission.batch_id),
            "created": submission.created,
            "job_count": submission.job_count,
            "skipped_rows": submission.report.bad_rows,
            "problems": {str(kind): count for kind, count in submission.report.counts.items()},
            "error_file": None if error_file is None else str(error_file),
        }
    )
