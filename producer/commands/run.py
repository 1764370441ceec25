"""`routoo-producer run`: from a file of prompts to a file of answers, in one command."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.batch_options import BatchOptions
from producer.commands.options import JsonOption
from routoo.console import formatting
from routoo.console.commands import with_options
from routoo.console.output import console, json_line, messages, note
from routoo.console.run import BATCH_FAILED, DEVIATED, INCOMPLETE, INTERRUPTED, run_with_database
from routoo.domain.job import BatchStatus, Stage
from routoo.errors import InputError

if TYPE_CHECKING:
    from producer.local_stack import LocalStack
    from producer.progress import Snapshot
    from producer.results.export import Exported
    from producer.results.formats import Export
    from producer.rows.source import Source
    from producer.submit import BatchRequest
    from routoo.settings import Settings
    from routoo.store.batches.records import BatchRecord
    from routoo.store.database import Database

RunFileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="JSONL, CSV or Parquet file of prompts, or the folder of a dataset."
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", metavar="FILE", help="Where the answers go: .jsonl, .csv or .parquet says how."
    ),
]
_WEBHOOKS = ("on_success", "on_failure")
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Predictor for the workers that this command starts; refused where workers run "
        "already. (default: the promoted one, or ROUTOO_CHECKPOINT)",
    ),
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Spend without asking; needed without a terminal.")
]


@with_options(BatchOptions)
def run_command(
    file: RunFileArgument,
    *,
    out: OutOption,
    options: BatchOptions,
    checkpoint: CheckpointOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plan, run and write a file of prompts, with workers started for it where none lives.

    The plan is shown before anything is spent. The same file, name and options are one batch: the
    same command goes on with it after Ctrl-C or a crash, and writes its answers again once it is
    over. Rows and options are those of `submit`. With --json, progress goes to standard error and
    one object to standard output.

    Exit status: 0 every job is answered, 7 too but some by a model that is expected to be worse
    than the planned one, 5 some have no answer, 8 the batch failed, 130 interrupted or not wanted.

    Examples:
        routoo-producer run prompts.jsonl --budget-usd 5 --out answers.jsonl
        routoo-producer run prompts.csv --match large@0.98 --out answers.parquet --yes
    """
    _check_consent(yes=yes)
    from producer.local_stack import LocalStack
    from producer.results.formats import Export
    from routoo.settings import load_settings

    settings = load_settings()
    if checkpoint is not None:
        settings = settings.model_copy(update={"checkpoint": checkpoint.absolute()})
    source = options.source(file)
    wanted = Export.to_file(out)
    _check_files(source, wanted)
    request = options.request(settings, plan_only=True)
    request = replace(request, name=request.name or source.stem)
    stack = LocalStack(settings, named_checkpoint=checkpoint is not None)
    run = _Run(settings, source, request, wanted, stack, options, yes=yes, as_json=as_json)
    with _sigterm_as_interrupt(), stack:
        exit_code = run_with_database(settings, run.work, on_interrupt=run.how_to_go_on)
    raise typer.Exit(exit_code)


def _check_consent(*, yes: bool) -> None:
    if not (yes or sys.stdin.isatty()):
        raise InputError(
            "this spends money, and there is no terminal to ask on",
            remedy="Give --yes, or look first with `routoo-producer plan`",
        )


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _check_files(source: "Source", wanted: "Export") -> None:
    """Refuse files that can't be read again, or would be overwritten, before anything is done."""
    out, path = wanted.out, source.path
    if path is None or not all(one.is_file() for one in source.files):
        raise InputError(
            "the prompts must stand in a file, by whose content the same command goes on",
            where=source.name,
            remedy="Write them to a file, or use `routoo-producer submit -`",
        )
    if out is not None and out.exists() and out.samefile(path):
        raise InputError("the answers would replace the prompts", where="--out", value=str(out))
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError("there is no such folder", where="--out", value=str(out.parent))


