"""Opens an input, a file or standard input, in one of the formats it may have."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from producer.rows import csv_rows, jsonl_rows
from producer.rows.decode import decoded
from producer.rows.formats import RawRow, RowReader
from routoo.errors import InputError, NotFoundError

_BUFFER_BYTES = 1 << 18


class Format(StrEnum):
    """Formats of input rows."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_BY_SUFFIX = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}


_COMPRESSED_SUFFIXES = {".gz", ".gzip", ".zst", ".zstd"}
"""Left out where a name is read; whether a file is compressed is told by its bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input of rows.

    Attributes:
        path: A file; None is standard input.
        format: The format of its rows.
    """

    path: Path | None
    format: Format

    @classmethod
    def of(cls, name: str, row_format: Format | None = None) -> "Source":
        """Return the source that an argument names: a path, or `-` for standard input.

        Raises:
            InputError: The name does not tell the format, or Parquet is to come from a pipe.
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
        """The name that messages use."""
        return "stdin" if self.path is None else str(self.path)

    @property
    def stem(self) -> str:
        """The name without folder and suffixes, by which a batch is called."""
        return self.name if self.path is None else _without_compression(self.path).stem

    @property
    def size_bytes(self) -> int | None:
        """Size of the file, None where it is not known."""
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else None

    @contextmanager
    def rows(self) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the source; yields its rows in chunks, and a function that counts the bytes read.

        Compressed bytes are unpacked, and other encodings become UTF-8; the count is that of the
        file's own bytes. It is 0 where it says nothing: in a pipe, and in Parquet, which is not
        read in order.

        Raises:
            InputError: The file can't be read, or its header is unusable.
        """
        with self._open() as stream:
            counts = stream.seekable() and self.format is not Format.PARQUET
            plain = decoded(stream, self.name)
            if self.format is Format.PARQUET and plain is not stream:
                raise InputError(
                    "a compressed file of Parquet can't be read",
                    where=self.name,
                    remedy="Unpack it; Parquet files are compressed inside",
                )
            rows = _reader_of(self.format)(plain, self.name)
            yield rows, stream.tell if counts else lambda: 0

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


def _reader_of(row_format: Format) -> RowReader:
    if row_format is Format.PARQUET:
        from producer.rows import parquet_rows  # noqa: PLC0415 - pyarrow takes 40 MB and 0.1 s

        return parquet_rows.read
    return csv_rows.read if row_format is Format.CSV else jsonl_rows.read


def _format_of(path: Path | None) -> Format:
    if path is None:
        return Format.JSONL
    try:
        return _BY_SUFFIX[_without_compression(path).suffix.lower()]
    except KeyError:
        raise InputError(
            "the format can't be told from the file's name",
            where=str(path),
            remedy="Pass --format jsonl, csv or parquet",
        ) from None


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED_SUFFIXES else path
