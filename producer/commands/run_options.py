"""The options of an evaluation run, which `eval run` and `schedule add` share."""

from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.aims import read_option
from producer.commands.options import AimOptions, PoolOption
from producer.rows.limits import read_usd
from routoo.errors import InputError

if TYPE_CHECKING:
    from routoo.domain.pool import Pool
    from routoo.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(AimOptions):
    """What an evaluation run measures, with which models, and what it may cost."""

    budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the routed answers may cost, in USD.")
    ] = None
    pool: PoolOption = None
    full: Annotated[
        bool,
        typer.Option("--full", help="Let every candidate answer a sample too: measures regret."),
    ] = False
    sample: Annotated[
        int, typer.Option(min=1, metavar="N", help="Items of that sample, the same in every run.")
    ] = 200
    sample_budget_usd: Annotated[
        str | None,
        typer.Option(metavar="X", help="Most that the sample may cost, beside --budget-usd."),
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model that judges, of --judge-pool or of the pool."),
    ] = None
    judge_pool: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pool file that holds the judge.")
    ] = None
    judge_budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the judge may cost, in USD.")
    ] = None

    def candidates(self, settings: "Settings") -> "Pool":
        """Return the candidate models.

        Raises:
            ConfigError: The pool file can't be used.
        """
        from routoo.domain.pool_file import load_pool

        return load_pool(self.pool or settings.pool)

    def sample_budget(self) -> Decimal | None:
        """Return the budget of the sample, in USD.

        Raises:
            InputError: It is no amount.
        """
        read = partial(read_usd, "the budget")
        return read_option("--sample-budget-usd", read, self.sample_budget_usd)

    @property
    def sample_size(self) -> int:
        """Items that every candidate answers; 0 without --full."""
        return self.sample if self.full else 0

    def judge_facts(self, pool: "Pool") -> dict[str, Any] | None:
        """Return the judge and its budget as a run keeps them, None where none is named.

        Raises:
            InputError: There is no such model.
        """
        from routoo.domain.pool_file import load_pool

        if self.judge is None:
            return None
        judges = load_pool(self.judge_pool) if self.judge_pool is not None else pool
        if self.judge not in judges.names:
            raise InputError(
                "there is no such model",
                value=self.judge,
                where="--judge",
                remedy=f"Choose from {', '.join(judges.names)}",
            )
        read = partial(read_usd, "the judge's budget")
        budget = read_option("--judge-budget-usd", read, self.judge_budget_usd)
        return {
            "model": judges.models[judges.index(self.judge)].model_dump(mode="json"),
            "budget_usd": None if budget is None else str(budget),
        }
