"""Rows are handled in chunks of bounded size."""

from collections.abc import Iterable, Iterator

from producer.rows.problems import RawRow

CHUNK_BYTES = 1 << 17
"""A chunk ends when its rows have this many bytes: so few that the database's socket takes most of
them at once, and the database works while the next ones are read."""
CHUNK_ROWS = 512
"""A chunk of short rows ends here."""


def in_chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Yield rows in lists."""
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
