"""Lists the settings of the paper's table: data sets, pools, and training data allowed for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prompt import text_sha256
from routoo.domain.tables import Outcomes, read_answers, read_items, read_outcomes
from routoo.predictor.dataset import grouped_folds, text_groups

FOLDS = 5
"""One part in five is held out."""
PROTOCOLS = {
    "random": "random split by item, questions on one text kept together",
    "domains": "leave domains out: none of a test item's domain is trained on",
    "transfer": "trained on other data sets only",
}
_PAPERS_OPEN = (
    "Llama-2-7b-hf", "Llama-2-13b-hf", "Llama-2-70b-hf", "Mistral-7B-v0.1", "Mistral-7B-v0.2-hf",
    "Mistral-7B-Instruct-v0.1", "Mistral-7B-Instruct-v0.2", "Mixtral-8x7B-v0.1",
    "Mixtral-8x7B-Instruct-v0.1", "Yi-6B", "Yi-6b-Chat", "Yi-34B", "Qwen1.5-72B-Chat",
)  # fmt: skip
_REDUX_MIXTRAL, _PRO_MIXTRAL = "Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B-Instruct-v0.1"
_MMLU_MIXTRAL, _MMLU_GPT4 = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
_MMLU_OPEN = (_MMLU_MIXTRAL, "mixtral-8x22b", "llama-3-70b")
_MMLU_ALIASES = {
    "Mixtral-8x7B-Instruct-v0.1": _MMLU_MIXTRAL,
    "open-mixtral-8x7b": _MMLU_MIXTRAL,
    "open-mixtral-8x22b": "mixtral-8x22b",
    "Meta-Llama-3-70B": "llama-3-70b",
}
"""The same weights under the names of other data sets."""


@dataclass(frozen=True, slots=True)
class Source:
    """Outcomes of another data set to train on."""

    dataset: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names there of models here; those of equal name need none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One data set with its pools."""

    dataset: str
    pools: Mapping[str, tuple[str, ...]]
    """Models by name of pool; an empty one stands for all priced models that answered all items."""
    references: tuple[str, ...]
    """Models to compare with: Mixtral-8x7B, then the GPT-4 of its time."""
    sources: tuple[Source, ...] = ()
    """What the protocol `transfer` trains on; empty where its models were seen nowhere else."""


_ZEROEVAL = ("zeroeval_gsm8k", "zeroeval_cruxeval", "zeroeval_math_l5")
SETTINGS = (
    Setting(
        "mmlu",
        {"open": _MMLU_OPEN, "open + GPT-4": (*_MMLU_OPEN, _MMLU_GPT4), "all": ()},
        (_MMLU_MIXTRAL, _MMLU_GPT4),
        (
            *(Source(name, _MMLU_ALIASES) for name in (*_ZEROEVAL, "bfcl", "mmlu_pro")),
            Source("routellm_gsm8k"),
        ),
    ),
    Setting(
        "mmlu_pro",
        {
            "open of 2024": _PAPERS_OPEN,
            "open + GPT-4": (*_PAPERS_OPEN, "gpt-4o-2024-05-13"),
            "all": (),
        },
        (_PRO_MIXTRAL, "gpt-4o-2024-05-13"),
    ),
    Setting(
        "mmlu_redux",
        {"open": ("open",), "open + GPT-4": ("open", "gpt-4-0314"), "all": ()},
        (_REDUX_MIXTRAL, "gpt-4-0314"),
        tuple(Source(name) for name in _ZEROEVAL),
    ),
    Setting(
        "routellm_gsm8k",
        {"Mixtral + GPT-4": ()},
        (_MMLU_MIXTRAL, _MMLU_GPT4),
        (Source("mmlu"),),
    ),
)
_LEFT_OUT = "@helm"
"""Runs under other prompts than the rest of the file's: MMLU's was cut off before the letter on 5 %
of the items, MMLU-Redux's were scored against other keys."""
_FROM_MMLU = "ori_mmlu-"
"""Source of the MMLU-Pro items that are MMLU's own questions."""


