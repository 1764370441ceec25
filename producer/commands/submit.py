"""`routoo-producer submit`: a file of prompts becomes a batch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from producer.commands.options import JsonOption
from producer.commands.watch import watch_batch
from producer.json_text import json_line
from producer.notice import note, print_problems
from producer.rows.limits import (
    LimitError,
    read_deadline,
    read_max_latency_s,
    read_min_quality,
    read_usd,
)
from producer.rows.problems import BadInputError
from producer.rows.source import Format, Source
from producer.running import run
from producer.session import wake_workers
from producer.submit import Order, Pace, Submission, submit
from routoo.domain.job import SLA
from routoo.domain.pool_file import load_pool
from routoo.errors import InputError
from routoo.settings import Settings, load_settings
from routoo.store.database import Database

SUBMIT_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer submit prompts.jsonl --budget-usd 5 --watch\n"
    "  cat prompts.csv | routoo-producer submit - --format csv --name monday\n"
)

Value = TypeVar("Value")

_ON_INTERRUPT = (
    "Interrupted. A batch is committed whole or not at all: "
    "`routoo-producer list` shows it if it was."
)


def submit_command(  # noqa: PLR0913 - a command's options are its parameters
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSONL, CSV or Parquet file; - is standard input.")
    ],
    *,
    pool: Annotated[
        Path | None, typer.Option(help="Pool file of candidate models. (default: ROUTOO_POOL)")
    ] = None,
    budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the whole batch may cost, in USD.")
    ] = None,
    min_quality: Annotated[
        str | None,
        typer.Option(metavar="Q", help="Least predicted quality of a job's model, 0 to 1."),
    ] = None,
    max_cost_usd: Annotated[
        str | None, typer.Option(metavar="C", help="Most that one job may cost, in USD.")
    ] = None,
    max_latency_s: Annotated[
        str | None,
        typer.Option(
            metavar="L", help="Longest wait for a call, seconds: a slower one is given up."
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="No call starts after this: 2027-01-31T18:00:00Z, or from now: 2h, 30m.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the batch. (default: the file's)")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="K", help="Submitting twice with the same key makes one batch."),
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Submit the good rows, write the bad to a file.")
    ] = False,
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows, as JSONL. (default: FILE.errors.jsonl)"),
    ] = None,
    row_format: Annotated[
        Format | None, typer.Option("--format", help="Format of the rows. (default: by suffix)")
    ] = None,
    ignore_model: Annotated[
        bool, typer.Option("--ignore-model", help="Route every job, whatever its model field says.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay and show the progress until the batch ends.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a file of prompts as one batch and print the batch's id.

    Rows are OpenAI Batch requests {custom_id, method, url, body} or plain rows {prompt} with, as
    wanted, custom_id, max_tokens, model, min_quality, max_cost_usd, max_latency_s and deadline. A
    row's own limits override the options. Either all rows are submitted or, with every problem
    listed, none.
    """
    sla = _read_sla(min_quality, max_cost_usd, max_latency_s, deadline)
    settings = load_settings()
    order = Order(
        pool=load_pool(pool or settings.pool),
        name=_checked_text("--name", name),
        idempotency_key=_checked_text("--idempotency-key", idempotency_key),
        budget_usd=_option("--budget-usd", partial(read_usd, "the budget"), budget_usd),
        sla=sla,
        ignore_model=ignore_model,
        skip_invalid=skip_invalid,
        error_file=errors,
    )
    source = Source.of(file, row_format)
    submission = _submit(settings, source, order)
    _tell(submission, as_json=as_json)
    if submission.created:
        wake_workers(settings, submission.batch_id, -(-submission.job_count // settings.shard_size))
    if watch:
        watch_batch(settings, str(submission.batch_id), as_json=as_json)


def _submit(settings: Settings, source: Source, order: Order) -> Submission:
    async def submit_rows(database: Database) -> Submission:
        with _progress(source) as on_progress:
            return await submit(
                database, source, order, shard_size=settings.shard_size, on_progress=on_progress
            )

    try:
        return run(settings, submit_rows, on_interrupt=_ON_INTERRUPT)
    except BadInputError as error:
        print_problems(error.report)
        raise


def _tell(submission: Submission, *, as_json: bool) -> None:
    print_problems(submission.report)
    if submission.error_file is not None:
        count = submission.report.bad_rows
        note(f"{count:,} bad rows were left out and written to {submission.error_file}")
    if submission.ignored_fields:
        note(f"fields not used: {', '.join(map(ascii, submission.ignored_fields))}")
    if submission.created:
        note(f"submitted {submission.job_count:,} jobs")
    else:
        note("already submitted under this idempotency key: nothing was added")
    typer.echo(_json(submission) if as_json else str(submission.batch_id))


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


@contextmanager
def _progress(source: Source) -> Iterator[Callable[[Pace], None] | None]:
    """Show rows read, as they are, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from producer.screen.reading import reading_progress  # noqa: PLC0415 - rich, for terminals only

    with reading_progress(source.size_bytes) as on_progress:
        yield on_progress


def _read_sla(
    min_quality: str | None,
    max_cost_usd: str | None,
    max_latency_s: str | None,
    deadline: str | None,
) -> SLA:
    now = datetime.now(UTC)
    return SLA(
        min_quality=_option("--min-quality", read_min_quality, min_quality),
        max_cost_usd=_option("--max-cost-usd", partial(read_usd, "the cost cap"), max_cost_usd),
        max_latency_s=_option("--max-latency-s", read_max_latency_s, max_latency_s),
        deadline=_option("--deadline", partial(read_deadline, now=now), deadline),
    )


def _option(option: str, read: Callable[[object], Value], value: str | None) -> Value | None:
    if value is None:
        return None
    try:
        return read(value)
    except LimitError as error:
        problem = error.problem
        raise InputError(
            problem.what, value=problem.value, where=option, remedy=problem.remedy
        ) from None


def _checked_text(option: str, value: str | None) -> str | None:
    """Refuse what a terminal can pass and the database can't store."""
    if value is None or (value.strip() and value.isprintable()):
        return value
    raise InputError("this is no printable text", value=value, where=option, remedy="Give some")
