"""The options that say what is asked of a batch; `submit` and `plan` share them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.call_flags import CallFlags
from producer.commands.reading_options import read_option
from producer.rows.limits import (
    read_deadline,
    read_max_latency_s,
    read_models,
    read_quality,
    read_usd,
)
from producer.rows.source import Format
from producer.submit import BatchRequest
from routoo.domain.job import SLA
from routoo.domain.pool_file import load_pool
from routoo.errors import InputError
from routoo.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOptions(CallFlags):
    """Options as they were typed; their help is each field's documentation."""

    pool: Annotated[
        Path | None, typer.Option(help="Pool file of candidate models. (default: ROUTOO_POOL)")
    ] = None
    min_quality: Annotated[
        str | None,
        typer.Option(metavar="Q", help="Least predicted quality of a job's model, 0 to 1."),
    ] = None
    max_cost_usd: Annotated[
        str | None, typer.Option(metavar="C", help="Most that one job may cost, in USD.")
    ] = None
    max_latency_s: Annotated[
        str | None,
        typer.Option(
            metavar="L", help="Longest wait for a call, seconds: a slower one is given up."
        ),
    ] = None
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="No call starts after this: 2027-01-31T18:00:00Z, or from now: 2h, 30m.",
        ),
    ] = None
    allow_models: Annotated[
        str | None, typer.Option(metavar="A,B", help="The only models of the pool that may answer.")
    ] = None
    deny_models: Annotated[
        str | None, typer.Option(metavar="A,B", help="Models of the pool that may not answer.")
    ] = None
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the batch. (default: the file's)")
    ] = None
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="K", help="Submitting twice with the same key makes one batch."),
    ] = None
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Submit the good rows, write the bad to a file.")
    ] = False
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bad rows, as JSONL. (default: FILE.errors.jsonl)"),
    ] = None
    row_format: Annotated[
        Format | None, typer.Option("--format", help="Format of the rows. (default: by suffix)")
    ] = None
    ignore_model: Annotated[
        bool, typer.Option("--ignore-model", help="Route every job, whatever its model field says.")
    ] = False

    def request(self, settings: Settings, *, plan_only: bool = False) -> BatchRequest:
        """Return the batch that the options ask for, checked.

        Raises:
            InputError: An option has no usable value; the message names it.
            ConfigError: The pool file can't be used.
        """
        pool = load_pool(self.pool or settings.pool).with_batch_channels()
        return BatchRequest(
            pool=pool,
            name=_checked_text("--name", self.name),
            idempotency_key=_checked_text("--idempotency-key", self.idempotency_key),
            budget_usd=self.budget(),
            objective=self.objective(pool),
            plan_only=plan_only,
            call_options=self.call_options(),
            sla=self._sla(pool.names),
            ignore_model=self.ignore_model,
            skip_invalid=self.skip_invalid,
            error_file=self.errors,
        )

    def _sla(self, models: Sequence[str]) -> SLA:
        read_cap, now = partial(read_usd, "the cost cap"), datetime.now(UTC)
        read_floor = partial(read_quality, "min_quality")
        read_list = partial(read_models, "the list", known=models)
        return SLA(
            min_quality=read_option("--min-quality", read_floor, self.min_quality),
            max_cost_usd=read_option("--max-cost-usd", read_cap, self.max_cost_usd),
            max_latency_s=read_option("--max-latency-s", read_max_latency_s, self.max_latency_s),
            deadline=read_option("--deadline", partial(read_deadline, now=now), self.deadline),
            allowed_models=read_option("--allow-models", read_list, self.allow_models),
            denied_models=read_option("--deny-models", read_list, self.deny_models),
        )


def _checked_text(option: str, value: str | None) -> str | None:
    """Refuse what a terminal can pass and the database can't store."""
    if value is None or (value.strip() and value.isprintable()):
        return value
    raise InputError("this is no printable text", value=value, where=option, remedy="Give some")
