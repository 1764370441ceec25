"""Measuring a predictor as `routoo evaluate` was told, and showing the figures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import typer

from routoo.cli.evaluate_options import EvaluateOptions
from routoo.console.output import console, messages
from routoo.console.progress import counted
from routoo.console.scorecard_tables import print_calibration, print_scorecard
from routoo.domain.tables import Outcomes, read_items, read_outcomes
from routoo.errors import InputError
from routoo.evaluation.build_scorecard import EvaluationData, build_scorecard
from routoo.evaluation.cross_fitting import domain_quality, knn_quality, mean_quality
from routoo.evaluation.quality_metrics import Quality, calibration_report
from routoo.evaluation.report.page import render_page
from routoo.evaluation.routing import cost_matrix, latency_matrix
from routoo.evaluation.scorecard import Scorecard
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.manifest import read_manifest
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.training.cross_fit import cross_estimates
from routoo.training.predictor_settings import cache_folder


def assess(options: EvaluateOptions) -> None:
    """Measure a predictor on held-out outcomes, and print or write its scorecard.

    Raises:
        InputError: There is nothing to evaluate, or the tables don't do for it.
        CheckpointError: The checkpoint can't be read.
    """
    table = read_outcomes(*options.outcomes)
    matrix, estimates = _estimates(options, table)
    evidence = _evidence(matrix, table, estimates)
    try:
        card = build_scorecard(
            "Router evaluation",
            _facts(options, matrix),
            evidence,
            options.seed,
            reference=options.reference,
        )
    except InputError as error:
        if options.html is not None:
            raise
        messages().print(f"no routing figures: {error}")
        _show_calibration(matrix, estimates["predictor"], options.seed, as_json=options.json)
        return
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(render_page(card), encoding="utf-8", errors="replace")
    _show(card, as_json=options.json)


def _estimates(
    options: EvaluateOptions, table: Outcomes
) -> tuple[OutcomeMatrix, dict[str, Quality]]:
    rows = read_items(*options.items)
    if bool(options.train_items) != bool(options.train_outcomes):
        raise InputError(
            "one of two tables is missing", remedy="Give --train-items and --train-outcomes"
        )
    if options.checkpoint is not None:
        _check_nothing_is_fitted(options)
        known, models = set(table.models), read_manifest(options.checkpoint).models
        matrix = outcome_matrix(
            rows, table, options.model or [name for name in models if name in known]
        )
        _check_reference(options, matrix)
        if left_out := sorted(known - set(models)):
            messages().print(f"left out, the checkpoint doesn't know them: {', '.join(left_out)}")
        return matrix, _of_checkpoint(options.checkpoint, matrix, options)
    if options.protocol is not None:
        matrix = outcome_matrix(rows, table, options.model)
        _check_reference(options, matrix)
        return matrix, cross_estimates(matrix, options.protocol, options)
    raise InputError(
        "there is nothing to evaluate",
        remedy="Give --checkpoint, or --protocol to fit anew on these tables",
    )


def _check_nothing_is_fitted(options: EvaluateOptions) -> None:
    protocol = ["--protocol"] if options.protocol is not None else []
    ignored = protocol + options.departures
    if ignored:
        raise InputError(
            "a checkpoint is evaluated as it was fitted",
            value=", ".join(ignored),
            remedy="Leave these options out, or --checkpoint to fit anew by a protocol",
        )


def _check_reference(options: EvaluateOptions, matrix: OutcomeMatrix) -> None:
    if options.reference is not None and options.reference not in matrix.models:
        raise InputError(
            "no such model to compare with",
            value=options.reference,
            where="--reference",
            remedy=f"Choose from {', '.join(matrix.models)}",
        )


def _facts(options: EvaluateOptions, matrix: OutcomeMatrix) -> dict[str, str]:
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


def _of_checkpoint(
    checkpoint: Path, matrix: OutcomeMatrix, options: EvaluateOptions
) -> dict[str, Quality]:
    screen = messages()
    cache = cache_folder(options)
    predictor = load_predictor(checkpoint, device=options.device, cache=cache)
    with counted(screen, "Predicting", len(matrix.items)) as progress:
        quality = predictor.predict(matrix.prompts, matrix.models, progress).quality
    if known := int(predictor.remembers(matrix.prompts).sum()):
        screen.print(
            f"warning: {known:,} of {len(matrix.items):,} prompts are, word for word or nearly so, "
            "among those the checkpoint was trained on: there its figures flatter"
        )
    if not options.train_items or not options.train_outcomes:
        return {"predictor": quality}
    train = outcome_matrix(
        read_items(*options.train_items), read_outcomes(*options.train_outcomes), matrix.models
    )
    return {"predictor": quality} | _baselines(predictor, train, matrix)


def _evidence(
    matrix: OutcomeMatrix, table: Outcomes, estimates: dict[str, Quality]
) -> EvaluationData:
    return EvaluationData(
        matrix, cost_matrix(matrix, table), latency_matrix(matrix, table), estimates
    )


def _baselines(
    predictor: CheckpointPredictor, train: OutcomeMatrix, held: OutcomeMatrix
) -> dict[str, Quality]:
    known, asked = predictor.features(train.prompts), predictor.features(held.prompts)
    return {
        "knn": knn_quality(known, train.score, asked),
        "model_mean": mean_quality(train, held),
        "true_domain_mean": domain_quality(train, held),
    }


def _show(card: Scorecard, *, as_json: bool) -> None:
    if card.pool and card.pool.items < int(card.facts["items"].replace(",", "")):
        messages().print(
            f"routed are the {card.pool.items:,} items that all models answered at a known cost, "
            f"of {card.facts['items']}"
        )
    if as_json:
        _echo(asdict(card))
    else:
        print_scorecard(console(), card)


def _show_calibration(matrix: OutcomeMatrix, quality: Quality, seed: int, *, as_json: bool) -> None:
    by_model, mean = calibration_report(matrix, quality, seed)
    if as_json:
        _echo({"items": len(matrix.items), "models": by_model, "mean": mean})
    else:
        print_calibration(console(), by_model, mean)


def _echo(report: dict[str, Any]) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    typer.echo(orjson.dumps(report, option=options).decode())
