"""`routoo-producer pause`, `resume`, `cancel` and `retry`: they change whether a batch goes on."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from producer.aims import read_option
from producer.commands.options import JsonOption, NamedBatch
from producer.rows.limits import read_usd
from routoo.console.output import json_line
from routoo.console.run import run_with_database
from routoo.domain.job import ResultStatus

if TYPE_CHECKING:
    from producer.progress import Snapshot

_CANCEL_INTERRUPTED = (
    "The batch is being cancelled all the same; `routoo-producer status` shows it."
)


NewBudgetOption = Annotated[
    str | None,
    typer.Option(metavar="X", help="New budget of the whole batch, what was spent included."),
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Stay until the calls in flight have ended.")
]
DeleteOption = Annotated[
    bool, typer.Option("--yes", help="Delete without a question; needed in scripts.")
]
FailedOption = Annotated[
    bool, typer.Option("--failed-only", help="Only jobs that ended as failed.")
]
StatusOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STATUS",
        help="Only jobs that ended so: failed, expired, budget_exhausted or cancelled; can be "
        "repeated.",
    ),
]
CodeOption = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Only jobs that ended with this code; `status` shows it."),
]


def pause_command(batch: NamedBatch, *, as_json: JsonOption = False) -> None:
    """Pause a batch: no new call starts, calls in flight end and their answers are kept.

    Deadlines go on: a job whose deadline passes meanwhile ends as expired.

    Examples:
        routoo-producer pause monday
    """
    from producer.control import pause_batch
    from routoo.settings import load_settings

    snapshot = run_with_database(load_settings(), lambda database: pause_batch(database, batch))
    _print_state(snapshot, as_json=as_json)


def resume_command(
    batch: NamedBatch, *, budget_usd: NewBudgetOption = None, as_json: JsonOption = False
) -> None:
    """Let a paused batch go on; with --budget-usd, one whose money ran out as well.

    Jobs that ended as budget_exhausted are opened again under the new budget and models are chosen
    anew for them. The budget may be lowered too, to what is spent and reserved at the least.

    Examples:
        routoo-producer resume monday
        routoo-producer resume monday --budget-usd 20
    """
    from producer.control import resume_batch
    from routoo.settings import load_settings

    amount = read_option("--budget-usd", partial(read_usd, "the budget"), budget_usd)
    snapshot = run_with_database(
        load_settings(), lambda database: resume_batch(database, batch, amount)
    )
    _print_state(snapshot, as_json=as_json)


def cancel_command(
    batch: NamedBatch, *, wait: WaitOption = True, as_json: JsonOption = False
) -> None:
    """Cancel a batch: no new call starts, answers so far are kept, the rest ends as cancelled.

    Calls in flight are awaited and paid for. Works with no worker alive, too: calls that a dead
    worker left count at their worst case once its lease has run out. A batch that is over stays as
    it is.

    Examples:
        routoo-producer cancel monday
        routoo-producer cancel 3f2a --no-wait
    """
    from producer.control import cancel_batch
    from routoo.settings import load_settings

    snapshot = run_with_database(
        load_settings(),
        lambda database: cancel_batch(database, batch, wait=wait),
        on_interrupt=_CANCEL_INTERRUPTED,
    )
    _print_state(snapshot, as_json=as_json)


def delete_command(
    batch: NamedBatch, *, yes: DeleteOption = False, as_json: JsonOption = False
) -> None:
    """Delete a batch that is over, or a plan: its prompts, answers, costs and history are gone.

    A part at a time: batches that run are not held up, and a command that was interrupted goes on
    when it is repeated. Batches of evaluations stay.

    Examples:
        routoo-producer delete monday
        routoo-producer delete 3f2a --yes
    """
    from producer.control import delete_batch
    from routoo.settings import load_settings

    if not yes:
        typer.confirm(f"Delete {batch} with all its answers?", abort=True, err=True)
    record = run_with_database(load_settings(), lambda database: delete_batch(database, batch))
    if as_json:
        typer.echo(json_line({"batch_id": str(record.id), "deleted": True}))
    else:
        typer.echo(f"{record.id} is deleted")


def retry_command(
    batch: NamedBatch,
    *,
    failed_only: FailedOption = False,
    status: StatusOption = None,
    error_code: CodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try jobs again that have no answer: all of them, or those that ended in a certain way.

    Models are chosen anew for them with the money that is left. How they had ended is kept in the
    table superseded_results; their calls so far stay counted. A failed or cancelled batch goes on
    where it stopped.

    Examples:
        routoo-producer retry monday --failed-only
        routoo-producer retry 3f2a --status expired --status cancelled
    """
    from producer.control import read_statuses, retry_batch
    from routoo.settings import load_settings

    wanted = read_statuses(status or [], failed_only=failed_only)
    snapshot = run_with_database(
        load_settings(), lambda database: retry_batch(database, batch, wanted, error_code)
    )
    _print_state(snapshot, as_json=as_json)


def _print_state(snapshot: "Snapshot", *, as_json: bool) -> None:
    """Print the status of the batch now."""
    if as_json:
        typer.echo(json_line(snapshot.as_json()))
        return
    now = snapshot.progress
    answered = f"{snapshot.succeeded:,} of {now.jobs:,} jobs answered"
    cancelled = now.results[ResultStatus.CANCELLED]
    rest = f", {cancelled:,} cancelled" if cancelled else ""
    typer.echo(f"{now.status}: {answered}{rest}")
