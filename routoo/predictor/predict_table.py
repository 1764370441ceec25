"""Estimates of whole items tables, in chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from routoo.console.output import messages
from routoo.console.progress import counted
from routoo.domain.items import Item
from routoo.domain.prediction import Predictions
from routoo.domain.tables import read_items
from routoo.errors import InputError
from routoo.files import check_suffix, replacing
from routoo.predictor.backbone.encoder import Progress
from routoo.predictor.predictor import CheckpointPredictor, load_predictor

BAD_ROWS_SHOWN = 10
CHUNK_PROMPTS = 8192
"""Prompts estimated and written at once: bounds memory whatever the size of the table."""


def write_predictions(
    checkpoint: Path, items: Sequence[Path], out: Path, models: Sequence[str] | None, device: str
) -> dict[str, Any]:
    """Write one row an (item, model) to `out`; of all models that the checkpoint knows if None.

    Returns:
        What was written: counts of items, of rows that were no items, and of prompts that were cut.

    Raises:
        InputError: A table can't be read, or the output's format is not known.
        CheckpointError: The checkpoint can't be read, or knows no such model.
    """
    writer = _WRITERS[check_suffix(out, _WRITERS, "no such format to write")]
    bad: list[InputError] = []
    rows = read_items(*items, on_bad=bad.append)
    predictor = load_predictor(checkpoint, device=device)
    asked = _Asked(predictor, rows, tuple(dict.fromkeys(models or predictor.models)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as stream, counted(messages(), "Predicting", len(rows)) as progress:
        writer(stream, asked.tables(progress))
    _complain(bad)
    return {
        "out": str(out),
        "items": len(rows),
        "models": list(asked.models),
        "truncated": asked.truncated,
        "bad_rows": [str(error) for error in bad],
    }


def _complain(bad: Sequence[InputError]) -> None:
    screen = messages()
    for error in bad[:BAD_ROWS_SHOWN]:
        screen.print(str(error), highlight=False)
    if bad:
        screen.print(f"{len(bad)} rows were left out; all others are predicted")


@dataclass(slots=True)
class _Asked:
    """What is asked of a predictor, chunk by chunk."""

    predictor: CheckpointPredictor
    items: Sequence[Item]
    models: tuple[str, ...]
    truncated: int = 0
    """Prompts so far that were too long to be read whole."""

    def tables(self, progress: Progress) -> Iterator[pa.Table]:
        """Yield tables of some thousand prompts; an empty one where there are none."""
        for start in range(0, max(len(self.items), 1), CHUNK_PROMPTS):
            part = self.items[start : start + CHUNK_PROMPTS]
            prompts = [item.prompt for item in part]
            estimates = self.predictor.predict(prompts, self.models, progress)
            self.truncated += int(estimates.truncated.sum())
            yield _table(part, self.models, estimates)


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


def _write_parquet(stream: BinaryIO, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(stream, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _write_lines(stream: BinaryIO, tables: Iterator[pa.Table]) -> None:
    for table in tables:
        stream.writelines(orjson.dumps(row) + b"\n" for row in table.to_pylist())


_WRITERS = {".parquet": _write_parquet, ".jsonl": _write_lines, ".ndjson": _write_lines}
