"""What `routoo collect` and `routoo onboard` share: they ask models questions and grade answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from decimal import Decimal

    from routoo.domain.items import Item
    from routoo.domain.pool import CandidateModel
    from routoo.evaluation.collect import CallEstimate, Collection, Failure
    from routoo.evaluation.item_grading import CollectedOutcome

PoolFileOption = Annotated[Path | None, typer.Option(help="Pool file; ROUTOO_POOL if unset.")]
MaxTokensOption = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of an answer, for items that name none.")
]
SystemOption = Annotated[str | None, typer.Option(help="System message of every request.")]
InstructionOption = Annotated[
    str | None, typer.Option(help='Put after each prompt: "Answer with the letter only."')
]
_FAILURES_SHOWN = 10


def read_budget(text: str | None) -> "Decimal | None":
    """Return an amount of dollars, None where there is none.

    Raises:
        InputError: It is no amount.
    """
    from decimal import Decimal, InvalidOperation

    from routoo.errors import InputError

    if text is None:
        return None
    try:
        budget_usd = Decimal(text)
    except InvalidOperation:
        budget_usd = Decimal(-1)
    if not (budget_usd.is_finite() and budget_usd >= 0):
        raise InputError(
            "no amount of dollars", value=text, where="--budget-usd", remedy="Give one, as 0.25"
        )
    return budget_usd


@contextmanager
def answers_progress(models: "Sequence[str]", items: int) -> "Iterator[Callable[..., None]]":
    """Show a bar for each model while the block runs; it gets a function of name and count."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from routoo.console.output import messages

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=messages()) as bar:
        tasks = {name: bar.add_task(name, total=items) for name in models}

        def advance(model: str, count: float = 1) -> None:
            bar.advance(tasks[model], count)

        yield advance


def announce(
    collection: "Collection",
    items: "Sequence[Item]",
    models: "Sequence[CandidateModel]",
    budget_usd: "Decimal | None",
    advance: "Callable[..., None]",
) -> None:
    """Say what the calls that are to be made may cost, and show what is answered already."""
    from routoo.console.output import note

    note(_describe_estimate(collection.estimate(items, models), budget_usd))
    for item in items:
        for model in models:
            advance(model.name, collection.answered(item, model) is not None)


def _describe_estimate(estimate: "CallEstimate", budget_usd: "Decimal | None") -> str:
    """Return in words what calls may cost."""
    from routoo.console.formatting import usd

    worst = usd(estimate.worst_usd)
    limit = "without a limit" if budget_usd is None else f"{usd(budget_usd)} at most"
    return (
        f"{estimate.calls:,} calls to make: about {usd(estimate.prompts_usd)} for prompts and "
        f"the answers' tokens on top, {worst} at worst; {limit}"
    )


def graded_answers(
    collection: "Collection", items: "Sequence[Item]", models: "Sequence[CandidateModel]"
) -> "list[CollectedOutcome]":
    """Return the answers that the log holds, graded, an item after the other."""
    from routoo.evaluation.item_grading import collected_outcome

    pairs = ((item, model) for item in items for model in models)
    found = ((item, model, collection.answered(item, model)) for item, model in pairs)
    return [collected_outcome(item, model, answer) for item, model, answer in found if answer]


def note_failures(failures: "Sequence[Failure]") -> None:
    """Write the first of what failed to standard error, and how many more there are."""
    from routoo.console.output import note

    for failure in failures[:_FAILURES_SHOWN]:
        note(f"failed: {failure.item_id}, {failure.model}: {failure.message}")
    if len(failures) > _FAILURES_SHOWN:
        note(f"... and {len(failures) - _FAILURES_SHOWN} more failures")
