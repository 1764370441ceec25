"""Measures the paper's table: a router over pools of real models, on recorded outcomes.

    python benchmarks/paper.py --data ../shared/data [--dataset mmlu] [--protocol random] [--json]

For each data set and protocol a router is trained by `routoo train`, and routes the held-out fifth
over the pool's whole range of budgets; every figure stands beside the same figure of the random mix
at equal cost (what the pool gives) and of the best single model. Where answers are recorded, a
judge is trained of them too, and the figures of probing and deciding are printed beside. Then the
same held-out items go through the whole pipeline, and must agree. docs/paper.md has the definitions
and what was found. The data are not part of the repository: the folder has NAME_items.parquet,
NAME_outcomes.parquet, models.csv and, where answers are recorded, NAME_answers.parquet.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from figures import show
from paper_figures import Case, measure, write_page
from paper_pipeline import agreement
from paper_router import ask_router, judge_answers, train_router
from paper_settings import (
    PROTOCOLS,
    SETTINGS,
    Setting,
    Table,
    other_data,
    part,
    read_table,
    split,
    with_answers,
)

from routoo.settings import load_settings

COMPLETE = 0.97
"""Share of the items that a model must have answered to be in a pool."""
POOLS = sorted({name for setting in SETTINGS for name in setting.pools})
WAYS = ["library", "pipeline"]
"""The table by the library alone; and every item through the real programs, and compared."""


def main() -> None:
    """Measure and print."""
    options = _options()
    if not options.data.is_dir():
        sys.exit(f"error: no folder {options.data}: name one with --data")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for setting in SETTINGS:
        for protocol in PROTOCOLS:
            if setting.dataset in options.dataset and protocol in options.protocol:
                for case, checkpoint in cases(setting, protocol, options):
                    _take(case, checkpoint, options)


def _take(case: Case, checkpoint: Path, options: argparse.Namespace) -> None:
    """Measure one case as the options say, and print."""
    if "library" in options.through:
        costs = case.trial()[1].cost_usd.mean(axis=0)
        known = judge_answers(checkpoint, case.held, case.models, costs, options.work)
        show(measure(case, options.seed, known), as_json=options.json)
        if options.html is not None:
            write_page(case, options.html, options.seed, known)
    if "pipeline" in options.through:
        asked = thinned(case, options.pipeline_items, options.seed)
        prices = _prices(case.setting, options)
        show(agreement(asked, checkpoint, prices, options.work), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [setting.dataset for setting in SETTINGS]
    home = load_settings().home / "benchmarks" / "paper"
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--dataset", action="append", choices=names, help="default: all")
    parser.add_argument("--protocol", action="append", choices=list(PROTOCOLS), help="default: all")
    parser.add_argument("--work", type=Path, default=home, help="keeps checkpoints, embeddings")
    parser.add_argument("--train-items", type=int, help="train on so many, drawn at random")
    parser.add_argument("--html", type=Path, help="folder that gets a page a pool")
    parser.add_argument("--pool", action="append", choices=POOLS, help="default: all")
    parser.add_argument("--through", action="append", choices=WAYS, help="default: both")
    parser.add_argument("--pipeline-items", type=int, help="so many at random; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    options.dataset = options.dataset or names
    options.protocol = options.protocol or list(PROTOCOLS)
    options.pool, options.through = options.pool or POOLS, options.through or WAYS
    return options


def cases(
    setting: Setting, protocol: str, options: argparse.Namespace
) -> Iterator[tuple[Case, Path]]:
    """Train for one setting and protocol, and yield each pool's expectations and the checkpoint."""
    table = read_table(options.data, setting.dataset)
    models = _complete_models(table)
    if protocol == "transfer":
        if not setting.sources:
            print(f"# {setting.dataset}: no outcomes of its models elsewhere", file=sys.stderr)
            return
        held = table
        tables = other_data(options.data, setting, held, models)
        seen = {name for one in tables for name in one.outcomes.models}
        models = tuple(name for name in models if name in seen)
    elif protocol == "domains" and len({item.subject for item in table.items}) < 2:
        print(f"# {setting.dataset}: has one domain only", file=sys.stderr)
        return
    else:
        whole = with_answers(table, options.data, setting.dataset)
        train, held = split(whole, protocol, options.seed)
        tables = [train]
    tables = [_thinned(one, options, len(tables)) for one in tables]
    checkpoint = train_router(tables, models, options.work)
    quality = ask_router(checkpoint, held, models, options.work)
    for name, wanted in setting.pools.items():
        pool = _pool(wanted, models, setting.dataset, options.data)
        columns = [models.index(model) for model in pool]
        if name in options.pool and len(pool) > 1 and setting.references[0] in pool:
            yield Case(setting, protocol, name, pool, held, quality[:, columns]), checkpoint


def _complete_models(table: Table) -> tuple[str, ...]:
    """Return the models with a price that answered nearly all items."""
    priced = ~np.isnan(table.outcomes.cost_usd)
    names, counts = np.unique(np.array(table.outcomes.models)[priced], return_counts=True)
    # Two runs of one source may cover different parts: the largest part is the pool's.
    return tuple(names[counts >= COMPLETE * counts.max()].tolist())


def _thinned(table: Table, options: argparse.Namespace, tables: int) -> Table:
    if options.train_items is None or len(table.items) <= options.train_items // tables:
        return table
    drawn = np.random.default_rng(options.seed).permutation(len(table.items))
    keep = np.zeros(len(table.items), bool)
    keep[drawn[: options.train_items // tables]] = True
    return part(table, keep)


def thinned(case: Case, count: int | None, seed: int) -> Case:
    """Return the case with so many of its complete held-out items, drawn at random; None: all."""
    complete, _ = case.trial()
    drawn = np.random.default_rng(seed).permutation(complete)[:count]
    keep = np.zeros(len(case.held.items), bool)
    keep[drawn] = True
    return replace(case, held=part(case.held, keep), quality=case.quality[keep])


def _prices(setting: Setting, options: argparse.Namespace) -> dict[str, dict[str, str]]:
    with (options.data / "models.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == setting.dataset]
    return {row["model"]: row for row in rows}


def _pool(
    wanted: tuple[str, ...], models: tuple[str, ...], dataset: str, data: Path
) -> tuple[str, ...]:
    if not wanted:
        return models
    with (data / "models.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == dataset]
    is_open = {row["model"] for row in rows if row["open_weights"] == "1.0"}
    named = (is_open if "open" in wanted else set()) | set(wanted)
    return tuple(name for name in models if name in named)


if __name__ == "__main__":
    main()
