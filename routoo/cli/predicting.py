"""Estimates of whole items tables, in chunks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from routoo.cli.progress import counted
from routoo.domain.prediction import Predictions
from routoo.domain.tables import Item, read_items
from routoo.output import messages
from routoo.predictor.predictor import load_predictor

CHUNK_PROMPTS = 8192
"""Prompts estimated and written at once: bounds memory whatever the size of the table."""


def write_predictions(
    checkpoint: Path, items: Sequence[Path], out: Path, models: Sequence[str] | None, device: str
) -> None:
    """Write one row an (item, model) to `out`; of all models that the checkpoint knows if None.

    Raises:
        InputError: A table can't be read.
        CheckpointError: The checkpoint can't be read, or knows no such model.
    """
    rows = read_items(*items)
    predictor = load_predictor(checkpoint, device=device)
    names = tuple(models or predictor.models)
    tables = []
    with counted(messages(), "Predicting", len(rows)) as progress:
        for start in range(0, max(len(rows), 1), CHUNK_PROMPTS):
            part = rows[start : start + CHUNK_PROMPTS]
            estimates = predictor.predict([item.prompt for item in part], names, progress)
            tables.append(_table(part, names, estimates))
    _write(out, pa.concat_tables(tables))


def _table(items: Sequence[Item], models: Sequence[str], estimates: Predictions) -> pa.Table:
    columns: dict[str, Any] = {
        "item_id": pa.array([item.item_id for item in items for _ in models], pa.string()),
        "model": pa.array(list(models) * len(items), pa.string()),
        "quality": estimates.quality.ravel(),
        "completion_tokens": estimates.completion_tokens.ravel(),
        "quality_std": estimates.quality_std.ravel(),
        "novelty": estimates.novelty.repeat(len(models)),
        "truncated": estimates.truncated.repeat(len(models)),
    }
    return pa.table(columns)


def _write(out: Path, table: pa.Table) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix in {".jsonl", ".ndjson"}:
        with out.open("wb") as stream:
            for batch in table.to_batches():
                stream.writelines(orjson.dumps(row) + b"\n" for row in batch.to_pylist())
    else:
        pq.write_table(table, out, compression="zstd")
