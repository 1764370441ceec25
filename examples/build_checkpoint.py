"""Rebuilds `examples/outcomes` and `examples/checkpoint`: `make checkpoint`.

Serves the local models, asks them the training questions, the shared questions (where the folder
of routing data is there, see `examples.shared_items`) and the example batch, grades the answers,
and trains the predictor and the judges of answers. With `--train-only` it trains on the committed
outcomes and answers, without asking.

The batch's outcomes are for the closing comparison of `make run` and never trained on. Answers to
the shared questions may quote them, so they stay out of the repository and of the training.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from examples import shared_items
from examples.local_models.catalogue import MODELS
from examples.local_models.fetch import fetch
from examples.local_models.serve import LocalModels
from examples.questions.question import MAX_TOKENS
from routoo.domain.tables import read_items, write_items
from routoo.errors import InputError
from routoo.settings import REPOSITORY, load_settings

EXAMPLES = REPOSITORY / "examples"
OUTCOMES = EXAMPLES / "outcomes"
WORK = REPOSITORY / "build" / "checkpoint"
"""Answer logs, which a stopped run leaves for the next, and the text of the shared questions."""
OWN = ("training", "batch")
"""Sets that were written for this project: answers to them are kept in the repository."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-only", action="store_true", help="use the committed outcomes")
    options = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    training, batch = _training_sets(), _batch_items()
    if not options.train_only:
        home = load_settings().home
        fetch(MODELS, home)
        with LocalModels(MODELS, home):
            for name, items in (*training.items(), ("batch", batch)):
                _collect(name, items)
    _train(training)
    return 0


def _training_sets() -> dict[str, Path]:
    """Return the item tables to train on, by the names of their outcome tables."""
    sets = {"training": EXAMPLES / "training_questions.jsonl"}
    shared = WORK / "shared_items.parquet"
    try:
        shared_items.main([str(shared)])
    except InputError as error:
        print(f"Without shared questions: {error}")
        return sets
    return sets | {"shared": shared}


def _batch_items() -> Path:
    """Return the batch as one item table: its prompts with their references."""
    lines = (EXAMPLES / "references.jsonl").read_bytes().splitlines()
    references = {row["custom_id"]: row for row in map(orjson.loads, lines)}
    items = [
        replace(
            item,
            answer=references[item.item_id]["answer"],
            grader=references[item.item_id]["grader"],
        )
        for item in read_items(EXAMPLES / "batch.jsonl")
    ]
    WORK.mkdir(parents=True, exist_ok=True)
    table = WORK / "batch_items.parquet"
    write_items(table, items)
    return table


def _collect(name: str, items: Path) -> None:
    out = WORK / f"{name}.parquet"
    _routoo(
        "collect", "--items", str(items), "--pool", str(EXAMPLES / "pool.yaml"),
        "--max-tokens", str(MAX_TOKENS), "--out", str(out),
    )  # fmt: skip
    OUTCOMES.mkdir(exist_ok=True)
    for table in (out.name, *([_answers(name)] if name in OWN else [])):
        shutil.copyfile(WORK / table, OUTCOMES / table)


def _answers(name: str) -> str:
    """Return the name of the table with a set's answers, as `routoo collect` calls it."""
    return f"{name}_answers.parquet"


def _train(sets: dict[str, Path]) -> None:
    command = ["train", "--out", str(EXAMPLES / "checkpoint")]
    for model in MODELS:
        command += ["--model", model.name]
    for name, items in sets.items():
        command += ["--items", str(items), "--outcomes", str(OUTCOMES / f"{name}.parquet")]
    command += ["--answers", str(OUTCOMES / _answers("training"))]
    _routoo(*command)


def _routoo(*arguments: str) -> None:
    print("$ routoo", *arguments, flush=True)
    program = Path(sys.executable).with_name("routoo")
    subprocess.run([program, *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
