"""Measures the general checkpoint on models that it was never shown.

Some models of the tables in ROUTOO_DATA_DIR, and 30 % of the items, are kept out of the whole fit.
Then pools of these models are routed on these items with 0, 20, 50 and 200 graded answers a model,
beside the best random mix of the single models at equal cost (which knows their true means), a
predictor that is trained on all other items' answers of the pool, and the mean alone of the same
graded answers. Costs are those of the tables. Prints a table and writes JSON.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.general_tables import GeneralTables, read_general_tables
from routoo.console.output import ConsoleFeedback
from routoo.evaluation.routing import CompleteOutcomes, complete_outcomes, route
from routoo.predictor.added_models import Posterior, fit_posterior, mean_of_fitted
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, fit_estimator
from routoo.predictor.reference_models import Placement, ReferenceModels
from routoo.settings import load_settings
from routoo.training.general import GeneralPredictor, fit_general
from routoo.training.predictor_settings import PredictorSettings

ANSWERS = (0, 20, 50, 200)
DRAWS = 8
HELD_OUT_SHARE = 0.3
MIN_ANSWERS = 200
"""Fewer answers place no model on a table that was left out."""


@dataclass(frozen=True, slots=True)
class HeldOutPool:
    """Models that are routed though the general checkpoint never saw them."""

    table: str
    models: tuple[str, ...]
    like: tuple[str, ...]
    """A reference model for each, such as its forerunner."""


POOLS = (
    HeldOutPool(
        "mmlu_pro",
        ("meta-llama-3.1-8b-instruct", "meta-llama-3.1-70b-instruct", "gpt-4o-2024-05-13"),
        ("meta-llama-3-8b", "meta-llama-3-70b", "gemini-1.5-pro-002"),
    ),
    HeldOutPool(
        "mmlu_pro",
        ("phi-3-mini-4k-instruct", "mixtral-8x7b-instruct-v0.1", "qwen1.5-72b-chat"),
        ("meta-llama-3-8b", "mixtral-8x7b-v0.1", "qwen1.5-110b"),
    ),
    HeldOutPool(
        "mmlu_redux",
        ("qwen2-7b-instruct", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20240620"),
        ("meta-llama-3-8b-instruct", "gemini-1.5-flash", "gpt-4o-2024-08-06"),
    ),
    HeldOutPool(
        "zeroeval_cruxeval",
        ("qwen2-7b-instruct", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20240620"),
        ("meta-llama-3-8b-instruct", "gemini-1.5-flash", "gpt-4o-2024-08-06"),
    ),
    HeldOutPool(
        "llmrouter",
        ("mistral-7b-instruct-v0.3", "gemma-2-9b-it", "llama-3.3-nemotron-super-49b-v1"),
        ("qwen2.5-7b-instruct", "qwen2.5-7b-instruct", "llama-3.1-nemotron-51b-instruct"),
    ),
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The tables with features, and which items are kept out."""

    tables: GeneralTables
    features: np.ndarray
    hidden: int
    test: np.ndarray


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    if options.new_kind:
        for table in options.new_kind:
            print(json.dumps(_new_kind(_prepare(options.cache), table)), flush=True)
        return
    begun_s = time.process_time()
    prepared = _prepare(options.cache)
    general = _fit_without(prepared)
    fit_s = time.process_time() - begun_s
    rows = [row for pool in POOLS for row in _measure(prepared, general, pool)]
    report = {"draws": DRAWS, "fit_cpu_s": round(fit_s, 1), "rows": rows}
    print(f"general fit: {fit_s:.0f} CPU seconds with reading; {len(general.references)} models")
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="folder of cached embeddings")
    parser.add_argument("--json", type=Path, help="file of the figures")
    parser.add_argument("--new-kind", nargs="*", help="instead: fit without these tables, in turn")
    return parser.parse_args()


def _prepare(cache: Path | None) -> Prepared:
    tables = read_general_tables()
    settings = PredictorSettings(cache=cache or load_settings().embeddings)
    encoder = settings.load_encoder()
    features = settings.read_prompts(tables.matrix, encoder, ConsoleFeedback())
    drawn = [_share(item.prompt) < HELD_OUT_SHARE for item in tables.matrix.items]
    return Prepared(tables, features, encoder.width, np.array(drawn))


