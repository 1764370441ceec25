"""States what a reader of an input format does: it turns a stream into chunks of raw rows.

A format is one module of this package (`jsonl_rows`, `csv_rows`, `parquet_rows`) whose `read` is a
`RowReader`; `producer.rows.source` names it for a suffix and an option.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

import orjson

from producer.rows.limits import LIMIT_FIELDS
from producer.rows.problems import RowProblem
from routoo.errors import InputError

PLAIN_FIELDS = LIMIT_FIELDS | {"prompt", "system", "custom_id", "item_id", "max_tokens", "model"}
"""Fields of a plain row; `item_id` is read where there is no `custom_id`."""
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
    compact: str | None = None
    """The fields as JSON without spaces, where the reader has made it."""


@dataclass(frozen=True, slots=True)
class WantedColumns:
    """The columns of a table that rows are made of; JSON has no table's columns."""

    needed: frozenset[str] = frozenset({"prompt"})
    """Without one of these the whole table is refused."""
    read: frozenset[str] | None = None
    """Those that are read where they are there; None for all."""

    def check(self, names: Sequence[str], where: str) -> None:
        """Raise where a table lacks a column, or has two of one name.

        Args:
            names: The table's columns.
            where: The table's name and, as far as it has one, its line of names.

        Raises:
            InputError: A needed column is not there, or a column that is read comes twice.
        """
        missing = sorted(self.needed.difference(names))
        if missing:
            remedy = f"Its columns are: {', '.join(names)[:200]}"
            if "prompt" in missing:
                remedy += (
                    "; name that of the prompts prompt, or say by --template what a prompt is "
                    "made of"
                )
            what = f"the table has no column {', '.join(missing)}"
            raise InputError(what, where=where, remedy=remedy)
        repeated = next(
            (name for name in names if self.takes(name) and names.count(name) > 1), None
        )
        if repeated is not None:
            raise InputError(
                "a column comes twice", value=repeated, where=where, remedy="Rename or remove one"
            )

    def takes(self, name: str) -> bool:
        """Return whether a column is read."""
        return self.read is None or name in self.read


PROMPT = WantedColumns()
"""A prompt, and everything else that the table has."""


class RowReader(Protocol):
    """Reads the rows of one format."""

    def __call__(
        self, stream: BinaryIO, source: str, columns: WantedColumns = ..., /
    ) -> Iterator[list[RawRow]]:
        """Yield the rows of a stream in chunks; a row that can't be read carries the problem.

        Args:
            stream: The file or standard input, at its start.
            source: Its name, for messages.
            columns: What is wanted of a table.

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


def id_text(value: object) -> str:
    """Return a custom_id as text; a table's keys are often numbers.

    pandas writes 7.0 where other cells of the column are empty.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _size_bytes(row: RawRow) -> int:
    if isinstance(row.raw, bytes):
        return len(row.raw)
    return sum([len(value) for value in row.raw.values() if isinstance(value, str)])
