"""Opens an input, a file or standard input, in one of the formats it may have."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from producer.rows import csv_rows, jsonl_rows
from producer.rows.problems import RawRow
from routoo.errors import InputError, NotFoundError

_BUFFER_BYTES = 1 << 18
_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class Format(StrEnum):
    """Formats of input rows."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from.

    Attributes:
        path: A file; None is standard input.
        format: How its rows are written.
    """

    path: Path | None
    format: Format

    @classmethod
    def of(cls, name: str, row_format: Format | None = None) -> "Source":
        """Return the source that an argument names: a path, or `-` for standard input.

        Raises:
            InputError: The format can't be told from the name, or Parquet is to come from a pipe.
            NotFoundError: There is no such file.
        """
        path = None if name == "-" else Path(name)
        if path is not None and not path.exists():
            raise NotFoundError("no such file", where=name)
        if path is not None and path.is_dir():
            raise InputError("this is a folder", where=name, remedy="Name a file")
        found = row_format or _format_of(path)
        if path is None and found is Format.PARQUET:
            raise InputError(
                "Parquet can't be read from a pipe", where="-", remedy="Name the file instead"
            )
        return cls(path, found)

    @property
    def name(self) -> str:
        """What messages call it."""
        return "stdin" if self.path is None else str(self.path)

    @property
    def size_bytes(self) -> int | None:
        """Size of the file, None where it is not known."""
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else None

    @contextmanager
    def rows(self) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the source; yields its rows in chunks, and what says how many bytes were read.

        Raises:
            InputError: The file can't be read, or its header is unusable.
        """
        if self.format is Format.PARQUET and self.path is not None:
            # pyarrow takes 40 MB and 0.1 s: only where a Parquet file is read
            from producer.rows import parquet_rows  # noqa: PLC0415

            yield parquet_rows.read(self.path), lambda: 0
            return
        with self._open() as stream:
            rows = jsonl_rows.read(stream) if self.format is Format.JSONL else self._csv(stream)
            yield rows, lambda: stream.tell() if stream.seekable() else 0

    def _csv(self, stream: BinaryIO) -> Iterator[list[RawRow]]:
        return csv_rows.read(stream, self.name)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.path is None:
            yield sys.stdin.buffer
            return
        try:
            with self.path.open("rb", buffering=_BUFFER_BYTES) as stream:
                yield stream
        except OSError as error:
            raise InputError(
                "the file can't be read", value=error.strerror, where=self.name
            ) from error


def _format_of(path: Path | None) -> Format:
    if path is None:
        return Format.JSONL
    try:
        return Format(_BY_SUFFIX[path.suffix.lower()])
    except KeyError:
        raise InputError(
            "the format can't be told from the file's name",
            where=str(path),
            remedy="Pass --format jsonl, csv or parquet",
        ) from None
