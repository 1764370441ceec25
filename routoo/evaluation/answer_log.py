"""Keeps the answers collected so far in a JSONL file, from which a stopped run goes on.

A row is appended and flushed as each answer comes, so that a run that is stopped loses only the
calls in flight. A row is used again only for the same request: with another prompt, instruction or
limit the model is asked again. Tables of recorded answers, with their texts, are written here too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import lock_descriptor

from routoo.domain.completion import TOKEN_FIGURES, FinishReason, RecordedAnswer
from routoo.errors import InputError
from routoo.files import replacing

NO_ANSWERS = frozenset(
    {FinishReason.CONTENT_FILTER, FinishReason.TRUNCATED, FinishReason.EMPTY, FinishReason.ERROR}
)
"""Why a completion ended that is no answer."""


@dataclass(frozen=True, slots=True)
class CollectedAnswer:
    """What one candidate model answered to one item."""

    item_id: str
    model: str
    request_sha256: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    usage_estimated: bool
    latency_s: float
    finish_reason: str | None = None
    token_probabilities: dict[str, float | None] | None = None
    """Figures of `TokenProbabilities`, where the endpoint gave them."""
    cached_prompt_tokens: int = 0
    """Of the prompt tokens, those billed at the price of cached ones."""
    cache_write_tokens: int = 0
    """Of the prompt tokens, those billed at the price of a cache's write."""

    @property
    def is_usable(self) -> bool:
        """Whether it is an answer; older logs hold ones that a filter cut, or that are empty."""
        return self.finish_reason not in NO_ANSWERS


def request_sha256(body: Mapping[str, Any]) -> str:
    """Return the hash of a request; the order of its keys doesn't matter."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


class AnswerLog:
    """The answers of a collection, on disk; a context manager that locks the file.

    Args:
        path: The log's file; created where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[tuple[str, str, str], CollectedAnswer] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        if not lock_descriptor(self._file.fileno(), blocking=False):
            self._file.close()
            raise InputError(
                "another collection writes to this file",
                where=str(self._path),
                remedy="Wait for it, or name another --out",
            )
        self._load()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _load(self) -> None:
        self._file.seek(0)
        kept = 0
        for line in self._file:
            try:
                row = CollectedAnswer(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                break  # the last write was cut off by a crash
            self._answers[row.item_id, row.model, row.request_sha256] = row
            kept += len(line)
        self._file.truncate(kept)

    def find(self, item_id: str, model: str, request: str) -> CollectedAnswer | None:
        """Return the logged answer to a request, given by its hash; None where there is none."""
        return self._answers.get((item_id, model, request))

    def add(self, answer: CollectedAnswer) -> None:
        """Append an answer and flush it to disk."""
        self._answers[answer.item_id, answer.model, answer.request_sha256] = answer
        self._file.write(orjson.dumps(asdict(answer)) + b"\n")
        self._file.flush()


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
        texts = [name for name in cells if not name.startswith("logprob_")]
        # Figures hardly ever repeat: planes of their bytes compress better than a dictionary.
        pq.write_table(
            pa.table(cells), stream, compression="zstd", use_dictionary=texts,
            use_byte_stream_split=[name for name in cells if name not in texts],
        )  # fmt: skip
