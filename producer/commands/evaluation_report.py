"""`routoo-producer eval report`: everything a run measured, as a page, as JSON, on the terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from producer.commands.options import JsonOption
from producer.commands.run_options import RunArgument
from producer.notice import note
from producer.running import run
from routoo.console.output import console
from routoo.errors import InputError
from routoo.settings import load_settings
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs

if TYPE_CHECKING:
    from routoo.evaluation.evaluation_run import EvaluationRun

REPORT_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer eval report nightly --html report.html\n"
    "  routoo-producer eval report --reference gpt-4 --json\n"
)
PAST_RUNS = 30
"""Earlier runs drawn over time."""


def report_command(
    which: RunArgument = None,
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one self-contained page there."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model to compare with. (default: the best single one)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report a graded run: frontier, baselines, calibration, domains, cost, drift.

    What needs every model's answers is measured on the sample of a run with --full.
    """
    # The metrics take 0.5 s to load: not for the other commands
    from routoo.console.scorecard_tables import print_scorecard  # noqa: PLC0415
    from routoo.evaluation.report.page import render_page  # noqa: PLC0415
    from routoo.evaluation.run_scorecard import run_scorecard  # noqa: PLC0415 - the same

    async def load(database: Database) -> "tuple[EvaluationRun, list[EvaluationRun]]":
        return await load_with_past(database, which)

    measured, past = run(load_settings(), load)
    card = run_scorecard(measured, past=past, reference=reference)
    if html is not None:
        html.write_text(render_page(card), encoding="utf-8", errors="replace")
        note(f"written: {html}")
    if as_json:
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        typer.echo(orjson.dumps(asdict(card), option=options), nl=False)
    elif html is None:
        print_scorecard(console(), card)


async def load_with_past(
    database: Database, which: str | None
) -> "tuple[EvaluationRun, list[EvaluationRun]]":
    """Return a run and the comparable ones before it, oldest first.

    Raises:
        NotFoundError: There is no such run.
        InputError: The run is not graded yet, or failed.
    """
    from routoo.evaluation_runs.load import load_run  # noqa: PLC0415 - as above

    async with database.transaction() as conn:
        record = await eval_runs.find(conn, which)
        if record.state != "finished":
            raise InputError(
                "the run has no grades to report",
                value=record.state,
                remedy="Wait until `routoo-producer eval show` says finished",
            )
        earlier = await eval_runs.history(conn, record, PAST_RUNS)
        past = [await load_run(conn, one.id) for one in reversed(earlier)]
        return await load_run(conn, record.id), past
