"""Trains and asks routers for the paper's table, by the commands that users have."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from paper_settings import Table

from routoo.console.output import ConsoleFeedback
from routoo.domain.tables import Outcomes, write_items, write_outcomes
from routoo.evaluation.answer_log import write_answers
from routoo.evaluation.cascade import CascadeKnowledge
from routoo.evaluation.judged_answers import EstimatedItems, judge_recorded
from routoo.judge.files import load_judge
from routoo.predictor.predictor import load_predictor


def train_router(tables: Sequence[Table], models: Sequence[str], work: Path) -> Path:
    """Return a checkpoint trained on the tables; one that is there already is taken as it is.

    The folder's name says what it was trained on, not by which code: start with an empty work
    folder after the predictor has changed.
    """
    folder = work / _name(tables, models)
    if (folder / "manifest.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    items, outcomes = folder / "items.parquet", folder / "outcomes.parquet"
    write_items(items, [item for table in tables for item in table.items])
    write_outcomes(outcomes, _joined([table.outcomes for table in tables]))
    said = [answer for table in tables for answer in table.answers]
    command = [sys.executable, "-P", "-m", "routoo.cli.main", "train", "--no-curve"]
    command += ["--out", str(folder), "--items", str(items), "--outcomes", str(outcomes)]
    command += ["--cache", str(work / "embeddings")]
    for model in models:
        command += ["--model", model]
    if said:
        write_answers(folder / "answers.parquet", said)
        command += ["--answers", str(folder / "answers.parquet")]
    subprocess.run(command, check=True)
    return folder


def ask_router(checkpoint: Path, held: Table, models: Sequence[str], work: Path) -> np.ndarray:
    """Return expected quality, held-out items x models."""
    kept = checkpoint / f"quality-{_name([held], models)}.npy"
    if kept.exists():
        return np.asarray(np.load(kept))
    predictor = load_predictor(checkpoint, cache=work / "embeddings")
    quality = predictor.predict([item.prompt for item in held.items], models).quality
    np.save(kept, quality)
    return quality


def judge_answers(
    checkpoint: Path, held: Table, pool: Sequence[str], costs: np.ndarray, work: Path
) -> CascadeKnowledge | None:
    """Return what judging held-out answers shows; None where no answer can be judged.

    Args:
        checkpoint: The router, with its judge.
        held: The held-out items and their answers.
        pool: The candidate models.
        costs: Mean cost of a call of each, in USD.
        work: Folder of embeddings.
    """
    judge = load_judge(checkpoint)
    if not set(judge.probes) & {one.model for one in held.answers} & set(pool):
        return None
    predictor = load_predictor(checkpoint, cache=work / "embeddings")
    told = predictor.predict([item.prompt for item in held.items], judge.models)
    asked = EstimatedItems(tuple(held.items), told)
    return judge_recorded(judge, asked, pool, costs, held.answers, ConsoleFeedback())


def _name(tables: Sequence[Table], models: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(models).encode())
    for table in tables:
        digest.update("\n".join(item.item_id for item in table.items).encode())
        digest.update("\n".join(table.outcomes.models).encode())
        if table.answers:
            digest.update(f"{len(table.answers)} answers".encode())
    return digest.hexdigest()[:16]


def _joined(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(
        [item_id for part in parts for item_id in part.item_ids],
        [name for part in parts for name in part.models],
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("score", "prompt_tokens", "completion_tokens", "cost_usd", "latency_s")
        ),
    )