@dataclass(slots=True)
class _Run:
    """One run of a file: finds or makes its batch, has it planned and answered, writes answers."""

    settings: "Settings"
    source: "Source"
    request: "BatchRequest"
    wanted: "Export"
    stack: "LocalStack"
    options: BatchOptions
    yes: bool
    as_json: bool
    batch: "BatchRecord | None" = None
    """Known once it is committed."""

    async def work(self, database: "Database") -> int:
        """Do all of it, and return the exit status."""
        batch = await self._find(database)
        if batch is None or batch.status is BatchStatus.PLANNING:
            await self.stack.check_named_checkpoint(database)
            batch = await self.stack.serve(database, self._plan(database, batch))
        if batch.status is BatchStatus.PLANNED:
            if not self._is_wanted(batch, await self._doubt(database, batch)):
                note(f"nothing was spent; `routoo-producer submit --plan {batch.id}` runs it")
                return INTERRUPTED
            await self._submit_plan(database, batch)
        self._check_not_paused(batch)
        last = await self._answered(database, batch)
        return await self._write(database, last)

    async def _find(self, database: "Database") -> "BatchRecord | None":
        """Return the batch to go on with; None where there is none, then the request has a key."""
        from producer.run import RunKey, find_earlier

        key = RunKey.of(self.source.files, self.request, self._asked())
        async with database.transaction() as conn:
            earlier = await find_earlier(conn, key, self.request)
        self.request = replace(self.request, idempotency_key=earlier.idempotency_key)
        self.batch = batch = earlier.batch
        if batch is not None:
            begun = f"{batch.created_at:%Y-%m-%d %H:%M} UTC"
            note(f"the same file and options: goes on with batch {batch.id} of {begun}")
            await self._note_newer_checkpoint(database, batch)
        return batch

    async def _note_newer_checkpoint(self, database: "Database", batch: "BatchRecord") -> None:
        """Say that the batch was planned by another checkpoint than the one in use now."""
        from routoo.store import checkpoints

        async with database.transaction() as conn:
            before = await checkpoints.promoted(conn, at=batch.created_at)
            now = await checkpoints.promoted(conn)
        if now is not None and (before is None or before.id != now.id):
            note(
                "it was planned before the checkpoint in use now; `--name again` (or another "
                "name) makes a new batch that is planned by that one"
            )

    def _asked(self) -> dict[str, object]:
        """Return the options that make another batch of a file when they change."""
        asked = asdict(self.options)
        for name in ("pool", "name", "idempotency_key", "no_ping", "errors", *_WEBHOOKS):
            del asked[name]
        for name in ("template", "system_template", "id_column", "subset", "split"):
            if asked[name] is None:  # runs that began before there were such options go on
                del asked[name]
        rules = self.request.sla.validators
        return {**asked, "validate_json_schema": None if rules is None else rules.json_schema}

    async def _plan(self, database: "Database", batch: "BatchRecord | None") -> "BatchRecord":
        from producer.commands.submit import publish_batch, submit_rows
        from producer.control import await_plan
        from producer.screen.progress import planning_progress
        from routoo.store import batches

        if batch is None:
            submission = await submit_rows(
                database, self.settings, self.source, self.request, no_ping=self.options.no_ping
            )
            async with database.transaction() as conn:
                batch = self.batch = await batches.get(conn, submission.batch_id)
            await self.stack.ready.wait()
            publish_batch(self.settings, submission)
        with planning_progress() as on_progress:
            return await await_plan(database, batch.id, on_progress)

    async def _doubt(self, database: "Database", batch: "BatchRecord") -> str | None:
        """Return what the plan's interval leaves out where models are placed by priors."""
        from producer.pool_check import priors_of, shared_doubt

        placed = await priors_of(database, batch, self.settings.checkpoint)
        return shared_doubt(batch.plan or {}, placed) if placed else None

    def _is_wanted(self, batch: "BatchRecord", doubt: str | None) -> bool:
        """Show the plan and ask whether to run it, unless --yes says so."""
        from producer.control import check_feasible
        from producer.screen.plan import plan_view

        plan = batch.plan or {}
        screen = messages() if self.as_json else console()
        screen.print(plan_view(batch, plan, tells_how_to_run=False))
        screen.file.flush()
        if doubt is not None:
            note(doubt)
        check_feasible(plan)
        if self.yes:
            return True
        worst_usd = plan.get("forecast", {}).get("worst_case_usd")
        expected = formatting.usd(plan["expected_cost_usd"])
        question = f"\nSpend {expected}, {formatting.usd(worst_usd)} at worst? [y/N] "
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    async def _submit_plan(self, database: "Database", batch: "BatchRecord") -> None:
        from producer.control import submit_plan
        from producer.queue import publish_or_note

        submission = await submit_plan(database, str(batch.id))
        if submission.created and self.stack.ready.is_set():
            publish_or_note(self.settings, Stage.DISPATCH, batch.id, submission.ready_shards)

    def _check_not_paused(self, batch: "BatchRecord") -> None:
        if batch.status is BatchStatus.PAUSED:
            raise InputError(
                "the batch is paused",
                value=str(batch.id),
                remedy=f"`routoo-producer resume {batch.id}` lets it go on; then run this again",
            )

    async def _answered(self, database: "Database", batch: "BatchRecord") -> "Snapshot":
        """Show the batch until it is over, and return what is known of it then."""
        from producer.commands.status import show_progress
        from producer.progress import follow, take_snapshot

        if batch.status.has_ended:
            async with database.transaction() as conn:
                return await take_snapshot(conn, batch)
        work = show_progress(follow(database, batch), to_stderr=self.as_json)
        return await self.stack.serve(database, work)

    async def _write(self, database: "Database", last: "Snapshot") -> int:
        from producer.results.export import export

        async with database.transaction() as conn:
            exported = await export(conn, last.batch, self.wanted)
        exit_code = _exit_code(last)
        if self.as_json:
            typer.echo(json_line(self._facts(last, exported, exit_code)))
        else:
            self._print_outcome(last, exported)
        return exit_code

    def how_to_go_on(self) -> str:
        """Return the note that is printed after Ctrl-C."""
        if self.batch is None:
            return "Interrupted. Nothing was spent; the same command begins again or goes on."
        goes_on = "waits" if self.stack.is_started else "goes on at its workers"
        return (
            f"Interrupted. Batch {self.batch.id} is kept and {goes_on}; the same command goes on "
            f"with it. `routoo-producer results {self.batch.id}` has the answers so far, "
            f"`routoo-producer cancel {self.batch.id}` ends it."
        )

    def _print_outcome(self, last: "Snapshot", exported: "Exported") -> None:
        from producer.screen.progress import downgrade_note, unused_note

        answered = last.succeeded
        typer.echo(
            f"{answered:,} of {last.progress.jobs:,} answered for "
            f"{formatting.usd(last.spent_usd)}: {self.wanted.out}"
        )
        if exported.failures:
            where = "" if self.wanted.errors is None else f": see {self.wanted.errors}"
            retry = f"`routoo-producer retry {last.batch.id}` opens them again"
            note(f"{exported.failures:,} have no answer{where}; {retry}")
        if last.progress.error:
            note(f"the batch failed: {last.progress.error}")
        if last.all_succeeded and not last.as_planned:
            note(downgrade_note(last))
        unused = unused_note(last)
        if unused is not None:
            note(unused)

    def _facts(self, last: "Snapshot", exported: "Exported", exit_code: int) -> dict[str, object]:
        plan = last.batch.plan or {}
        has_errors = self.wanted.errors is not None and exported.failures
        return {
            "batch_id": str(last.batch.id),
            "name": last.batch.name,
            "status": last.progress.status,
            "error": last.progress.error,
            "exit_status": exit_code,
            "jobs": last.progress.jobs,
            "answered": last.succeeded,
            "downgraded": last.progress.deviations.downgrades,
            "results": {str(status): n for status, n in last.progress.results.items()},
            "expected_quality": plan.get("expected_quality"),
            "expected_cost_usd": plan.get("expected_cost_usd"),
            "spent_usd": last.spent_usd,
            "budget_usd": last.progress.balance.limit_usd,
            "out": str(self.wanted.out),
            "errors": str(self.wanted.errors) if has_errors else None,
        }


def _exit_code(last: "Snapshot") -> int:
    if last.progress.status is BatchStatus.FAILED:
        return BATCH_FAILED
    if not last.all_succeeded:
        return INCOMPLETE
    return 0 if last.as_planned else DEVIATED
