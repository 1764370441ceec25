"""Arguments and options that several commands share, and how their text is read.

The records hold options as they were typed, each field's help being its documentation. Their
methods check the text and return values of the domain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from producer.rows.limits import (
    read_number,
    read_quality,
    read_usd,
)
from producer.rows.problems import LimitError
from routoo.domain.batch_options import (
    Objective,
)
from routoo.errors import InputError

if TYPE_CHECKING:
    from routoo.domain.pool import Pool


import contextlib

_PATIENCE_S = 1.0
_MOST = 30


def complete_batches(incomplete: str) -> list[str]:
    """Return names and ids of the newest batches that begin with what was typed.

    Starts no server; returns nothing where the database is away or slow.
    """
    found: list[str] = []
    # A shell that waits for words has no use for any error.
    with contextlib.suppress(Exception):
        import asyncio

        found = asyncio.run(_names(incomplete))
    return found


async def _names(incomplete: str) -> list[str]:
    import asyncio

    import psycopg

    from routoo.embedded.stack import database_url
    from routoo.settings import load_settings
    from routoo.store import batches
    from routoo.store.database import libpq_url

    url = libpq_url(database_url(load_settings()))
    async with asyncio.timeout(_PATIENCE_S):
        async with await psycopg.AsyncConnection.connect(url) as conn:
            return await batches.names_like(conn, incomplete, _MOST)


_MOST_RISK = 10.0
_MOST_RATIO = 10.0

BatchArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BATCH",
        help="Id, start of an id (4 characters or more) or name; the latest batch where left out.",
        show_default=False,
        autocompletion=complete_batches,
    ),
]
NamedBatch = Annotated[
    str,
    typer.Argument(
        metavar="BATCH",
        help="Id, start of an id (4 characters or more) or name of the batch.",
        autocompletion=complete_batches,
    ),
]
MaybeFileArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE",
        help="JSONL, CSV or Parquet file; - is standard input.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit with 7 if a model that is expected to be worse than planned answered a job.",
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, metavar="N", help="Most lines to list.")]
PoolOption = Annotated[
    Path | None, typer.Option(help="Pool file of candidate models. (default: ROUTOO_POOL)")
]
MinQualityOption = Annotated[
    str | None, typer.Option(metavar="Q", help="Least predicted quality of a job's model, 0 to 1.")
]

Value = TypeVar("Value")


def read_option(option: str, read: Callable[[object], Value], value: str | None) -> Value | None:
    """Return the value that a reader makes of an option's text, None where it was not given.

    Raises:
        InputError: The reader refused the text; the message names the option.
    """
    if value is None:
        return None
    try:
        return read(value)
    except LimitError as error:
        problem = error.problem
        raise InputError(
            problem.what, value=problem.value, where=option, remedy=problem.remedy
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AimOptions:
    """The budget and the objective of a batch or an evaluation run."""

    budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the whole batch may cost, in USD.")
    ] = None
    min_mean_quality: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="Mean predicted quality to reach at the least cost, 0 to 1."
        ),
    ] = None
    match: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@R",
            help="Reach R times MODEL's own mean quality at the least cost, as large@0.98.",
        ),
    ] = None
    willingness_to_pay_usd: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="What one more expected good answer is worth, in USD: dearer gains are left out.",
        ),
    ] = None
    risk: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="Count quality R standard deviations of its estimate below the mean. (default: 0)",
        ),
    ] = None

    def budget(self) -> Decimal | None:
        """Return the budget in USD.

        Raises:
            InputError: It is no amount.
        """
        return read_option("--budget-usd", partial(read_usd, "the budget"), self.budget_usd)

    def objective(self, pool: "Pool") -> Objective:
        """Return the objective.

        Raises:
            InputError: An option has no usable value, or two objectives are given.
        """
        model, ratio = _matched(self.match, pool)
        read_worth = partial(read_number, "the worth of an answer", above=0.0)
        read_risk = partial(read_number, "the risk", least=0.0, most=_MOST_RISK)
        read_mean = partial(read_quality, "the mean quality")
        worth = self.willingness_to_pay_usd
        return Objective(
            min_mean_quality=read_option("--min-mean-quality", read_mean, self.min_mean_quality),
            match_model=model,
            match_ratio=ratio,
            willingness_to_pay_usd=read_option("--willingness-to-pay-usd", read_worth, worth),
            risk=read_option("--risk", read_risk, self.risk) or 0.0,
        )


def _matched(text: str | None, pool: "Pool") -> tuple[str | None, float]:
    """Return the model and the ratio of MODEL@RATIO; a bare MODEL stands for all of its quality."""
    if text is None or text in pool.names:
        return text, 1.0
    model, _, share = text.rpartition("@")
    if model not in pool.names:
        raise InputError(
            "the model to match is not in the pool",
            value=text,
            where="--match",
            remedy=f"Write MODEL@0.98 with one of {', '.join(pool.names)}",
        )
    read_ratio = partial(read_number, "the share to match", above=0.0, most=_MOST_RATIO)
    return model, read_option("--match", read_ratio, share) or 1.0
