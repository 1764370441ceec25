"""Arguments and options that several commands share, and how their text is read.

The records hold options as they were typed, each field's help being its documentation. Their
methods check the text and return values of the domain.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.aims import read_budget, read_objective, read_option
from producer.rows.limits import read_models
from routoo.domain.batch_options import CallOptions, Objective
from routoo.errors import InputError

if TYPE_CHECKING:
    from routoo.domain.pool import Pool

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
        help="JSONL, CSV or Parquet file, or a folder of a Hugging Face dataset; - is standard "
        "input.",
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
_OTHER_NAMES = {"allowed_models": "--allow-model", "denied_models": "--deny-model"}


def option_label(field: str) -> str:
    """Return the option that a field of a batch is typed as."""
    return _OTHER_NAMES.get(field) or f"--{field.replace('_', '-')}"


NoCascadeOption = Annotated[
    bool,
    typer.Option(
        "--no-cascade", help="Ask no model first whose answer is judged: one model a job."
    ),
]
CascadeOnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="Only these models may be asked first and their answers judged; can be repeated.",
    ),
]
MaxCompletionTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Limit of tokens of the answers to rows that name none. (default: four times the "
        "predicted length and 64; an answer cut by that is asked again with the pool's limit)",
    ),
]


class SharedCallOptions:
    """How the calls of batches, of evaluation runs and of streams are made."""

    __slots__ = ()
    no_cascade: bool
    cascade_only: list[str] | None
    max_completion_tokens: int | None

    def call_facts(self, models: Sequence[str]) -> dict[str, Any]:
        """Return these fields of a batch's `CallOptions`.

        Args:
            models: Names of the candidate models.

        Raises:
            InputError: The options contradict each other, or name an unknown model.
        """
        return {
            "cascade": not self.no_cascade,
            "cascade_only": self._cascade_only(models),
            "max_completion_tokens": self.max_completion_tokens,
        }

    def changed(self, options: CallOptions, models: Sequence[str]) -> CallOptions:
        """Return a batch's options with what is given here; what isn't stays.

        Raises:
            InputError: The options contradict each other, or name an unknown model.
        """
        only, most_tokens = self._cascade_only(models), self.max_completion_tokens
        return replace(
            options,
            max_completion_tokens=most_tokens or options.max_completion_tokens,
            cascade=options.cascade and not self.no_cascade,
            cascade_only=options.cascade_only if only is None else only,
        )

    def _cascade_only(self, models: Sequence[str]) -> tuple[str, ...] | None:
        if self.cascade_only is None:
            return None
        if self.no_cascade:
            raise InputError("it contradicts --no-cascade", where="--cascade-only")
        names = ",".join(self.cascade_only)
        return read_option("--cascade-only", partial(read_models, "the list", known=models), names)


@dataclass(frozen=True, slots=True, kw_only=True)
class AimOptions(SharedCallOptions):
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

    no_cascade: NoCascadeOption = False
    cascade_only: CascadeOnlyOption = None
    max_completion_tokens: MaxCompletionTokensOption = None

    def budget(self) -> Decimal | None:
        """Return the budget in USD.

        Raises:
            InputError: It is no amount.
        """
        return read_budget({"budget_usd": self.budget_usd}, option_label)

    def objective(self, pool: "Pool") -> Objective:
        """Return the objective.

        Raises:
            InputError: An option has no usable value, or two objectives are given.
        """
        names = ("min_mean_quality", "match", "willingness_to_pay_usd", "risk", "floor_confidence")
        texts = {name: getattr(self, name, None) for name in names}
        return read_objective(texts, pool.names, option_label)
