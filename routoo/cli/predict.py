"""`routoo predict`: estimate each candidate model's quality and answer length on prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from routoo.cli.options import DeviceOption, ItemsOption
from routoo.console.run import INCOMPLETE

if TYPE_CHECKING:
    import pyarrow as pa

    from routoo.domain.items import Item
    from routoo.domain.prediction import Predictions
    from routoo.errors import InputError
    from routoo.ports import Feedback
    from routoo.predictor.backbone.encoder import Progress
    from routoo.predictor.predictor import CheckpointPredictor

CHUNK_PROMPTS = 8192
"""Prompts estimated and written at once: bounds memory whatever the size of the table."""
_BAD_ROWS_SHOWN = 10


def predict(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `routoo train` wrote.")],
    items: ItemsOption,
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .jsonl or .ndjson.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; can be repeated.")
    ] = None,
    device: DeviceOption = "auto",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one row an (item, model): quality, its deviation, completion tokens, novelty.

    Rows that are no items are named and left out; the exit status is then 5.

    Examples:
        routoo predict --checkpoint DIR --items I.parquet --out P.parquet

        routoo predict --checkpoint DIR --items batch.jsonl --out P.jsonl --model small
    """
    from routoo.console.output import ConsoleFeedback, json_line

    written = write_predictions(checkpoint, items, out, model, ConsoleFeedback(), device=device)
    _note_bad_rows(written.bad_rows)
    if json:
        facts = {
            "out": str(out),
            "items": written.items,
            "models": written.models,
            "truncated": written.truncated,
            "bad_rows": written.bad_rows,
        }
        typer.echo(json_line(facts))
    if written.bad_rows:
        raise typer.Exit(INCOMPLETE)


def _note_bad_rows(bad_rows: Sequence[str]) -> None:
    from routoo.console.output import note

    for reason in bad_rows[:_BAD_ROWS_SHOWN]:
        note(reason)
    if bad_rows:
        note(f"{len(bad_rows)} rows were left out; all others are predicted")


@dataclass(frozen=True, slots=True)
class PredictedTable:
    """What was written."""

    items: int
    models: tuple[str, ...]
    truncated: int
    """Prompts that were too long for the backbone to read whole."""
    bad_rows: tuple[str, ...]
    """Why rows were left out that are no items."""


def write_predictions(
    checkpoint: Path,
    items: Sequence[Path],
    out: Path,
    models: Sequence[str] | None,
    feedback: "Feedback",
    *,
    device: str,
) -> PredictedTable:
    """Write one row for each item and model.

    Args:
        checkpoint: Folder of the predictor.
        items: Items tables.
        out: Table to write: .parquet, .jsonl or .ndjson.
        models: Candidate models; None takes all that the checkpoint knows.
        feedback: Shows how far it is.
        device: Where the backbone computes: cpu, cuda or auto.

    Raises:
        InputError: A table can't be read, or the output's format is not known.
        CheckpointError: The checkpoint can't be read, or knows no such model.
    """
    from routoo.domain.tables import read_items
    from routoo.files import check_suffix, replacing
    from routoo.predictor.predictor import load_predictor

    writer = _WRITERS[check_suffix(out, _WRITERS, "no such format to write")]
    bad: list[InputError] = []
    rows = read_items(*items, on_bad=bad.append)
    predictor = load_predictor(checkpoint, device=device)
    names = tuple(dict.fromkeys(models or predictor.models))
    chunks = _Chunks(predictor, rows, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out) as stream,
        feedback.progress_bar("Predicting", len(rows)) as progress,
    ):
        writer(stream, chunks.tables(progress))
    return PredictedTable(len(rows), names, chunks.truncated, tuple(map(str, bad)))


@dataclass(slots=True)
class _Chunks:
    """Predictions of many items, some thousand prompts at a time."""

    predictor: "CheckpointPredictor"
    items: "Sequence[Item]"
    models: tuple[str, ...]
    truncated: int = 0
    """Prompts so far that were too long to be read whole."""

    def tables(self, progress: "Progress") -> "Iterator[pa.Table]":
        """Yield tables of some thousand prompts; an empty one where there are none."""
        for start in range(0, max(len(self.items), 1), CHUNK_PROMPTS):
            part = self.items[start : start + CHUNK_PROMPTS]
            prompts = [item.prompt for item in part]
            estimates = self.predictor.predict(prompts, self.models, progress)
            self.truncated += int(estimates.truncated.sum())
            yield _table(part, self.models, estimates)


def _table(items: "Sequence[Item]", models: Sequence[str], estimates: "Predictions") -> "pa.Table":
    import pyarrow as pa

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


def _write_parquet(stream: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(stream, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _write_lines(stream: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    import orjson

    for table in tables:
        stream.writelines(orjson.dumps(row) + b"\n" for row in table.to_pylist())


_WRITERS = {".parquet": _write_parquet, ".jsonl": _write_lines, ".ndjson": _write_lines}
