"""`routoo-producer stream`: lines without end, paced by a budget an hour."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from producer.commands.options import JsonOption
from producer.commands.reading_options import read_option
from producer.json_text import json_line
from producer.notice import note
from producer.rows.limits import read_quality, read_usd
from producer.rows.line_feed import LineFeed
from producer.rows.report import BadRow, error_line
from producer.running import run
from producer.session import wake_workers
from producer.stream import StreamBatch, Streamer, StreamRequest
from producer.submit import BatchRequest
from routoo.console.options import with_options
from routoo.domain.job import SLA, Stage
from routoo.domain.pool_file import load_pool
from routoo.errors import InputError, NotFoundError
from routoo.settings import Settings, load_settings
from routoo.store.database import Database

STREAM_EXAMPLES = (
    "\b\nFor example:\n"
    "  tail -F requests.jsonl | routoo-producer stream - --budget-usd-per-hour 2\n"
    "  routoo-producer stream requests.jsonl --follow --budget-usd-per-hour 2 --name inbox\n"
)
_ON_INTERRUPT = (
    "Interrupted. Batches that were submitted go on; the same command goes on from here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
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
    pool: Annotated[
        Path | None, typer.Option(help="Pool file of candidate models. (default: ROUTOO_POOL)")
    ] = None
    min_quality: Annotated[
        str | None,
        typer.Option(metavar="Q", help="Least predicted quality of a job's model, 0 to 1."),
    ] = None
    group_rows: Annotated[int, typer.Option(min=1, help="Most rows submitted together.")] = 100
    group_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long a row waits for company, in seconds.")
    ] = 2.0
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows are added here. (default: NAME.errors.jsonl)"),
    ] = None

    def asked(self, file: str, settings: Settings) -> StreamRequest:
        """Return what is asked of the stream, checked.

        Raises:
            InputError: An option has no usable value; the message names it.
            ConfigError: The pool file can't be used.
        """
        read_budget = partial(read_usd, "the budget an hour")
        budget_usd = read_option("--budget-usd-per-hour", read_budget, self.budget_usd_per_hour)
        if not budget_usd:
            raise InputError(
                "a stream needs money",
                where="--budget-usd-per-hour",
                remedy="Give an amount in USD above 0",
            )
        read_floor = partial(read_quality, "min_quality")
        sla = SLA(min_quality=read_option("--min-quality", read_floor, self.min_quality))
        name = self.name or ("stdin" if file == "-" else Path(file).name)
        batch = BatchRequest(pool=load_pool(self.pool or settings.pool), name=name, sla=sla)
        source = "-" if file == "-" else str(Path(file).resolve())
        return StreamRequest(batch, budget_usd, source, settings.shard_size)


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
    with every batch so that the budget lasts the hour, and no clock hour's calls cost more than
    it. Rows wait while an hour has no money left. A bad row is set aside and keeps no other from
    being answered. Lines of a file are taken once, also when the command is run again.
    """
    settings = load_settings()
    asked = options.asked(file, settings)
    bad_rows = options.errors or Path(f"{asked.batch.name}.errors.jsonl")

    async def stream(database: Database) -> None:
        with _opened(file) as lines:
            streamer = Streamer(database, asked, partial(_set_aside, bad_rows))
            opened = await streamer.open()
            skip, rows = (0 if file == "-" else opened.lines_taken), options.group_rows
            feed = LineFeed(lines, skip=skip, follow=options.follow, most_ahead=rows)
            while taken := await feed.take(rows, options.group_seconds):
                async for group in streamer.send(opened, taken):
                    _tell(settings, group, as_json=as_json)

    run(settings, stream, on_interrupt=_ON_INTERRUPT)


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


def _tell(settings: Settings, group: StreamBatch, *, as_json: bool) -> None:
    facts = {
        "batch_id": str(group.batch_id),
        "job_count": group.job_count,
        "price_per_usd": group.price_per_usd,
        "budget_usd": str(group.budget_usd),
        "free_usd": str(group.free_usd),
    }
    typer.echo(json_line(facts) if as_json else str(group.batch_id))
    wake_workers(settings, Stage.SCORE, group.batch_id, -(-group.job_count // settings.shard_size))


def _set_aside(path: Path, bad: BadRow) -> None:
    with path.open("ab") as errors:
        errors.write(error_line(bad))
    note(f"line {bad.row.line} was set aside in {path}: {bad.problems[0]}")
