"""`routoo-producer stream`: submit lines without end, within a budget an hour."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from producer.aims import read_option
from producer.commands.options import (
    CascadeOnlyOption,
    JsonOption,
    MaxCompletionTokensOption,
    MinQualityOption,
    NoCascadeOption,
    PoolOption,
    SharedCallOptions,
)
from producer.rows.limits import read_quality, read_usd
from routoo.console.commands import with_options
from routoo.console.output import json_line, note
from routoo.console.run import run_with_database
from routoo.domain.job import SLA, Stage
from routoo.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from decimal import Decimal

    from producer.rows.bad_rows import BadRow
    from producer.stream import StreamBatch, StreamRequest
    from routoo.settings import Settings
    from routoo.store.database import Database

_ON_INTERRUPT = (
    "Interrupted. Batches that were submitted go on; the same command goes on from here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions(SharedCallOptions):
    """Options as they were typed; their help is each field's documentation."""

    budget_usd_per_hour: Annotated[
        str,
        typer.Option(
            metavar="X",
            help="Most that any clock hour's calls may cost, in USD; must be given.",
            show_default=False,
        ),
    ] = "0"
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the stream. (default: the file's)")
    ] = None
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more at the end of the file.")
    ] = False
    pool: PoolOption = None
    min_quality: MinQualityOption = None
    no_cascade: NoCascadeOption = False
    cascade_only: CascadeOnlyOption = None
    max_completion_tokens: MaxCompletionTokensOption = None
    group_rows: Annotated[int, typer.Option(min=1, help="Most rows submitted together.")] = 100
    group_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long a row waits for others, in seconds.")
    ] = 2.0
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows are added here. (default: NAME.errors.jsonl)"),
    ] = None

    def request(self, file: str, settings: "Settings") -> "StreamRequest":
        """Return the stream that the options describe, checked.

        Raises:
            InputError: An option has no usable value; the message names it.
            ConfigError: The pool file can't be used.
        """
        from producer.stream import StreamRequest
        from producer.submit import BatchRequest
        from routoo.domain.batch_options import CallOptions
        from routoo.domain.pool_file import load_pool

        read_floor = partial(read_quality, "min_quality")
        sla = SLA(min_quality=read_option("--min-quality", read_floor, self.min_quality))
        name = self.name or ("stdin" if file == "-" else Path(file).name)
        pool = load_pool(self.pool or settings.pool)
        call_options = CallOptions(**self.call_facts(pool.names))
        batch = BatchRequest(pool=pool, name=name, sla=sla, call_options=call_options)
        source = "-" if file == "-" else str(Path(file).resolve())
        return StreamRequest(batch, self._budget_usd(), source, settings.shard_size)

    def _budget_usd(self) -> "Decimal":
        read = partial(read_usd, "the budget an hour")
        budget_usd = read_option("--budget-usd-per-hour", read, self.budget_usd_per_hour)
        if not budget_usd:
            raise InputError(
                "a stream needs money",
                where="--budget-usd-per-hour",
                remedy="Give an amount in USD above 0",
            )
        return budget_usd


@with_options(StreamOptions)
def stream_command(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSONL file of rows; - is standard input.")
    ],
    *,
    options: StreamOptions,
    as_json: JsonOption = False,
) -> None:
    """Submit rows as they come, in small batches, and print each batch's id.

    What a good answer may cost follows from the money that is left: the price of a dollar moves
    with every batch so that the budget lasts the hour, and the calls of a clock hour never cost
    more than that. Rows wait while an hour has no money left. A bad row goes to the error file,
    and the others are answered. Lines of a file are taken once, also when the command is run again.

    Examples:
        tail -F requests.jsonl | routoo-producer stream - --budget-usd-per-hour 2
        routoo-producer stream requests.jsonl --follow --budget-usd-per-hour 2 --name inbox
    """
    from producer.stream import LineFeed, Streamer
    from routoo.settings import load_settings

    settings = load_settings()
    request = options.request(file, settings)
    bad_rows = options.errors or Path(f"{request.batch.name}.errors.jsonl")

    async def stream(database: "Database") -> None:
        with _opened(file) as lines:
            streamer = Streamer(database, request, partial(_write_bad_row, bad_rows))
            opened = await streamer.open()
            skip, rows = (0 if file == "-" else opened.lines_taken), options.group_rows
            feed = LineFeed(lines, skip=skip, follow=options.follow, most_ahead=rows)
            while taken := await feed.take(rows, options.group_seconds):
                async for batch in streamer.send(opened, taken):
                    _print_batch(settings, batch, as_json=as_json)

    run_with_database(settings, stream, on_interrupt=_ON_INTERRUPT)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as lines:
            yield lines
    except FileNotFoundError as error:
        raise NotFoundError("no such file", where=file) from error
    except OSError as error:
        raise InputError("the file can't be read", value=error.strerror, where=file) from error


def _print_batch(settings: "Settings", batch: "StreamBatch", *, as_json: bool) -> None:
    from producer.queue import publish_or_note

    facts = {
        "batch_id": str(batch.batch_id),
        "job_count": batch.job_count,
        "price_per_usd": batch.price_per_usd,
        "budget_usd": str(batch.budget_usd),
        "free_usd": str(batch.free_usd),
    }
    typer.echo(json_line(facts) if as_json else str(batch.batch_id))
    shard_count = settings.shard_count(batch.job_count)
    publish_or_note(settings, Stage.SCORE, batch.batch_id, shard_count)


def _write_bad_row(path: Path, bad: "BadRow") -> None:
    from producer.rows.bad_rows import error_line

    with path.open("ab") as errors:
        errors.write(error_line(bad))
    note(f"line {bad.row.line} was set aside in {path}: {bad.problems[0]}")
