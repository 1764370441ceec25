"""The options that say what is asked of an evaluation run; `eval run` and `schedule add` share."""

from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from producer.commands.objective_options import AimOptions
from producer.commands.reading_options import read_option
from producer.rows.limits import read_usd
from routoo.domain.calendar import Missed
from routoo.domain.pool import Pool
from routoo.domain.pool_file import load_pool
from routoo.errors import InputError
from routoo.settings import Settings

DEFAULT_SAMPLE = 200

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="Id, start of an id, or name of the run; the latest where left out.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(AimOptions):
    """Options as they were typed; their help is each field's documentation."""

    budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the routed answers may cost, in USD.")
    ] = None
    pool: Annotated[
        Path | None, typer.Option(help="Pool file of candidate models. (default: ROUTOO_POOL)")
    ] = None
    full: Annotated[
        bool,
        typer.Option("--full", help="Let every candidate answer a sample too: measures regret."),
    ] = False
    sample: Annotated[
        int, typer.Option(min=1, metavar="N", help="Items of that sample, the same in every run.")
    ] = DEFAULT_SAMPLE
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

    def candidates(self, settings: Settings) -> Pool:
        """Return the candidate models.

        Raises:
            ConfigError: The pool file can't be used.
        """
        return load_pool(self.pool or settings.pool)

    def sample_budget(self) -> Decimal | None:
        """Return what the sample may cost, in USD.

        Raises:
            InputError: It is no amount.
        """
        read = partial(read_usd, "the budget")
        return read_option("--sample-budget-usd", read, self.sample_budget_usd)

    @property
    def sample_size(self) -> int:
        """Items that every candidate answers; 0 without --full."""
        return self.sample if self.full else 0

    def judge_facts(self, pool: Pool) -> dict[str, Any] | None:
        """Return the judge and its budget as a run keeps them, None where none is named.

        Raises:
            InputError: There is no such model.
        """
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRunOptions(RunOptions):
    """What is asked of one run beside that."""

    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the run. (default: the set's)")
    ] = None
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OUTCOMES",
            help="Outcome table whose answers are replayed: no model is called. Repeatable.",
        ),
    ] = None
    latency_scale: Annotated[
        float, typer.Option(min=0, help="Part of the recorded latency that a replayed call takes.")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions(RunOptions):
    """What is asked of a schedule beside that."""

    tz: Annotated[
        str, typer.Option("--tz", metavar="ZONE", help="Time zone of the fields, an IANA name.")
    ] = "UTC"
    missed: Annotated[
        Missed,
        typer.Option(
            help="Where no worker ran when it was due: run the latest missed one, or none."
        ),
    ] = Missed.RUN_ONCE
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="Bring the previous checkpoint back when a new one does worse."
        ),
    ] = False
