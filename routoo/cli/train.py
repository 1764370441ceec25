"""`routoo train`: fit a predictor from outcome tables and graded answers."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routoo.cli.options import FittingOptions
from routoo.console.commands import with_options

if TYPE_CHECKING:
    from routoo.domain.tables import OutcomeTables
    from routoo.ports import Feedback
    from routoo.settings import Settings
    from routoo.training.train import TrainedPredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(FittingOptions):
    """Options of `routoo train`."""

    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")]
    items: Annotated[
        list[Path] | None, typer.Option(help="Items table (Parquet or JSONL); can be repeated.")
    ] = None
    outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes table (Parquet); can be repeated.")
    ] = None
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded answers to judge by (Parquet: item_id, model, answer); can be repeated."
        ),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(help="Learning curve to draw; learning_curve.png in OUT if unset."),
    ] = None
    curve: Annotated[
        bool, typer.Option(help="Draw the learning curve: takes about as long as the fit.")
    ] = True
    json: Annotated[
        bool, typer.Option("--json", help="Print the held-out figures as one JSON object.")
    ] = False
    from_runs: Annotated[
        bool,
        typer.Option(
            "--from-runs",
            help="Fit on graded answers of batches and runs too, never on evaluation items, and "
            "put the checkpoint into use unless it predicts evaluation items worse.",
        ),
    ] = False


@with_options(TrainOptions)
def train(options: TrainOptions) -> None:
    """Fit a predictor of quality and answer length from outcome tables.

    An interrupted training continues when the same command is given again.

    Examples:
        routoo train --items I.parquet --outcomes O.parquet --out DIR

        routoo train --items I.parquet --outcomes O.parquet --answers A.parquet --out DIR

        routoo train --backbone models/qwen --tune --items I.parquet --outcomes O.parquet --out DIR
    """
    from routoo.console.output import ConsoleFeedback
    from routoo.console.run import run_with_database
    from routoo.settings import load_settings
    from routoo.training.train import promote_if_not_worse, train_predictor

    feedback, settings = ConsoleFeedback(), load_settings()
    tables = _read_tables(options, settings, feedback)
    plot = _prepare_plot(options)
    trained = train_predictor(
        tables, options.model, options.predictor_settings(), options.out, feedback
    )
    if options.curve:
        trained.draw_learning_curve(plot)
    _print_figures(options, trained)
    if options.from_runs:
        run_with_database(
            settings,
            lambda database: promote_if_not_worse(
                database, options.out, settings, options.device, feedback
            ),
        )


def _read_tables(
    options: TrainOptions, settings: "Settings", feedback: "Feedback"
) -> "OutcomeTables":
    from routoo.console.run import run_with_database
    from routoo.errors import InputError
    from routoo.training.tables import add_graded_answers, read_tables
    from routoo.training.train import check_folder_free

    if options.from_runs:
        run_with_database(
            settings, lambda database: check_folder_free(database, options.out, settings.checkpoint)
        )
    given = options.items or options.outcomes or options.answers
    files = (
        read_tables(options.items or (), options.outcomes or (), options.answers or ())
        if given
        else None
    )
    if options.from_runs:
        return run_with_database(
            settings, lambda database: add_graded_answers(database, files, feedback)
        )
    if files is None:
        raise InputError(
            "there is nothing to fit on", remedy="Give --items and --outcomes, or --from-runs"
        )
    return files


def _prepare_plot(options: TrainOptions) -> Path:
    """Return the learning curve's file, its format checked and its folder made before the work."""
    from routoo.files import check_suffix
    from routoo.training.train import PLOT_FORMATS

    plot = options.plot or options.out / "learning_curve.png"
    check_suffix(plot, PLOT_FORMATS, "no such format to draw in")
    plot.parent.mkdir(parents=True, exist_ok=True)
    return plot


def _print_figures(options: TrainOptions, trained: "TrainedPredictor") -> None:
    from routoo.console.output import json_line, note
    from routoo.evaluation.report.section import fixed

    metrics: dict[str, Any] = trained.manifest.metrics
    mean, items = metrics["mean"], len(trained.matrix.items)
    note(
        f"{options.out}: {items} items, {len(trained.matrix.models)} models; held out: "
        f"AUC {fixed(mean['auc'])}, ECE {fixed(mean['ece'])}, Brier {fixed(mean['brier'])}"
    )
    judged, pairs = (trained.manifest.judge.get(key, {}) for key in ("probes", "pairs"))
    _note_judge(judged, len(pairs))
    if options.json:
        held_out = {key: metrics[key] for key in ("mean", "models", "calibration")}
        facts = {"out": str(options.out), "items": items, "held_out": held_out, "judged": judged}
        facts["pairs"] = list(pairs)
        typer.echo(json_line(facts))


def _note_judge(judged: dict[str, Any], pairs: int) -> None:
    """Say how well the answers of which models can be judged."""
    from routoo.console.output import note
    from routoo.evaluation.report.section import fixed

    if judged:
        before, after = (
            fmean(figures[kind]["auc"] for figures in judged.values())
            for kind in ("from_prompt", "with_answer")
        )
        note(
            f"answers of {len(judged)} models can be judged; held out, AUC of a right answer: "
            f"{fixed(before)} from the prompt, {fixed(after)} with the answer"
        )
    if pairs:
        note(f"of {pairs} pairs of models it can be judged whether their answers agree")
