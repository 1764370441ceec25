"""`routoo-producer grade`: grade a batch's answers against references."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import BatchArgument, JsonOption
from routoo.console import formatting
from routoo.console.output import json_line
from routoo.console.run import run_with_database

if TYPE_CHECKING:
    from producer.evaluation.grading import GradeCounts
    from routoo.store.database import Database

ReferencesOption = Annotated[
    Path,
    typer.Option(
        "--references",
        metavar="FILE",
        help="JSONL: custom_id, answer, grader (choice, exact, normalized, contains, numeric, "
        "regex, json, json_schema, code_output; the one that fits the answer where left out), "
        "grader_options.",
    ),
]


def grade_command(
    batch: BatchArgument = None, *, references: ReferencesOption, as_json: JsonOption = False
) -> None:
    """Grade a batch's answers against references, into the column `quality` of batch_results.

    Jobs that ended without an answer count as wrong; answers that can be read in more than one
    way stay without a grade and are counted.

    Examples:
        routoo-producer grade monday --references references.jsonl
        # a line of the file:
        # {"custom_id": "q-1", "answer": "Lisbon", "grader": "contains"}
    """
    from producer.evaluation.grading import grade_batch, read_references
    from producer.progress import find_batch
    from routoo.settings import load_settings

    known = read_references(references)

    async def grade(database: "Database") -> "GradeCounts":
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
        return await grade_batch(database, record, known)

    counts = run_with_database(load_settings(), grade)
    if as_json:
        typer.echo(json_line(_facts(counts)))
        return
    typer.echo(
        f"{counts.graded:,} graded, {formatting.percent(counts.mean_score)} right; "
        f"{counts.ungraded:,} can't be graded, {counts.without_reference:,} have no reference"
    )


def _facts(counts: "GradeCounts") -> dict[str, object]:
    return {
        "graded": counts.graded,
        "quality": counts.mean_score,
        "ungraded": counts.ungraded,
        "without_reference": counts.without_reference,
    }
