"""`routoo evaluate`: how good a predictor is on outcomes it was not trained on."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table

from routoo.cli.progress import counted
from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import InputError
from routoo.evaluation.baselines import domain_quality, knn_quality
from routoo.evaluation.report import (
    Interval,
    Quality,
    best_single,
    calibration_report,
    routing_report,
)
from routoo.evaluation.trials import complete_trial, cost_matrix, priced_columns
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, outcome_matrix
from routoo.predictor.manifest import read_manifest
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.settings import load_settings

Figures = dict[str, dict[str, Interval]]


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `routoo train` wrote.")],
    items: Annotated[list[Path], typer.Option(help="Held-out items table; repeatable.")],
    outcomes: Annotated[list[Path], typer.Option(help="Held-out outcomes table; repeatable.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; repeatable.")
    ] = None,
    train_items: Annotated[
        list[Path] | None, typer.Option(help="Items it was trained on: adds kNN and domain means.")
    ] = None,
    train_outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes it was trained on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    *,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object instead of tables.")
    ] = False,
) -> None:
    """Print AUC, Brier, ECE and routed quality beside baselines, with 95 % intervals."""
    console = Console(stderr=True)
    table = read_outcomes(*outcomes)
    known = set(table.models)
    models = model or [name for name in read_manifest(checkpoint).models if name in known]
    matrix = outcome_matrix(read_items(*items), table, models)
    cache = load_settings().home / "cache" / "embeddings"
    predictor = load_predictor(checkpoint, device=device, cache=cache)
    if content_sha256(matrix) == predictor.manifest.data_sha256:
        console.print("warning: these are the outcomes the checkpoint was trained on")
    with counted(console, "Predicting", len(matrix.items)) as progress:
        quality = predictor.predict(matrix.prompts, matrix.models, progress).quality
    estimates = {"predictor": quality}
    if train_items and train_outcomes:
        train = outcome_matrix(read_items(*train_items), read_outcomes(*train_outcomes), models)
        estimates |= _baselines(predictor, train, matrix)
    by_model, mean = calibration_report(matrix, quality, seed)
    report: dict[str, Any] = {"items": len(matrix.items), "models": by_model, "mean": mean}
    try:
        report |= _routing(matrix, cost_matrix(matrix, table), estimates, seed)
    except InputError as error:
        console.print(f"no routing figures: {error}", markup=False)
    _print(report, as_json=json)


def _routing(
    matrix: OutcomeMatrix,
    costs: Float64[np.ndarray, "items models"],
    estimates: Mapping[str, Quality],
    seed: int,
) -> dict[str, Any]:
    columns = priced_columns(costs)
    rows, trial = complete_trial(matrix, costs, columns)
    priced = {name: quality[rows][:, columns] for name, quality in estimates.items()}
    best, score = best_single(trial)
    return {
        "routing": routing_report(trial, priced, seed),
        "routing_items": len(rows),
        "best_single": {"model": matrix.models[columns[best]], "score": score},
    }


def _baselines(
    predictor: CheckpointPredictor, train: OutcomeMatrix, held: OutcomeMatrix
) -> dict[str, Quality]:
    known, asked = predictor.features(train.prompts), predictor.features(held.prompts)
    return {
        "knn": knn_quality(known, train.score, asked),
        "true_domain_mean": domain_quality(train, held),
    }


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        plain = orjson.dumps(report, default=asdict, option=orjson.OPT_INDENT_2)
        typer.echo(plain.decode())
        return
    console = Console()
    table = Table("model", "AUC", "Brier", "ECE", "mean score", "outcomes")
    for name, row in report["models"].items():
        figures = [f"{row[key]:.3f}" for key in ("auc", "brier", "ece", "mean_score")]
        table.add_row(name, *figures, f"{row['outcomes']:.0f}")
    table.add_row("mean", *(_shown(report["mean"][key]) for key in ("auc", "brier", "ece")), "", "")
    console.print(table)
    if "routing" in report:
        console.print(_routing_table(report["routing"]))
        best = report["best_single"]
        console.print(f"best single model: {best['model']} {best['score']:.3f}")


def _routing_table(figures: Figures) -> Table:
    names = ("gain", "least_gain", "aiq", "headroom")
    table = Table("routed by", "mean gain over the mix", "least gain", "AIQ", "headroom")
    for name, row in figures.items():
        table.add_row(name, *(_shown(row[key]) for key in names))
    return table


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