@dataclass(frozen=True, slots=True)
class Table:
    """Questions, outcomes, and what models answered as far as it was recorded."""

    items: list[Item]
    outcomes: Outcomes
    answers: tuple[RecordedAnswer, ...] = ()


def read_table(folder: Path, dataset: str, aliases: Mapping[str, str] | None = None) -> Table:
    """Read one data set, models renamed by the aliases; unpriced models are left out."""
    path = folder / f"{dataset}_outcomes.parquet"
    outcomes = read_outcomes(path)
    names = [(aliases or {}).get(name, name) for name in outcomes.models]
    outcomes = Outcomes(
        outcomes.item_ids,
        names,
        outcomes.score,
        outcomes.prompt_tokens,
        outcomes.completion_tokens,
        outcomes.cost_usd,
        outcomes.latency_s,
    )
    keep = np.array([not name.endswith(_LEFT_OUT) for name in names])
    items = read_items(folder / f"{dataset}_items.parquet")
    return Table(items, outcomes.select(keep))


def with_answers(table: Table, folder: Path, dataset: str) -> Table:
    """Return a table with the recorded answers of its data set, where there are some."""
    path = folder / f"{dataset}_answers.parquet"
    return replace(table, answers=tuple(read_answers(path))) if path.exists() else table


def split(table: Table, protocol: str, seed: int) -> tuple[Table, Table]:
    """Return the training and the held-out part of one data set."""
    if protocol == "random":
        groups = text_groups([item.prompt for item in table.items])
    else:
        names = sorted({item.subject or "" for item in table.items})
        groups = np.array([names.index(item.subject or "") for item in table.items])
    held = grouped_folds(groups, FOLDS, seed) == 0
    return part(table, ~held), part(table, held)


def part(table: Table, keep: np.ndarray) -> Table:
    """Return the items that are kept, and their outcomes."""
    items = [item for item, kept in zip(table.items, keep, strict=True) if kept]
    ids = {item.item_id for item in items}
    rows = np.array([item_id in ids for item_id in table.outcomes.item_ids])
    answers = tuple(one for one in table.answers if one.item_id in ids)
    return Table(items, table.outcomes.select(rows), answers)


def other_data(folder: Path, setting: Setting, held: Table, models: Sequence[str]) -> list[Table]:
    """Return what the protocol `transfer` trains on, without any question of the held-out items.

    MMLU-Pro's items that come from MMLU are left out altogether: the paper's router saw no MMLU.
    """
    asked = {text_sha256(item.prompt) for item in held.items}
    tables = []
    for source in setting.sources:
        table = read_table(folder, source.dataset, source.aliases)
        known = np.array([name in set(models) for name in table.outcomes.models])
        table = Table(table.items, table.outcomes.select(known))
        own = _from_mmlu(folder, source.dataset) if setting.dataset.startswith("mmlu") else set()
        fresh = [
            item.item_id not in own and text_sha256(item.prompt) not in asked
            for item in table.items
        ]
        tables.append(_renamed(part(table, np.array(fresh)), source.dataset))
    return tables


def _from_mmlu(folder: Path, dataset: str) -> set[str]:
    if dataset != "mmlu_pro":
        return set()
    rows = pq.read_table(folder / f"{dataset}_items.parquet", columns=["item_id", "src"])
    return {row["item_id"] for row in rows.to_pylist() if row["src"].startswith(_FROM_MMLU)}


def _renamed(table: Table, dataset: str) -> Table:
    """Return the table with item ids that are unique over the data sets, and its name as domain."""
    items = [
        Item(f"{dataset}/{item.item_id}", item.prompt, dataset, f"{dataset}/{item.subject or ''}")
        for item in table.items
    ]
    found = table.outcomes
    ids = [f"{dataset}/{item_id}" for item_id in found.item_ids]
    columns = (found.prompt_tokens, found.completion_tokens, found.cost_usd, found.latency_s)
    return Table(items, Outcomes(ids, found.models, found.score, *columns))
