"""States what a reader of an input format does: it turns a stream into chunks of raw rows.

A format is one module of this package (`jsonl_rows`, `csv_rows`, `parquet_rows`) whose `read` is a
`RowReader`; `producer.rows.source` names it for a suffix and an option.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from producer.rows.problems import RowProblem
from routoo.errors import InputError

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
    position: int | None = None
    """Among the elements of a JSON array, of which several may stand on one line; from 1."""


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


def refuse_repeated_columns(names: Sequence[str], where: str) -> None:
    """Raise where a table has two columns of one name, of which only one could be read.

    Raises:
        InputError: A name comes twice.
    """
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(
            "a column comes twice", value=repeated, where=where, remedy="Rename or remove one"
        )


def _size_bytes(row: RawRow) -> int:
    if isinstance(row.raw, bytes):
        return len(row.raw)
    return sum([len(value) for value in row.raw.values() if isinstance(value, str)])
