"""Selects multiple-choice questions of a folder of routing data, for training the checkpoint.

`python -m examples.shared_items OUT.parquet` reads `mmlu_items.parquet` in `ROUTOO_DATA_DIR`
(default `../shared/data`). The questions themselves are no part of this repository: the committed
outcomes name them only by item_id.
"""

import argparse
import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from routoo.domain.items import Item
from routoo.domain.tables import write_items
from routoo.errors import InputError
from routoo.settings import REPOSITORY

_COLUMNS = ("item_id", "dataset", "subject", "prompt", "answer", "prompt_tokens_cl100k")
_INSTRUCTION = "Answer with the letter only."


def select(
    rows: Iterable[Mapping[str, Any]], count: int, *, max_prompt_tokens: int = 90
) -> list[Mapping[str, Any]]:
    """Choose short questions, spread evenly over the subjects; the same ones at every run.

    Args:
        rows: Questions with `item_id`, `subject` and `prompt_tokens_cl100k`.
        count: How many to choose.
        max_prompt_tokens: Longest prompt, in tokens.

    Returns:
        The chosen rows, one of each subject in turn.
    """
    subjects = defaultdict(list)
    # Ordered by a hash: a random choice that depends on nothing but the item_id.
    for row in sorted(rows, key=_rank):
        if row["prompt_tokens_cl100k"] <= max_prompt_tokens:
            subjects[row["subject"]].append(row)
    rounds = itertools.zip_longest(*(subjects[name] for name in sorted(subjects)))
    chosen = (row for turn in rounds for row in turn if row is not None)
    return list(itertools.islice(chosen, count))


def _rank(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(row["item_id"].encode()).hexdigest()


def as_items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return the rows as items that ask for a letter."""
    return [
        Item(
            item_id=row["item_id"],
            prompt=f"{row['prompt']}\n{_INSTRUCTION}",
            dataset=row["dataset"],
            subject=row["subject"],
            answer=row["answer"],
            grader="choice",
        )
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the selection.

    Raises:
        InputError: The data is not there.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="Parquet file to write, outside the repository")
    parser.add_argument("--count", type=int, default=150)
    options = parser.parse_args(arguments)
    data = Path(os.environ.get("ROUTOO_DATA_DIR", REPOSITORY / ".." / "shared" / "data"))
    source = data / "mmlu_items.parquet"
    if not source.is_file():
        raise InputError(
            "no such table", where=str(source), remedy="Name its folder with ROUTOO_DATA_DIR"
        )
    rows = pq.read_table(source, columns=list(_COLUMNS)).to_pylist()
    items = as_items(select(rows, options.count))
    write_items(options.out, items)
    print(f"{len(items)} questions of {len({item.subject for item in items})} subjects")


if __name__ == "__main__":
    main()
