"""The options that say how a batch's calls are made: duplicates, cache, content filter."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from producer.commands.objective_options import ObjectiveOptions
from producer.commands.reading_options import read_option
from producer.rows.limits import read_deadline
from routoo.domain.batch_options import CallOptions, OnContentFilter
from routoo.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFlags(ObjectiveOptions):
    """Options as they were typed; their help is each field's documentation."""

    no_dedupe: Annotated[
        bool, typer.Option("--no-dedupe", help="Call identical requests each for itself.")
    ] = False
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="TTL",
            help="Take answers from the response cache, and keep new ones so long: 12h, 7d. "
            "Only for requests with temperature 0 or a seed.",
        ),
    ] = None
    cache_all: Annotated[
        bool, typer.Option("--cache-all", help="Cache requests that ask for chance, too.")
    ] = False
    on_content_filter: Annotated[
        OnContentFilter | None,
        typer.Option(
            help="When a content filter refuses: ask the next model, or fail the job. "
            "Unset, the pool says it of each model."
        ),
    ] = None

    def call_options(self) -> CallOptions:
        """Return how the calls are made.

        Raises:
            InputError: An option has no usable value, or is of no use.
        """
        if self.cache_all and self.cache is None:
            raise InputError("it needs --cache", where="--cache-all", remedy="Give both")
        now = datetime.now(UTC)
        until = read_option("--cache", partial(read_deadline, now=now), self.cache)
        return CallOptions(
            dedupe=not self.no_dedupe,
            cache_ttl_s=None if until is None else (until - now).total_seconds(),
            cache_all=self.cache_all,
            on_content_filter=self.on_content_filter,
        )
