"""Draws the progress of a batch, of reading its rows and of scoring its plan; lists batches."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from producer.progress import Snapshot
from producer.submit import ReadProgress
from routoo.console import formatting
from routoo.console.output import FittedTable, TableColumn, messages, note
from routoo.domain.completion import DeviationReason
from routoo.domain.job import BatchStatus
from routoo.store.batches.records import BatchRecord

_BAR_WIDTH = 40
_LONGEST_REASON = 160
_REFRESHES_PER_S = 5
_FAILURES_TOLD = 3
_LEAST_SHOWN = 0.01
_MOST_USED = 0.7
"""A budget of which a batch used less than this share is remarked upon."""


def progress_view(snapshot: Snapshot) -> RenderableType:
    """Return the screen of `status` and `watch`."""
    parts: list[RenderableType] = [_title(snapshot), _stages(snapshot), _facts(snapshot)]
    wait = wait_line(snapshot)
    if wait is not None:
        parts.append(Text(wait, style="yellow"))
    if snapshot.progress.models:
        parts.append(_models(snapshot))
    parts += [Text(line, style="dim") for line in plan_notes(snapshot)]
    if snapshot.progress.deviations.jobs:
        parts.append(Text(_deviations(snapshot), style="yellow"))
    parts += [Text(line, style="yellow") for line in warnings(snapshot)]
    if snapshot.budget_warning is not None:
        parts.append(Text(_budget_warning(snapshot.budget_warning), style="yellow"))
    parts += [Text(f"no answer: {line}") for line in _failures(snapshot)]
    if snapshot.progress.error:
        parts.append(Text(f"error: {snapshot.progress.error}", style="red"))
    return Group(*parts)


def plan_notes(snapshot: Snapshot) -> list[str]:
    """Return what is worth knowing of the plan beside its figures, a sentence each."""
    probes = [_planned_probes(snapshot)] if snapshot.probes else []
    return [*probes, *([_latest_plan(snapshot)] if snapshot.replans else [])]


def warnings(snapshot: Snapshot) -> list[str]:
    """Return what is odd about endpoints and their bills, a sentence each."""
    return [
        *_absences(snapshot),
        *_webhooks(snapshot),
        *map(str, snapshot.behaviours),
        *([_overrun(snapshot)] if snapshot.progress.balance.overrun_usd else []),
    ]


def batch_table(batches: Sequence[BatchRecord]) -> FittedTable:
    """Return a table of batches, a line each; ids are cut to what tells them apart."""
    table = FittedTable(
        TableColumn(title="id"),
        TableColumn(title="name", least=12, first=True),
        TableColumn(title="status"),
        TableColumn(title="jobs", right=True),
        TableColumn(title="budget", rank=2, right=True),
        TableColumn(title="submitted", rank=1),
    )
    shown = formatting.short_ids([record.id for record in batches])
    for record in batches:
        table.add_row(
            shown[record.id],
            record.name,
            record.status,
            f"{record.job_count:,}",
            formatting.usd(record.budget_usd),
            f"{record.created_at:%Y-%m-%d %H:%M} UTC",
        )
    return table


@contextmanager
def read_progress_bar(size_bytes: int | None) -> Iterator[Callable[[ReadProgress], None]]:
    """Show a bar on standard error while rows are read; yields a function that moves it.

    Args:
        size_bytes: Size of the input, None where it is not known: then the bar only pulses.
    """
    columns = (TaskProgressColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with _bar("submitting", *columns) as bar:
        task = bar.add_task("submit", total=size_bytes, rows=0)
        yield lambda read: bar.update(task, completed=read.bytes_read, rows=read.rows)


@contextmanager
def planning_progress() -> Iterator[Callable[[Snapshot], None]]:
    """Show how many jobs are scored; elsewhere than on a terminal only say what is waited for."""
    if not sys.stderr.isatty():
        yield _WaitNote().note
        return

    with _bar("planning", TaskProgressColumn(), TextColumn("{task.fields[doing]}")) as bar:
        task = bar.add_task("plan", total=None, doing="")

        def show(now: Snapshot) -> None:
            doing = wait_line(now) or f"{now.progress.scored:,} jobs scored"
            bar.update(task, total=now.progress.jobs, completed=now.progress.scored, doing=doing)

        yield show


@dataclass(slots=True)
class _WaitNote:
    """Notes once that no worker lives which could go on."""

    noted: bool = False

    def note(self, now: Snapshot) -> None:
        if now.wait is not None and not now.wait.is_served and not self.noted:
            self.noted = True
            note(wait_line(now) or "")


def _bar(name: str, *columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn(name),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        console=messages(),
        transient=True,
        refresh_per_second=_REFRESHES_PER_S,
    )


def progress_line(snapshot: Snapshot) -> str:
    """Return the progress in one line, for logs."""
    now, warning = snapshot.progress, snapshot.budget_warning
    parts = [
        f"{now.scored:,} scored",
        f"{snapshot.selected:,} selected",
        f"{snapshot.succeeded:,} of {now.jobs:,} answered",
        f"{snapshot.unsuccessful:,} without an answer" if snapshot.unsuccessful else "",
        _downgraded(snapshot).removeprefix(", "),
        _at_providers(snapshot),
        f"{formatting.usd(snapshot.spent_usd)} spent{_of_budget(snapshot)}",
        *_pace(snapshot),
        wait_line(snapshot) or "",
        "" if warning is None else f"{warning} % of the budget is used",
        *(_failures(snapshot) if snapshot.is_over else ()),
        f"error: {now.error}" if now.error else "",
    ]
    return f"{now.status}: {', '.join(filter(None, parts))}"


def _pace(snapshot: Snapshot) -> list[str]:
    """Return the rate and the time left, each where it is known."""
    rate, left_s = snapshot.jobs_per_s, snapshot.left_s
    doing = f"{snapshot.stage} " if snapshot.stage else ""
    parts = [] if rate is None else [f"{doing}{formatting.rate(rate)}"]
    return parts + ([] if left_s is None else [f"{formatting.duration(left_s)} left"])


def wait_line(snapshot: Snapshot) -> str | None:
    """Return which workers a batch waits for, since when, and what to do; None where for none."""
    wait = snapshot.wait
    if wait is None:
        return None
    if wait.is_served:
        return f"waits for a free {wait.role}"
    lives = "none runs"
    if wait.silent_s is not None:
        lives = f"none has run for {formatting.duration(wait.silent_s)}"
    return f"waits for a {wait.role}: {lives}, `routoo-worker up` starts one"


def _failures(snapshot: Snapshot) -> list[str]:
    """Return the commonest reasons of jobs without an answer, a line each."""
    return [
        f"{one.jobs:,} {one.error_code}: {_one_line(one.example)}"
        for one in snapshot.progress.failures[:_FAILURES_TOLD]
    ]


def _one_line(text: str) -> str:
    # It may be an endpoint's: control characters could rewrite the terminal.
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def _title(snapshot: Snapshot) -> Text:
    batch = snapshot.batch
    return Text.assemble(
        ("batch ", "dim"), str(batch.id), " ", (batch.name, "bold"), " ", snapshot.progress.status
    )


def _stages(snapshot: Snapshot) -> Table:
    now = snapshot.progress
    grid = Table.grid(padding=(0, 2))
    stages = (
        ("scored", now.scored),
        ("selected", snapshot.selected),
        ("answered", snapshot.succeeded),
    )
    for name, done in stages:
        bar = ProgressBar(total=max(now.jobs, 1), completed=done, width=_BAR_WIDTH)
        grid.add_row(name, bar, f"{done:,} of {now.jobs:,}")
    return grid


def _facts(snapshot: Snapshot) -> Text:
    counts = [f"{count:,} {status}" for status, count in snapshot.progress.results.items() if count]
    waits = snapshot.progress.status is BatchStatus.PLANNED
    facts = [
        ", ".join(counts),
        _at_providers(snapshot),
        f"{formatting.usd(snapshot.spent_usd)} spent{_of_budget(snapshot)}",
        "" if waits else formatting.duration(snapshot.elapsed_s),
        *_pace(snapshot),
    ]
    return Text(" · ".join(filter(None, facts)))


def _at_providers(snapshot: Snapshot) -> str:
    count = snapshot.progress.at_providers
    return f"{count:,} in providers' batches" if count else ""


def _of_budget(snapshot: Snapshot) -> str:
    limit_usd = snapshot.progress.balance.limit_usd
    return "" if limit_usd is None else f" of {formatting.usd(limit_usd)}"


def _planned_probes(snapshot: Snapshot) -> str:
    """Say what the plan expects of the jobs that ask a cheap model first, and of the money."""
    plan = snapshot.batch.plan or {}
    expected = formatting.usd(plan.get("expected_cost_usd"))
    worst_usd = plan.get("forecast", {}).get("worst_case_usd")
    if worst_usd is None:  # it was submitted without a look at its plan: the ledger holds then
        worst_usd = snapshot.progress.balance.limit_usd
    worst = "" if worst_usd is None else f", {formatting.usd(worst_usd)} at worst"
    return f"planned: {formatting.describe_probes(snapshot.probes)}; in all {expected}{worst}"


def _latest_plan(snapshot: Snapshot) -> str:
    latest = snapshot.replans[-1]
    outcome = "being made" if latest.moved is None else f"{latest.moved:,} jobs moved"
    return f"plan {latest.revision}: {latest.reason}; {outcome}"


def _budget_warning(percent: int) -> str:
    return (
        f"warning: {percent} % of the budget is used; "
        "`routoo-producer resume BATCH --budget-usd X` raises it"
    )


def _overrun(snapshot: Snapshot) -> str:
    overrun_usd = snapshot.progress.balance.overrun_usd
    return f"{formatting.usd(overrun_usd)} were billed beyond what was reserved for calls"


def _deviations(snapshot: Snapshot) -> str:
    """Return how many jobs another model answered than planned, and why."""
    found = snapshot.progress.deviations
    same = found.jobs - found.downgrades - found.upgrades
    kinds = [(found.downgrades, "worse"), (found.upgrades, "better"), (same, "equal")]
    counts = ", ".join(
        f"{count:,} by a model expected to be {kind}" for count, kind in kinds if count
    )
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.reasons.items())
    return f"not as planned: {counts} ({reasons})"


def downgrade_note(snapshot: Snapshot) -> str:
    """Say of a batch that is over what its downgrades mean, and what to do about them."""
    found = snapshot.progress.deviations
    why, remedy = ", ".join(found.reasons), ""
    if DeviationReason.BUDGET in found.reasons:
        remedy = "a larger budget or a lower max_tokens avoids that; "
    return (
        f"exit status 7: all are answered, {found.downgrades:,} by a model expected to be worse "
        f"than the planned one ({why}); {remedy}`routoo-producer explain {snapshot.batch.id} "
        "CUSTOM_ID` tells of one"
    )


def end_note(snapshot: Snapshot, *, strict: bool) -> str | None:
    """Say why a command that followed a batch ends with another exit status than 0."""
    now = snapshot.progress
    if now.status is BatchStatus.FAILED:
        return f"the batch failed: {now.error}"
    if not snapshot.all_succeeded:
        return f"{now.jobs - snapshot.succeeded:,} of {now.jobs:,} have no answer"
    return downgrade_note(snapshot) if strict and not snapshot.as_planned else None


def unused_note(snapshot: Snapshot) -> str | None:
    """Say of a batch that is over that much of its budget is left since calls came out cheaper.

    None where most of it was used, or the plan did not expect to pay more.
    """
    limit_usd, planned_usd = snapshot.progress.balance.limit_usd, snapshot.planned_cost_usd
    if not limit_usd or not planned_usd or not snapshot.all_succeeded:
        return None
    used, ratio = float(snapshot.spent_usd / limit_usd), float(snapshot.spent_usd) / planned_usd
    if used >= _MOST_USED or ratio >= 1:
        return None
    share = f"{used:.0%}" if used >= _LEAST_SHOWN else f"less than {_LEAST_SHOWN:.0%}"
    return f"{share} of the budget was used; calls cost {ratio:.2f} of what was planned"


def _absences(snapshot: Snapshot) -> Iterator[str]:
    """Say which models take no calls for now, and why."""
    for name, one in snapshot.absences.items():
        ends = f", for {formatting.duration(one.rest_s)} more" if one.rest_s else ""
        said = f": {one.message}" if one.message else ""
        yield f"{name} takes no calls ({one.reason}{ends}){said}"


def _webhooks(snapshot: Snapshot) -> Iterator[str]:
    for one in snapshot.webhooks:
        if one.error is not None:
            then = "" if one.next_try_at else "; it is called no more"
            yield f"webhook on {one.event} at {one.host} did not accept: {one.error}{then}"


def _downgraded(snapshot: Snapshot) -> str:
    found = snapshot.progress.deviations
    kinds = [(found.downgrades, "downgraded"), (found.upgrades, "upgraded")]
    return "".join(f", {count:,} {kind}" for count, kind in kinds if count)


def _models(snapshot: Snapshot) -> FittedTable:
    table = FittedTable(
        TableColumn(title="model", least=20, fold=True),
        TableColumn(title="answers", right=True),
        TableColumn(title="share", rank=1, right=True),
        TableColumn(title="calls", rank=2, right=True),
        TableColumn(title="cost", right=True),
    )
    for share in snapshot.progress.models:
        part = share.results / snapshot.succeeded if snapshot.succeeded else 0.0
        table.add_row(
            share.model,
            f"{share.results:,}",
            formatting.percent(part),
            f"{share.attempts:,}",
            formatting.usd(share.cost_usd),
        )
    return table
