"""The options of evaluation runs and of schedules, which begin such runs or batches."""

import sys
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.aims import read_option
from producer.commands.batch_options import BatchOptions
from producer.commands.options import AimOptions, PoolOption, option_label
from producer.rows.limits import read_usd
from routoo.console.output import note
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.calendar import Calendar, Missed
from routoo.errors import InputError

if TYPE_CHECKING:
    from routoo.domain.pool import Pool
    from routoo.settings import Settings
    from routoo.store.schedules import NewSchedule


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions(RunOptions):
    """The options of a schedule beside those of its runs."""

    budget_usd: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Most that each due time may spend, all its files together."
        ),
    ] = None
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


_SHARED = frozenset({field.name for field in fields(ScheduleOptions)})
_UNSCHEDULED = frozenset({"name", "idempotency_key", "allow_models", "deny_models"})
"""Options of a submission that a schedule has none of."""
NOT_BATCH_OPTIONS = _SHARED | _UNSCHEDULED
"""Fields of `BatchOptions` that are no options of a schedule, or those of runs too."""
_BATCH_FIELDS = frozenset({field.name for field in fields(BatchOptions)})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """What a schedule begins: an evaluation run, or batches."""

    eval_set: Annotated[
        str | None,
        typer.Option("--evalset", metavar="SET", help="Evaluation set to run, the newest version."),
    ] = None
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="FILE",
            help="File to submit, or a pattern such as 'in/*.jsonl', in quotes: a batch of each, "
            "read where the beat runs.",
        ),
    ] = None
    only_new: Annotated[
        bool, typer.Option("--only-new", help="--batch: submit a file again only if it changed.")
    ] = False
    max_files: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="--batch: most files that one night submits."),
    ] = None
    sql: Annotated[
        str | None,
        typer.Option(
            metavar="QUERY", help="Query that returns the rows of a batch; - is standard input."
        ),
    ] = None
    sql_url_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="--sql: variable of the beat with its PostgreSQL URL."),
    ] = None


def new_schedule(
    settings: "Settings",
    name: str,
    cron: str,
    options: ScheduleOptions,
    batch: BatchOptions,
    work: WorkOptions,
) -> "NewSchedule":
    """Return the schedule that the options describe, checked.

    Args:
        settings: Name the pool file where no option does.
        name: Of the schedule.
        cron: The fields that say when it is due.
        options: Those that runs and batches have, and those of runs.
        batch: Those of batches.
        work: What is begun.

    Raises:
        InputError: An option has no usable value, or is not of what is scheduled.
        ConfigError: The pool file can't be used.
    """
    _check_work(work, options, batch)
    batch = replace(batch, **{one: getattr(options, one) for one in _SHARED & _BATCH_FIELDS})
    from routoo.evaluation_runs.begin import RunRequest, check_budgets
    from routoo.store.schedules import NewSchedule

    pool, objective, call_options = _aims(settings, options, None if work.eval_set else batch)
    new = NewSchedule(
        name=name,
        eval_set=work.eval_set,
        cron=cron,
        time_zone=options.tz,
        missed=options.missed,
        pool=pool.model_dump(mode="json"),
        next_due_at=Calendar(cron, options.tz).next_after(datetime.now(UTC)),
        budget_usd=options.budget(),
        objective=None if objective == Objective() else objective.as_json(),
        sample_size=options.sample_size,
        sample_budget_usd=options.sample_budget(),
        judge=options.judge_facts(pool),
        rollback=options.rollback,
        call_options=None if call_options == CallOptions() else call_options.as_json(),
        batch=None if work.eval_set is not None else _batch(work, batch),
    )
    check_budgets(
        RunRequest(
            pool,
            budget_usd=new.budget_usd,
            sample_size=new.sample_size,
            sample_budget_usd=new.sample_budget_usd,
        )
    )
    return new


def _batch(work: WorkOptions, options: BatchOptions) -> dict[str, Any]:
    """Return what a schedule submits, as it is kept."""
    from producer.scheduled import BatchWork

    options.row_template()  # refuses one that can't be read
    if options.deadline is not None and not options.deadline.strip()[-1:].isalpha():
        what, remedy = "every batch needs a deadline of its own", "Give a time from then, as 6h"
        raise InputError(what, value=options.deadline, where="--deadline", remedy=remedy)
    files, query = work.batch, sys.stdin.read() if work.sql == "-" else work.sql
    if files is not None and not Path(files).is_absolute():
        files = str(Path.cwd() / files)
        note(f"the beat reads {files}, on its own machine")
    rules = options.validators()
    return BatchWork(
        files=files,
        query=query,
        url_env=work.sql_url_env,
        only_new=work.only_new,
        max_files=work.max_files,
        row_format=options.row_format,
        template=options.template,
        system_template=options.system_template,
        id_column=options.id_column,
        subset=options.subset,
        split=options.split,
        limits=options.limits(),
        validators=None if rules is None else rules.as_json(),
        ignore_model=options.ignore_model,
        skip_invalid=options.skip_invalid,
        errors=None if options.errors is None else str(options.errors.absolute()),
        on_success=options.on_success,
        on_failure=options.on_failure,
    ).as_json()


def _aims(
    settings: "Settings", options: ScheduleOptions, batch: BatchOptions | None
) -> "tuple[Pool, Objective, CallOptions]":
    """Return the pool, the objective and the call options of batches, or of runs without one."""
    pool = options.candidates(settings)
    if batch is None:
        return pool, options.objective(pool), CallOptions(**options.call_facts(pool.names))
    request = batch.request(settings)
    return pool.with_batch_channels(), request.objective, request.call_options


def _check_work(work: WorkOptions, options: ScheduleOptions, batch: BatchOptions) -> None:
    """Refuse options that are not of what is scheduled."""
    given = [one for one in (work.eval_set, work.batch, work.sql) if one is not None]
    if len(given) != 1 or (work.sql is None) != (work.sql_url_env is None):
        raise InputError(
            "a schedule has one kind of work",
            remedy="Give --evalset SET, --batch FILE, or --sql QUERY with --sql-url-env NAME",
        )
    plain = ScheduleOptions()
    of_runs = _SHARED - _BATCH_FIELDS - {"tz", "missed"}
    if work.eval_set is None and any(getattr(options, x) != getattr(plain, x) for x in of_runs):
        names = ", ".join(sorted(map(option_label, of_runs)))
        raise InputError(f"{names} are for --evalset", remedy="Leave them out")
    if work.eval_set is not None and batch != BatchOptions():
        raise InputError(
            "an option of batches stands beside --evalset", remedy="Leave it out, or give --batch"
        )
    _check_batches(work, batch)


def _check_batches(work: WorkOptions, batch: BatchOptions) -> None:
    if work.batch is None and (work.only_new or work.max_files is not None):
        raise InputError("--only-new and --max-files are for --batch", remedy="Leave them out")
    if batch.errors is not None and work.batch is not None and "*" in work.batch:
        what, remedy = "several files can't share one file of bad rows", "Leave it out"
        raise InputError(what, where="--errors", remedy=remedy)
    if batch.skip_invalid and work.sql is not None and batch.errors is None:
        what = "the bad rows of a query need a file"
        raise InputError(what, where="--skip-invalid", remedy="Give --errors FILE too")
