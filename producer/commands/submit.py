"""`routoo-producer submit`: submit a file of prompts as a batch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.batch_options import BatchOptions
from producer.commands.options import JsonOption, MaybeFileArgument, StrictOption
from routoo.console.commands import with_options
from routoo.console.output import json_line, note
from routoo.console.run import run_with_database
from routoo.domain.job import Stage
from routoo.errors import InputError

if TYPE_CHECKING:
    from uuid import UUID

    from producer.rows.bad_rows import ProblemList
    from producer.rows.source import Source
    from producer.submit import BatchRequest, ReadProgress, Submission
    from routoo.settings import Settings
    from routoo.store.database import Database

PlanOption = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="Run this plan, as it is, instead of a FILE."),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Stay and show the progress until the batch ends.")
]
_ON_INTERRUPT = (
    "Interrupted. A batch is committed whole or not at all: "
    "`routoo-producer list` shows it if it was."
)


@with_options(BatchOptions)
def submit_command(
    file: MaybeFileArgument = None,
    *,
    options: BatchOptions,
    plan: PlanOption = None,
    watch: WatchOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a file of prompts as one batch and print the batch's id.

    Rows are OpenAI Batch requests {custom_id, method, url, body} or plain rows {prompt} with, as
    wanted, system, custom_id, max_tokens, model, min_quality, max_cost_usd, max_latency_s,
    deadline, allowed_models and denied_models; a --template makes prompts of other columns. A
    row's own limits override the options. Either all rows are submitted or, with every problem
    listed, none.

    With --plan, exactly what `plan` showed is run: its prompts, prices, choices and budget.

    Examples:
        routoo-producer submit prompts.jsonl --budget-usd 5 --watch
        routoo-producer submit reviews.csv --template "Is this polite? {text}" --budget-usd 5
        cat prompts.csv | routoo-producer submit - --format csv --name monday
        routoo-producer submit --plan 3f2a --watch
    """
    from producer.commands.status import watch_batch
    from routoo.settings import load_settings

    settings = load_settings()
    if (file is None) == (plan is None) or (plan is not None and options != BatchOptions()):
        raise InputError(
            "give a FILE, or --plan with a plan, whose limits are fixed",
            remedy="`routoo-producer submit --help` shows both",
        )
    if plan is not None:
        batch_id = _submit_plan(settings, plan, as_json=as_json)
    else:
        batch_id = _submit_file(settings, str(file), options, as_json=as_json)
    if watch:
        watch_batch(settings, str(batch_id), as_json=as_json, strict=strict)


def send_request(
    settings: "Settings", source: "Source", request: "BatchRequest", *, no_ping: bool = False
) -> "Submission":
    """Submit or plan a batch; progress, bad rows and the outcome go to standard error.

    Args:
        settings: Those of the deployment.
        source: The rows.
        request: The batch.
        no_ping: Whether the question is left out whether the pool's endpoints answer.

    Raises:
        BadInputError: Rows have problems and are not to be skipped; they are listed by then.
        CheckpointError, ConfigError: A model of the pool is not known, or doesn't answer.
        RoutooError: As `producer.submit.submit` raises.
    """
    from producer.queue import check_broker

    check_broker(settings)
    return run_with_database(
        settings,
        lambda database: submit_rows(database, settings, source, request, no_ping=no_ping),
        on_interrupt=_ON_INTERRUPT,
    )


async def submit_rows(
    database: "Database",
    settings: "Settings",
    source: "Source",
    request: "BatchRequest",
    *,
    no_ping: bool,
) -> "Submission":
    """Do what `send_request` does, with a database that is open."""
    from producer.pool_check import check_pool
    from producer.rows.bad_rows import BadInputError
    from producer.submit import submit

    for text in await check_pool(database, request.pool, settings, asks_endpoints=not no_ping):
        note(text)
    try:
        with _read_progress(source) as on_progress:
            submission = await submit(
                database, source, request, shard_size=settings.shard_size, on_progress=on_progress
            )
    except BadInputError as error:
        _print_problems(error.problems)
        raise
    _note_outcome(submission, "planning" if request.plan_only else "submitted")
    return submission


def publish_batch(settings: "Settings", submission: "Submission") -> bool:
    """Send a new batch's messages to the workers: last, since a broker may take its time.

    Returns:
        Whether the broker has them; also where there are none to send.
    """
    from producer.queue import publish_or_note

    if not submission.created:
        return True
    shard_count = settings.shard_count(submission.job_count)
    return publish_or_note(settings, Stage.SCORE, submission.batch_id, shard_count)


def _submit_file(
    settings: "Settings", file: str, options: BatchOptions, *, as_json: bool
) -> "UUID":
    source = options.source(file)
    request = options.request(settings)
    submission = send_request(settings, source, request, no_ping=options.no_ping)
    if not as_json:
        typer.echo(str(submission.batch_id))
    is_published = publish_batch(settings, submission)
    if as_json:
        typer.echo(_json(submission, is_published=is_published))
    return submission.batch_id


def _submit_plan(settings: "Settings", plan: str, *, as_json: bool) -> "UUID":
    from producer.control import submit_plan
    from producer.queue import check_broker, publish_or_note

    check_broker(settings)
    submission = run_with_database(settings, lambda database: submit_plan(database, plan))
    if submission.created:
        note(f"submitted {submission.job_count:,} jobs as planned")
    else:
        note("the plan was submitted before: nothing was added")
    if not as_json:
        typer.echo(str(submission.batch_id))
    is_published = not submission.created or publish_or_note(
        settings, Stage.DISPATCH, submission.batch_id, submission.ready_shards
    )
    facts = {
        "batch_id": str(submission.batch_id),
        "created": submission.created,
        "published": is_published,
        "job_count": submission.job_count,
    }
    if as_json:
        typer.echo(json_line(facts))
    return submission.batch_id


@contextmanager
def _read_progress(source: "Source") -> "Iterator[Callable[[ReadProgress], None] | None]":
    """Show rows read, as they are, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from producer.screen.progress import read_progress_bar

    with read_progress_bar(source.size_bytes) as on_progress:
        yield on_progress


def _note_outcome(submission: "Submission", done: str) -> None:
    _print_problems(submission.problems)
    if submission.error_file is not None:
        count = submission.problems.bad_rows
        note(f"{count:,} bad rows were left out and written to {submission.error_file}")
    if submission.ignored_fields:
        note(f"fields not used: {', '.join(map(ascii, submission.ignored_fields))}")
    if submission.created:
        note(f"{done} {submission.job_count:,} jobs")
    else:
        note("already submitted under this idempotency key: nothing was added")


def _print_problems(problems: "ProblemList") -> None:
    for line in problems.lines():
        note(line)


def _json(submission: "Submission", *, is_published: bool) -> str:
    error_file = submission.error_file
    return json_line(
        {
            "batch_id": str(submission.batch_id),
            "created": submission.created,
            "published": is_published,
            "job_count": submission.job_count,
            "skipped_rows": submission.problems.bad_rows,
            "problems": {str(kind): count for kind, count in submission.problems.counts.items()},
            "error_file": None if error_file is None else str(error_file),
        }
    )
