"""Compares routing with the random mix of the same cost, on every table of recorded outcomes.

Each pool is predicted in five parts, every item by a fit that never saw it. Two mixes are compared
with, at 25 budgets: the one that knows the held-out outcomes (the hull of the models' means there)
and the one that could be bought, chosen by the training items' means. The first is out of
reach: with 50 models and 600 items much of its height is luck.

    python benchmarks/mix.py --data FOLDER [--pool NAME ...] [--json]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from paper_settings import SETTINGS
from rich.console import Console
from rich.table import Table

from routoo.console.output import ConsoleFeedback
from routoo.domain.tables import read_items, read_outcomes
from routoo.evaluation.bootstrap import Interval, bootstrap_weights
from routoo.evaluation.cross_fitting import PromptFeatures, cross_fit, split_items
from routoo.evaluation.quality_metrics import Quality, mean_metrics, metrics_by_model
from routoo.evaluation.report.section import fixed, with_interval
from routoo.evaluation.routing import (
    CompleteOutcomes,
    complete_outcomes,
    cost_matrix,
    priced_columns,
    route,
)
from routoo.predictor.dataset import outcome_matrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.options import Protocol
from routoo.settings import load_settings
from routoo.training.predictor_settings import PredictorSettings

_HELM = "@helm"
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Pool:
    """Models of one table; only those with prices are taken."""

    dataset: str
    name: str
    takes: Callable[[str], bool] = lambda _: True

    @property
    def label(self) -> str:
        """Name of table and pool."""
        return f"{self.dataset}: {self.name}"


def _paper_pool(dataset: str, name: str) -> tuple[str, ...]:
    return next(setting for setting in SETTINGS if setting.dataset == dataset).pools[name]


_OPEN_PRO = _paper_pool("mmlu_pro", "open of 2024")
_PAIR = ("mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview")
POOLS = (
    Pool("mmlu", "all", lambda name: not name.endswith(_HELM)),
    Pool("mmlu", "Mixtral + GPT-4", _PAIR.__contains__),
    Pool("mmlu_pro", "all"),
    Pool("mmlu_pro", "open of 2024", _OPEN_PRO.__contains__),
    Pool("mmlu_pro", "Mixtral + GPT-4o", (_OPEN_PRO[8], "gpt-4o-2024-05-13").__contains__),
    Pool("mmlu_redux", "ZeroEval", lambda name: not name.endswith(_HELM)),
    Pool("mmlu_redux", "HELM", lambda name: name.endswith(_HELM)),
    *(Pool(f"zeroeval_{name}", "all") for name in ("gsm8k", "cruxeval", "math_l5")),
    Pool("bfcl", "all"),
    Pool("llmrouter", "all"),
    Pool("routellm_gsm8k", "all"),
)


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool's figures; intervals are 95 %, by bootstrap over items."""

    pool: str
    items: int
    models: int
    auc: float
    ece: float
    gain: Interval
    """Quality above the mix that knows the outcomes, mean over the budgets."""
    lead: Interval
    """Quality above the mix that could be bought, mean over the budgets."""
    least_lead: Interval
    """The same at the budget where it is least."""
    below: int
    """Budgets at which even the upper end of the lead's interval is below 0."""


def main() -> None:
    """Measure and print."""
    options = _options()
    rows = []
    for row in _measured(options):
        rows.append(row)
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
    if not options.json:
        Console(width=150).print(_table(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of outcome tables")
    parser.add_argument("--pool", action="append", help="part of a pool's name; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the bootstrap")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Iterator[PoolFigures]:
    for pool in POOLS:
        if not options.pool or any(part in pool.label for part in options.pool):
            yield _measure(pool, options.data, options.seed)


def _measure(pool: Pool, folder: Path, seed: int) -> PoolFigures:
    """Predict a pool's items by parts, and compare their routing with the mixes."""
    paths = (folder / f"{pool.dataset}_{kind}.parquet" for kind in ("items", "outcomes"))
    items, outcomes = read_items(next(paths)), read_outcomes(next(paths))
    everything = outcome_matrix(items, outcomes)
    priced = priced_columns(cost_matrix(everything, outcomes))
    names = [
        everything.models[column] for column in priced if pool.takes(everything.models[column])
    ]
    matrix = outcome_matrix(items, outcomes, names)
    settings = PredictorSettings(cache=load_settings().embeddings)
    encoder = settings.load_encoder()
    read = PromptFeatures(settings.read_prompts(matrix, encoder, ConsoleFeedback()), encoder.width)
    parts = split_items(matrix, Protocol.RANDOM, seed)
    estimates = cross_fit(matrix, lambda _: read, parts, FitOptions(seed=seed))
    costs = cost_matrix(matrix, outcomes)
    rows, trial = complete_outcomes(matrix, costs, list(range(len(matrix.models))))
    quality = {name: one[rows] for name, one in estimates.items()}
    metrics = mean_metrics(metrics_by_model(matrix.score, estimates["predictor"], matrix.models))
    gain, lead, least, below = _compare_with_mixes(trial, quality, seed)
    size = (len(rows), len(matrix.models))
    return PoolFigures(pool.label, *size, metrics["auc"], metrics["ece"], gain, lead, least, below)


def _compare_with_mixes(
    trial: CompleteOutcomes, quality: dict[str, Quality], seed: int
) -> tuple[Interval, Interval, Interval, int]:
    weights = bootstrap_weights(len(trial.score), seed)
    mixes = trial.mixes(weights)
    ours, bought = (
        route(trial, quality[name]).gain(mixes, weights) for name in ("predictor", "model_mean")
    )
    lead = ours - bought
    least = int(lead[0].argmin())
    below = int((np.quantile(lead[1:], 0.975, axis=0) < -_ROUNDING).sum())
    mean = (Interval.of(one.mean(axis=1)) for one in (ours, lead))
    return next(mean), next(mean), Interval.of(lead[:, least]), below


def _table(rows: list[PoolFigures]) -> Table:
    table = Table("pool", "items", "models", "AUC", "ECE", "gain", "lead", "least lead", "below")
    for one in rows:
        figures = [fixed(one.auc), fixed(one.ece)]
        gains = [with_interval(gain) for gain in (one.gain, one.lead, one.least_lead)]
        row = (one.pool, f"{one.items:,}", f"{one.models}", *figures, *gains, f"{one.below}")
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