def _share(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def _fit_without(prepared: Prepared) -> GeneralPredictor:
    """Fit the general predictor without the pools' models and without the test items."""
    matrix = prepared.tables.matrix
    hidden = {name for pool in POOLS for name in pool.models}
    columns = [n for n, name in enumerate(matrix.models) if name not in hidden]
    part = replace(
        matrix,
        models=tuple(matrix.models[n] for n in columns),
        score=matrix.score[:, columns],
        completion_tokens=matrix.completion_tokens[:, columns],
    )
    rows = np.flatnonzero(~prepared.test & ~np.isnan(part.score).all(axis=1))
    facts = {name: prepared.tables.facts[name] for name in part.models}
    feedback = ConsoleFeedback()
    features = prepared.features[rows]
    return fit_general(part.take(rows), features, prepared.hidden, facts, FitOptions(), feedback)


def _new_kind(prepared: Prepared, table: str) -> dict[str, Any]:
    """Fit without a table, and tell how its models' vectors there differ from those elsewhere."""
    matrix = prepared.tables.matrix
    its = np.array([item.dataset == table for item in matrix.items])
    known = (~np.isnan(matrix.score[~its])).sum(axis=0)
    columns = np.flatnonzero(known >= MIN_ANSWERS)
    part = replace(
        matrix,
        models=tuple(matrix.models[n] for n in columns),
        score=matrix.score[:, columns],
        completion_tokens=matrix.completion_tokens[:, columns],
    )
    facts = {name: prepared.tables.facts[name] for name in part.models}
    rows, options, feedback = np.flatnonzero(~its), FitOptions(folds=3), ConsoleFeedback()
    features = prepared.features[rows]
    general = fit_general(part.take(rows), features, prepared.hidden, facts, options, feedback)
    estimator, references = general.estimator, general.estimator.references
    assert isinstance(references, ReferenceModels)
    inputs = estimator.projection.apply(prepared.features[its])
    departure = estimator.departure(inputs, seen=False)
    moved = []
    for row, name in enumerate(general.references):
        score = matrix.score[its, matrix.models.index(name)]
        answered = ~np.isnan(score)
        if answered.sum() >= MIN_ANSWERS:
            prior = mean_of_fitted(estimator.neighbours.means)
            wide = Posterior(prior.theta, np.diag(np.diag(prior.covariance) * 4))
            found = fit_posterior(departure[answered], score[answered], wide)
            moved.append((found.theta[0] - references.theta[row, 0], found.theta[1]))
    shifts, slopes = np.array(moved).T
    novelty = estimator.novelty(estimator.neighbours.nearby(inputs).similarity)
    return {
        "table": table,
        "models": len(moved),
        "novelty": float(novelty.mean()),
        "level_shift": float(shifts.mean()),
        "level_shift_deviation": float(shifts.std()),
        "slope": float(slopes.mean()),
        "slope_deviation": float(slopes.std()),
    }


def _measure(
    prepared: Prepared, general: GeneralPredictor, pool: HeldOutPool
) -> list[dict[str, Any]]:
    """Return a row for each way to know the pool's models."""
    train, test, costs = _pool_data(prepared, pool)
    row = {item.item_id: n for n, item in enumerate(prepared.tables.matrix.items)}
    features = {
        name: prepared.features[[row[item.item_id] for item in part.items]]
        for name, part in (("train", train), ("test", test))
    }
    _, outcomes = complete_outcomes(test, costs, list(range(len(pool.models))))
    truth = test.score.mean(axis=0)
    rows = []
    for kind, placements in _placements(general, prepared.tables.facts, pool).items():
        for count in ANSWERS:
            draws = range(DRAWS if count else 1)
            found = [
                _placed(general.estimator, placements, train, features, count, draw)
                for draw in draws
            ]
            rows.append(_figures(pool, kind, count, outcomes, truth, found))
    full = _fully_trained(train, features, prepared.hidden)
    rows.append(_figures(pool, "full training", len(train.items), outcomes, truth, [full]))
    return rows


def _pool_data(
    prepared: Prepared, pool: HeldOutPool
) -> tuple[OutcomeMatrix, OutcomeMatrix, np.ndarray]:
    """Return the training and test outcomes of a pool, complete ones, and the test's costs."""
    matrix = prepared.tables.matrix
    columns = [matrix.models.index(name) for name in pool.models]
    its = np.array([item.dataset == pool.table for item in matrix.items])
    score, cost = matrix.score[:, columns], prepared.tables.cost_usd[:, columns]
    whole = its & ~np.isnan(score).any(axis=1) & ~np.isnan(cost).any(axis=1)
    part = replace(
        matrix,
        models=pool.models,
        score=score,
        completion_tokens=matrix.completion_tokens[:, columns],
    )
    test = np.flatnonzero(whole & prepared.test)
    return part.take(np.flatnonzero(whole & ~prepared.test)), part.take(test), cost[test]


def _placements(
    general: GeneralPredictor, facts: Mapping[str, Mapping[str, float]], pool: HeldOutPool
) -> dict[str, list[Placement]]:
    """Return the pool's placements by kind of prior."""
    references = general.estimator.references
    assert isinstance(references, ReferenceModels)
    benchmark = {"mmlu_pro": "mmlu_pro", "mmlu_redux": "mmlu_redux"}.get(pool.table, "cruxeval")
    kinds: dict[str, list[Placement]] = {
        "like": [
            references.place_like(general.references.index(name), same=False) for name in pool.like
        ]
    }
    known = [facts[name] for name in pool.models]
    sizes = ("parameters_b", "completion_usd_per_mtok")
    # Public scores of other benchmarks than the one that is routed; without any, the price.
    others = [{k: v for k, v in one.items() if k not in {benchmark, *sizes}} for one in known]
    kinds["scores"] = [
        references.place(others[n] or _first(one, sizes[1:])) for n, one in enumerate(known)
    ]
    kinds["size"] = [
        references.place(_first(one, ("parameters_b", "completion_usd_per_mtok"))) for one in known
    ]
    kinds["price"] = [references.place(_first(one, sizes[1:])) for one in known]
    return kinds


def _first(facts: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return next(({name: facts[name]} for name in names if name in facts), {})


def _placed(
    estimator: Estimator,
    placements: Sequence[Placement],
    train: OutcomeMatrix,
    features: Mapping[str, np.ndarray],
    count: int,
    draw: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return quality and its deviation on the test items after so many graded answers."""
    drawn = np.random.default_rng(draw).permutation(len(train.items))[:count]
    inputs = estimator.projection.apply(features["train"][drawn])
    for column, placement in enumerate(placements):
        score = train.score[drawn, column]
        lengths = train.completion_tokens[drawn, column]
        estimator = estimator.add_model(inputs, score, lengths, placement)
    found = estimator(features["test"])
    models = len(placements)
    return found.quality[:, -models:], found.quality_std[:, -models:]


def _fully_trained(
    train: OutcomeMatrix, features: Mapping[str, np.ndarray], hidden: int
) -> tuple[np.ndarray, np.ndarray]:
    fitted = fit_estimator(train, features["train"], hidden, FitOptions())
    found = fitted.estimator(features["test"])
    return found.quality, found.quality_std


def _figures(
    pool: HeldOutPool,
    kind: str,
    count: int,
    outcomes: CompleteOutcomes,
    truth: np.ndarray,
    found: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Return routed quality over the range of budgets beside the random mix, mean of the draws."""
    weights = np.full((1, len(outcomes.score)), 1 / len(outcomes.score))
    mixes = outcomes.mixes(weights)
    gains, qualities, errors, inside = [], [], [], []
    for quality, deviation in found:
        curve = route(outcomes, quality)
        gains.append(float(curve.gain(mixes, weights).mean()))
        qualities.append(float(curve.quality(weights).mean()))
        off = quality.mean(axis=0) - truth
        errors.append(float(np.sqrt(np.mean(off**2))))
        inside.append(float(np.mean(np.abs(off) <= 1.96 * deviation.mean(axis=0))))
    oracle = float(route(outcomes, outcomes.score).gain(mixes, weights).mean())
    return {
        "table": pool.table,
        "models": list(pool.models),
        "prior": kind,
        "answers": count,
        "test_items": len(outcomes.score),
        "routed_quality": float(np.mean(qualities)),
        "gain_over_mix": float(np.mean(gains)),
        "gain_deviation": float(np.std(gains)),
        "oracle_gain": oracle,
        "level_rmse": float(np.mean(errors)),
        "level_in_interval": float(np.mean(inside)),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["table | prior | answers | routed | over mix | oracle | level RMSE | in 95 %"]
    lines += [
        f"{row['table']} {row['models'][0][:12]} | {row['prior']} | {row['answers']} | "
        f"{row['routed_quality']:.3f} | {row['gain_over_mix']:+.3f} "
        f"({row['gain_deviation']:.3f}) | {row['oracle_gain']:+.3f} | "
        f"{row['level_rmse']:.3f} | {row['level_in_interval']:.2f}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
