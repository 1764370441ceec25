"""`routoo evaluate`: measure a predictor on outcomes it was not trained on."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routoo.cli.options import FittingOptions
from routoo.console.commands import with_options
from routoo.predictor.options import Protocol

if TYPE_CHECKING:
    from routoo.domain.tables import OutcomeTables
    from routoo.evaluation.judged_answers import JudgedAnswers
    from routoo.evaluation.quality_metrics import Quality
    from routoo.evaluation.scorecard import EvaluationData, Scorecard
    from routoo.predictor.dataset import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(FittingOptions):
    """Options of `routoo evaluate`."""

    items: Annotated[list[Path], typer.Option(help="Held-out items table; can be repeated.")]
    outcomes: Annotated[list[Path], typer.Option(help="Held-out outcomes table; can be repeated.")]
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that `routoo train` wrote; or give --protocol.")
    ] = None
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="Fit anew on the rest of these tables, a part held out at a time."),
    ] = None
    train_items: Annotated[
        list[Path] | None, typer.Option(help="Items it was trained on: adds kNN and domain means.")
    ] = None
    train_outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes it was trained on.")
    ] = None
    reference: Annotated[
        str | None, typer.Option(help="Model to compare with; the best single one if unset.")
    ] = None
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded answers of the items, to judge; can be repeated."),
    ] = None
    decisions: Annotated[
        Path | None,
        typer.Option(help="Write what is decided for each item at 25 budgets (Parquet)."),
    ] = None
    html: Annotated[
        Path | None, typer.Option(help="Write the whole report to this one HTML file.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False


@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    r"""Print AUC, Brier, ECE and routed quality beside baselines, with 95 % intervals.

    Examples:
        routoo evaluate --checkpoint DIR --items I.parquet --outcomes O.parquet

        routoo evaluate --checkpoint DIR --items I.parquet --outcomes O.parquet \
            --reference mixtral-8x7b-instruct-v0.1 --html report.html

        routoo evaluate --checkpoint DIR --items I.parquet --outcomes O.parquet \
            --answers A.parquet --model cheap --model strong --decisions D.parquet

        routoo evaluate --protocol domains --items I.parquet --outcomes O.parquet

        routoo evaluate --protocol random --backbone models/qwen --pooling both \
            --suffix '\nAnswer:' --items I.parquet --outcomes O.parquet
    """
    from routoo.console.output import note
    from routoo.errors import InputError
    from routoo.evaluation.scorecard import EvaluationData, build_scorecard
    from routoo.training.tables import read_tables

    _check_answers(options)
    tables = read_tables(options.items, options.outcomes)
    matrix, estimates = _estimate(options, tables)
    data = EvaluationData.of(tables, matrix, estimates)
    facts, judged = _facts(options, matrix), _judge_answers(options, data)
    cascade = None
    if judged is not None:
        cascade, data = judged.report, replace(data, judged=judged.known)
    try:
        card = build_scorecard(
            "Router evaluation", facts, data, options.seed, reference=options.reference
        )
    except InputError as error:
        if options.html is not None:
            raise
        note(f"no routing figures: {error}")
        _print_calibration(matrix, estimates["predictor"], options.seed, as_json=options.json)
        return
    card = replace(card, cascade=cascade)
    if options.html is not None:
        _write_html(options.html, card)
    _print_scorecard(card, as_json=options.json)


def _check_answers(options: EvaluateOptions) -> None:
    """Check that answers come with a checkpoint, and decisions with answers."""
    from routoo.errors import InputError
    from routoo.files import check_suffix

    if options.answers and options.checkpoint is None:
        raise InputError(
            "answers are judged by a checkpoint", remedy="Give --checkpoint, not --protocol"
        )
    if options.decisions is not None:
        check_suffix(options.decisions, (".parquet",), "decisions are written as Parquet")
        if not options.answers:
            raise InputError("there are no answers to decide by", remedy="Give --answers")


def _judge_answers(options: EvaluateOptions, data: "EvaluationData") -> "JudgedAnswers | None":
    """Judge the recorded answers and write the decisions; None where there are none."""
    from routoo.console.output import ConsoleFeedback
    from routoo.domain.tables import read_answers
    from routoo.evaluation.judged_answers import judge_by_checkpoint, write_decisions
    from routoo.judge.files import load_judge
    from routoo.predictor.predictor import load_predictor

    if not options.answers or options.checkpoint is None:
        return None
    judge = load_judge(options.checkpoint)
    predictor = load_predictor(options.checkpoint, device=options.device, cache=options.embeddings)
    answers = read_answers(*options.answers)
    judged = judge_by_checkpoint(
        judge, predictor, data, answers, ConsoleFeedback(), seed=options.seed
    )
    if options.decisions is not None:
        write_decisions(options.decisions, judged.known, judged.items, judged.models)
    return judged


def _estimate(
    options: EvaluateOptions, tables: "OutcomeTables"
) -> "tuple[OutcomeMatrix, dict[str, Quality]]":
    from routoo.errors import InputError

    if bool(options.train_items) != bool(options.train_outcomes):
        raise InputError(
            "one of two tables is missing", remedy="Give --train-items and --train-outcomes"
        )
    if options.checkpoint is not None:
        return _estimate_by_checkpoint(options, options.checkpoint, tables)
    if options.protocol is not None:
        return _estimate_by_protocol(options, options.protocol, tables)
    raise InputError(
        "there is nothing to evaluate",
        remedy="Give --checkpoint, or --protocol to fit anew on these tables",
    )


def _estimate_by_checkpoint(
    options: EvaluateOptions, checkpoint: Path, tables: "OutcomeTables"
) -> "tuple[OutcomeMatrix, dict[str, Quality]]":
    from routoo.console.output import ConsoleFeedback
    from routoo.evaluation.cross_fitting import estimate_by_checkpoint
    from routoo.predictor.dataset import outcome_matrix
    from routoo.predictor.manifest import read_manifest
    from routoo.training.tables import read_tables

    _check_nothing_is_fitted(options)
    feedback = ConsoleFeedback()
    given, known = set(tables.outcomes.models), read_manifest(checkpoint).models
    models = options.model or [name for name in known if name in given]
    matrix = outcome_matrix(tables.items, tables.outcomes, models)
    _check_reference(options, matrix)
    if left_out := sorted(given - set(known)):
        feedback.note(f"left out, the checkpoint doesn't know them: {', '.join(left_out)}")
    trained_on = None
    if options.train_items and options.train_outcomes:
        trained_on = read_tables(options.train_items, options.train_outcomes)
    return matrix, estimate_by_checkpoint(
        checkpoint, matrix, trained_on, feedback, device=options.device, cache=options.embeddings
    )


def _estimate_by_protocol(
    options: EvaluateOptions, protocol: Protocol, tables: "OutcomeTables"
) -> "tuple[OutcomeMatrix, dict[str, Quality]]":
    from routoo.console.output import ConsoleFeedback
    from routoo.evaluation.cross_fitting import FeatureReader, estimate_by_protocol
    from routoo.predictor.dataset import outcome_matrix
    from routoo.settings import load_settings
    from routoo.training.tune import prompt_reader

    matrix = outcome_matrix(tables.items, tables.outcomes, options.model)
    _check_reference(options, matrix)
    settings, feedback = options.predictor_settings(), ConsoleFeedback()
    tunings = load_settings().home / "cache" / "tuning"

    def make_reader(matrix: "OutcomeMatrix") -> FeatureReader:
        return prompt_reader(matrix, settings, tunings, feedback)

    return matrix, estimate_by_protocol(matrix, protocol, settings.fit, make_reader, feedback)


def _check_nothing_is_fitted(options: EvaluateOptions) -> None:
    from routoo.errors import InputError

    protocol = ["--protocol"] if options.protocol is not None else []
    if ignored := protocol + options.changed_fit_options():
        raise InputError(
            "a checkpoint is evaluated as it was fitted",
            value=", ".join(ignored),
            remedy="Leave these options out, or --checkpoint to fit anew by a protocol",
        )


def _check_reference(options: EvaluateOptions, matrix: "OutcomeMatrix") -> None:
    from routoo.errors import InputError

    if options.reference is not None and options.reference not in matrix.models:
        raise InputError(
            "no such model to compare with",
            value=options.reference,
            where="--reference",
            remedy=f"Choose from {', '.join(matrix.models)}",
        )


def _facts(options: EvaluateOptions, matrix: "OutcomeMatrix") -> dict[str, str]:
    if options.checkpoint is not None:
        what = options.checkpoint.name
    else:
        what = f"none, protocol {options.protocol}, backbone {Path(options.backbone).name}"
    return {
        "checkpoint": what,
        "items": f"{len(matrix.items):,}",
        "data": ", ".join(path.name for path in options.outcomes),
        "seed": str(options.seed),
    }


def _write_html(path: Path, card: "Scorecard") -> None:
    from routoo.evaluation.report.page import render_page

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(card), encoding="utf-8", errors="replace")


def _print_scorecard(card: "Scorecard", *, as_json: bool) -> None:
    from routoo.console.output import console, note
    from routoo.console.scorecard_tables import print_cascade, print_scorecard

    if card.pool and card.pool.items < int(card.facts["items"].replace(",", "")):
        note(
            f"routed are the {card.pool.items:,} items that all models answered at a known cost, "
            f"of {card.facts['items']}"
        )
    if as_json:
        _echo_json(asdict(card))
        return
    print_scorecard(console(), card)
    if card.cascade is not None:
        print_cascade(console(), card.cascade)


def _print_calibration(
    matrix: "OutcomeMatrix", quality: "Quality", seed: int, *, as_json: bool
) -> None:
    from routoo.console.output import console
    from routoo.console.scorecard_tables import print_calibration
    from routoo.evaluation.quality_metrics import calibration_report

    by_model, mean = calibration_report(matrix, quality, seed)
    if as_json:
        _echo_json({"items": len(matrix.items), "models": by_model, "mean": mean})
    else:
        print_calibration(console(), by_model, mean)


def _echo_json(report: dict[str, Any]) -> None:
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    typer.echo(orjson.dumps(report, option=options).decode())
