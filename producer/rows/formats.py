"""What a reader of an input format is: it turns a stream of bytes into chunks of raw rows.

A format is one module of this package (`jsonl_rows`, `csv_rows`, `parquet_rows`) whose `read` is a
`RowReader`; `producer.rows.source` names it for a suffix and an option.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Protocol

from producer.rows.problems import RowProblem

CHUNK_BYTES = 1 << 17
"""A chunk ends when its rows have this many bytes: so few that the database's socket takes most of
them at once, and the database works while the next ones are read."""
CHUNK_ROWS = 512
"""A chunk of short rows ends here."""


class RawRow(NamedTuple):
    """A row as it was read: its fields, or why they could not be read."""

    line: int
    """From 1; the line where the row starts, or the row of a Parquet file."""
    raw: bytes | Mapping[str, Any]
    """The row itself, for the error file."""
    fields: dict[str, Any] | RowProblem


class RowReader(Protocol):
    """Reads the rows of one format."""

    def __call__(self, stream: BinaryIO, source: str, /) -> Iterator[list[RawRow]]:
        """Yield the rows of a stream in chunks; a row that can't be read carries the problem.

        Args:
            stream: The file or standard input, at its start.
            source: Its name, for messages.

        Raises:
            InputError: The input as a whole can't be read, such as a table without a prompt.
        """
        ...


def in_chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Yield rows in lists of bounded size."""
    chunk: list[RawRow] = []
    size_bytes = 0
    for row in rows:
        chunk.append(row)
        size_bytes += _size_bytes(row)
        if len(chunk) >= CHUNK_ROWS or size_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


def _size_bytes(row: RawRow) -> int:
    if isinstance(row.raw, bytes):
        return len(row.raw)
    return sum([len(value) for value in row.raw.values() if isinstance(value, str)])
