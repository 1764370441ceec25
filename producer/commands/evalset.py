"""`routoo-producer evalset`: keep sets of questions with references."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import JsonOption
from routoo.console.commands import CommandGroup, with_options
from routoo.console.output import console, json_line, note
from routoo.console.run import run_in_transaction
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from producer.evaluation.grading import ItemFile
    from routoo.store.evaluation.eval_sets import EvalSetRecord

_LISTED = 50
"""Problems printed one by one."""

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the set; NAME@HASH for an older version.")
]

evalset = CommandGroup("Keep sets of questions with references, to measure routing with.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOptions:
    """Options as they were typed; their help is each field's documentation."""

    items: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="JSONL, CSV or Parquet: prompt, answer and, as wanted, item_id, grader, "
            "grader_options, subject, dataset, max_tokens.",
        ),
    ]
    for_training: Annotated[
        bool,
        typer.Option(
            "--for-training",
            help="Collect outcomes to train on. (default: to measure with, never trained on)",
        ),
    ] = False
    no_references: Annotated[
        bool,
        typer.Option("--no-references", help="Take items without an answer: for recorded runs."),
    ] = False
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Take the good items and leave out the bad.")
    ] = False


@evalset.command("add")
@with_options(AddOptions)
def add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the set.")],
    *,
    options: AddOptions,
    as_json: JsonOption = False,
) -> None:
    """Add a set of items, or a new version of it: other content is another version.

    Either all items are taken or, with every problem listed, none. Adding the same content again
    changes nothing.

    Examples:
        routoo-producer evalset add nightly --items questions.jsonl
        # a line of the file:
        # {"item_id": "q-1", "prompt": "What is 2 + 2?", "answer": "4", "grader": "numeric"}
    """
    from producer.evaluation.grading import read_item_file
    from routoo.settings import load_settings
    from routoo.store.evaluation import eval_sets
    from routoo.store.evaluation.eval_sets import Purpose

    _check_name(name)
    found = read_item_file(options.items, references=not options.no_references)
    _print_problems(found, skip_invalid=options.skip_invalid, source=str(options.items))
    purpose = Purpose.TRAINING if options.for_training else Purpose.EVALUATION

    record, created = run_in_transaction(
        load_settings(), lambda conn: eval_sets.add(conn, name, found.items, purpose)
    )
    if as_json:
        typer.echo(json_line({**_facts(record), "created": created}))
        return
    note(f"{record.item_count:,} items" if created else "already there: nothing was added")
    typer.echo(f"{record.name}@{record.content_sha256[:12]}")


@evalset.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """List every version of every set; with --json one object a line."""
    from routoo.settings import load_settings
    from routoo.store.evaluation import eval_sets

    found = run_in_transaction(load_settings(), eval_sets.list_all)
    if as_json:
        for record in found:
            typer.echo(json_line(_facts(record)))
        return
    from rich.table import Table

    table = Table("name", "version", "items", "purpose", "added", box=None, header_style="dim")
    for record in found:
        added = f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC"
        row = (record.content_sha256[:12], f"{record.item_count:,}", record.purpose, added)
        table.add_row(record.name, *row)
    console().print(table)


@evalset.command("show")
def show_command(name: NameArgument, *, as_json: JsonOption = False) -> None:
    """Print a set's items, one JSON object a line; without --json a line about the set.

    Examples:
        routoo-producer evalset show nightly --json | head
    """
    from routoo.settings import load_settings
    from routoo.store.evaluation import eval_sets

    async def load(conn: "AsyncConnection") -> None:
        record = await eval_sets.find(conn, name)
        if not as_json:
            typer.echo(json_line(_facts(record)))
            return
        for item in await eval_sets.load_items(conn, record.id):
            typer.echo(json_line(item))

    run_in_transaction(load_settings(), load)


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable() or "@" in name:
        raise InputError(
            "this is no name for a set", value=name, remedy="Use printable text without @"
        )


def _print_problems(found: "ItemFile", *, skip_invalid: bool, source: str) -> None:
    for line in found.problems[:_LISTED]:
        note(line)
    if len(found.problems) > _LISTED:
        note(f"... and {len(found.problems) - _LISTED:,} more")
    if found.problems and not skip_invalid:
        raise InputError(
            f"{len(found.problems):,} rows have problems: nothing was added",
            where=source,
            remedy="Correct them, or take the others with --skip-invalid",
        )


def _facts(record: "EvalSetRecord") -> dict[str, object]:
    return {
        "name": record.name,
        "version": record.content_sha256,
        "items": record.item_count,
        "purpose": record.purpose,
        "added_at": record.created_at,
    }
