"""Reads the tables of real models' outcomes that the general checkpoint is trained on.

`ROUTOO_DATA_DIR` (default `../shared/data`) names their folder. Only tables whose licences permit
it are read (`TABLES`); no text of them becomes part of this repository.
"""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, read_items, read_outcomes
from routoo.errors import InputError
from routoo.evaluation.routing import cost_matrix
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.settings import REPOSITORY


@dataclass(frozen=True, slots=True)
class Table:
    """One table of outcomes, and how much of it is used."""

    name: str
    items: int
    """Most items: a fixed choice by the hash of their ids."""
    licence: str
    benchmark: str | None = None
    """The public score that a model's mean over the table stands for."""
    without: tuple[str, ...] = ()
    """Subjects that are left out, since their licence asks for more than attribution."""


TABLES = (
    Table("mmlu_pro", 3600, "Apache-2.0", "mmlu_pro"),
    Table("mmlu_redux", 4561, "CC BY 4.0 (items, HELM runs), Apache-2.0 (ZeroEval)", "mmlu_redux"),
    Table("zeroeval_gsm8k", 700, "Apache-2.0; questions MIT", "gsm8k"),
    Table("zeroeval_cruxeval", 640, "Apache-2.0; questions MIT", "cruxeval"),
    Table("zeroeval_math_l5", 582, "Apache-2.0; questions MIT", "math_level_5"),
    Table("bfcl", 300, "Apache-2.0", "bfcl"),
    Table("llmrouter", 600, "MIT", without=("natural_qa", "arc_challenge")),
)
_FROM_MEMORY = "list-2024"
"""Prices of models.csv that nobody checked: not used."""


@dataclass(frozen=True, slots=True)
class GeneralTables:
    """All tables as one matrix."""

    matrix: OutcomeMatrix
    cost_usd: Float64[np.ndarray, "items models"]
    """NaN where not known."""
    facts: dict[str, dict[str, float]]
    """Public facts by model, as `routoo.predictor.reference_models.FACTS` names them."""


def read_general_tables() -> GeneralTables:
    """Read the tables.

    Raises:
        InputError: The folder, or a table in it, is not there.
    """
    folder = Path(os.environ.get("ROUTOO_DATA_DIR", REPOSITORY / ".." / "shared" / "data"))
    if not (folder / "models.csv").exists():
        raise InputError(
            "the tables are not there", where=str(folder), remedy="Name them by ROUTOO_DATA_DIR"
        )
    items, parts = [], []
    for table in TABLES:
        its = _chosen(read_items(folder / f"{table.name}_items.parquet"), table)
        items += its
        parts.append(_outcomes(folder, table, {item.item_id for item in its}))
    outcomes = Outcomes.joined(parts)
    matrix = outcome_matrix(items, outcomes)
    return GeneralTables(matrix, cost_matrix(matrix, outcomes), _facts(folder, matrix.models))


def canonical_name(model: str, table: str = "") -> str:
    """Return a model's name as all tables shall have it: lower case, without owner and source."""
    name = model.split("@helm", maxsplit=1)[0].rpartition("/")[2].lower().replace("3_1", "3.1")
    return name.partition("_")[2] or name if table == "bfcl" else name


def _chosen(items: Sequence[Item], table: Table) -> list[Item]:
    kept = [item for item in items if item.subject not in table.without]
    kept.sort(key=lambda item: hashlib.sha256(item.item_id.encode()).hexdigest())
    return [replace(item, dataset=table.name) for item in kept[: table.items]]


def _outcomes(folder: Path, table: Table, item_ids: set[str]) -> Outcomes:
    read = read_outcomes(folder / f"{table.name}_outcomes.parquet")
    # Native function calling is another way to ask the same model: its prompting runs count.
    kept = [
        item_id in item_ids and "-FC" not in model
        for item_id, model in zip(read.item_ids, read.models, strict=True)
    ]
    part = read.select(np.array(kept, np.bool_))
    return replace(part, models=[canonical_name(name, table.name) for name in part.models])


def _facts(folder: Path, models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what models.csv says: size, price, and mean scores as benchmark scores."""
    benchmarks = {table.name: table.benchmark for table in TABLES}
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with (folder / "models.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            facts = found[canonical_name(row["model"], row["dataset"])]
            benchmark = benchmarks.get(row["dataset"])
            if benchmark and "-FC" not in row["model"]:
                facts[benchmark] = float(row["mean_score"])
            if row["params_b"]:
                facts["parameters_b"] = float(row["params_b"])
            if row["usd_per_mtok_out"] and row["price_source"] != _FROM_MEMORY:
                facts["completion_usd_per_mtok"] = float(row["usd_per_mtok_out"])
    return {name: dict(found[name]) for name in models}
