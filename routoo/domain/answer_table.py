"""Writes tables of recorded answers; `routoo.domain.tables.read_answers` reads them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from routoo.domain.answer import TOKEN_FIGURES, RecordedAnswer
from routoo.files import replacing


def write_answers(path: Path, answers: Sequence[RecordedAnswer]) -> None:
    """Write answers as Parquet: what was said, why it ended, and `logprob_NAME` where known.

    Args:
        path: The file, replaced whole or not at all.
        answers: The rows.
    """
    cells = {
        "item_id": pa.array([one.item_id for one in answers], pa.string()),
        "model": pa.array([one.model for one in answers], pa.string()),
        "answer": pa.array([one.text for one in answers], pa.string()),
        "finish_reason": pa.array([one.finish_reason for one in answers], pa.string()),
    }
    unknown = np.full(len(TOKEN_FIGURES), np.nan, np.float32)
    figures = [
        unknown if one.token_probabilities is None else one.token_probabilities.values()
        for one in answers
    ]
    for name, values in zip(TOKEN_FIGURES, zip(*figures, strict=True), strict=False):
        cells[f"logprob_{name}"] = pa.array(np.array(values, np.float32), from_pandas=True)
    with replacing(path) as stream:
        pq.write_table(pa.table(cells), stream, compression="zstd")
