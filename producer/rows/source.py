"""Opens an input, a file, a folder or standard input, in one of its formats, as plain UTF-8.

gzip and zstd are unpacked, UTF-16 and UTF-32 are converted: what an input is in is told by its
first bytes, never by its name. Memory stays the same however long the input is.
"""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from producer.rows import csv_rows, jsonl_rows
from producer.rows.formats import PLAIN_FIELDS, RawRow, RowReader, WantedColumns
from producer.rows.templates import RowTemplate, filled
from routoo.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from producer.rows.dataset_folder import DatasetFiles

_PIECE_BYTES = 1 << 17
_MOST_LAYERS = 4
"""Such as UTF-16 in gzip in gzip."""
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
_ZSTD_SKIPPABLE_FIRST = range(0x50, 0x60)
"""Behind a first byte of 0x50 to 0x5f: a frame of metadata, as pzstd writes it."""
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_NextPiece = Callable[[], bytes]
"""Returns the next bytes, none at the end."""


class _Pieces(io.RawIOBase):
    """A stream of the bytes that a function returns piece by piece."""

    def __init__(self, next_piece: _NextPiece, source: str) -> None:
        self._next_piece, self._source = next_piece, source
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        """Fill a buffer with the next bytes; return how many they are.

        Raises:
            InputError: The input is damaged or cut off.
        """
        if not self._rest:
            self._rest = memoryview(self._decoded())
        target = memoryview(buffer)  # type: ignore[arg-type]  # typeshed has no buffer type in 3.11
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _decoded(self) -> bytes:
        try:
            return self._next_piece()
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise InputError(
                "the input is damaged or cut off",
                value=str(error)[:200],
                where=self._source,
                remedy="Write or copy it again",
            ) from error


def decoded(stream: BinaryIO, source: str) -> io.BufferedReader:
    """Return a stream of an input's plain bytes, in UTF-8 where it has a byte order mark.

    Reading it raises InputError where the input is damaged.

    Args:
        stream: The input, at its start.
        source: Its name, for messages.
    """
    plain = _buffered(stream, source)
    for _ in range(_MOST_LAYERS):
        next_piece = _decoder_of(plain)
        if next_piece is None:
            break
        plain = io.BufferedReader(_Pieces(next_piece, source), _BUFFER_BYTES)
    return plain


def _buffered(stream: BinaryIO, source: str) -> io.BufferedReader:
    """Return the stream if it holds its first bytes ready, else one that does."""
    if isinstance(stream, io.BufferedReader) and len(stream.peek(4)) >= len(_ZSTD):
        return stream
    return io.BufferedReader(_Pieces(lambda: stream.read(_PIECE_BYTES), source), _BUFFER_BYTES)


def _decoder_of(stream: io.BufferedReader) -> _NextPiece | None:
    """Return what decodes a stream by one layer, None where it is plain already."""
    head = stream.peek(4)[:4]
    if head.startswith(_GZIP):
        unpacked = gzip.GzipFile(fileobj=stream)
        return lambda: unpacked.read(_PIECE_BYTES)
    if head == _ZSTD or (head[1:] == _ZSTD_SKIPPABLE and head[0] in _ZSTD_SKIPPABLE_FIRST):
        return _zstd(stream)
    if head in _UTF_32:
        return _transcoded(stream, "utf-32")
    return _transcoded(stream, "utf-16") if head[:2] in _UTF_16 else None


def _zstd(stream: io.BufferedReader) -> _NextPiece:
    import pyarrow as pa  # it takes 40 MB and 0.1 s, and zstd input is rare

    unpacked = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    return lambda: bytes(unpacked.read(_PIECE_BYTES))


def _transcoded(stream: io.BufferedReader, encoding: str) -> _NextPiece:
    # Half a surrogate pair becomes bytes that are not UTF-8, which are reported with their row.
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def next_piece() -> bytes:
        while raw := stream.read(_PIECE_BYTES):
            if text := decoder.decode(raw):
                return text.encode("utf-8", "surrogatepass")
        return decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")

    return next_piece


_BUFFER_BYTES = 1 << 18


class Format(StrEnum):
    """Formats of input rows."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    DATASET = "dataset"
    """A folder of a Hugging Face dataset."""


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


class RowSource(Protocol):
    """Has rows to submit."""

    @property
    def name(self) -> str:
        """The name that messages use."""
        ...

    @property
    def stem(self) -> str:
        """The name by which a batch is called."""
        ...

    def rows(
        self,
    ) -> AbstractContextManager[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the source; yields its rows in chunks, and a function that counts the bytes read."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """An input of rows.

    Attributes:
        path: A file, or a folder; None is standard input.
        format: The format of its rows.
        label: What messages call it; its path where unset.
        template: What prompts are made of; the column `prompt` where unset.
        subset: Part of a dataset, where it has several.
        split: Split of a dataset, where it has several.
    """

    path: Path | None
    format: Format
    label: str | None = None
    template: RowTemplate | None = None
    subset: str | None = None
    split: str | None = None

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
        is_folder = path is not None and path.is_dir()
        found = Format.DATASET if is_folder else row_format or _format_of(path)
        if row_format is not None and (row_format is Format.DATASET) is not is_folder:
            what = "this is a folder" if is_folder else "this is no folder of a dataset"
            raise InputError(what, where=name, remedy="Leave --format out, or name a file")
        if path is None and found is Format.PARQUET:
            raise InputError(
                "Parquet can't be read from a pipe", where="-", remedy="Name the file instead"
            )
        return cls(path, found)

    def reading(
        self,
        template: RowTemplate | None = None,
        *,
        subset: str | None = None,
        split: str | None = None,
    ) -> "Source":
        """Return the source with what prompts are made of, and the part of a dataset to read.

        Raises:
            InputError: A part is named, and this is no dataset.
        """
        if self.format is not Format.DATASET:
            refuse_parts(subset, split, "--{}".format)
        return replace(self, template=template, subset=subset, split=split)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its rows; none of standard input.

        Raises:
            InputError: It is a folder, and which of its files are meant doesn't follow.
        """
        if self.path is None:
            return ()
        return self._dataset().paths if self.format is Format.DATASET else (self.path,)

    @property
    def name(self) -> str:
        """The name that messages use."""
        return self.label or ("stdin" if self.path is None else str(self.path))

    @property
    def stem(self) -> str:
        """The name without folder and suffixes, by which a batch is called."""
        return self.name if self.path is None else _without_compression(self.path).stem

    @property
    def size_bytes(self) -> int | None:
        """Size of the file, None where it is not known."""
        if self.format is Format.DATASET:
            return self._dataset().size_bytes
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else None

    @contextmanager
    def rows(self) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the source; yields its rows in chunks, and a function that counts the bytes read.

        A template is filled in. Compressed bytes are unpacked, and other encodings become UTF-8;
        the count is that of the file's own bytes. It is 0 where it says nothing: in a pipe, and in
        Parquet, which is not read in order.

        Raises:
            InputError: The file can't be read, or its header is unusable.
        """
        with self.raw_rows(self._columns) as (rows, bytes_read):
            yield filled(rows, self.template), bytes_read

    @property
    def _columns(self) -> WantedColumns:
        if self.template is not None:
            return WantedColumns(self.template.needed, self.template.read)
        return WantedColumns(read=PLAIN_FIELDS)

    @contextmanager
    def raw_rows(
        self, columns: WantedColumns
    ) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the source like `rows`, for the rows as they stand there.

        Args:
            columns: Those to read of a table.
        """
        if self.format is Format.DATASET:
            yield self._dataset().chunks(columns), lambda: 0
            return
        with self._open() as stream:
            counts = stream.seekable() and self.format is not Format.PARQUET
            plain = decoded(stream, self.name)
            if self.format is Format.PARQUET and plain is not stream:
                raise InputError(
                    "a compressed file of Parquet can't be read",
                    where=self.name,
                    remedy="Unpack it; Parquet files are compressed inside",
                )
            rows = _reader_of(self.format)(plain, self.name, columns)
            yield rows, stream.tell if counts else lambda: 0

    def _dataset(self) -> "DatasetFiles":
        from producer.rows.dataset_folder import find_files  # pyarrow, as above

        return find_files(self.path or Path(), subset=self.subset, split=self.split)

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


def refuse_parts(subset: str | None, split: str | None, label: Callable[[str], str]) -> None:
    """Refuse a part of rows that are no dataset.

    Args:
        subset: A part that is named.
        split: A split that is named.
        label: What messages call the options `subset` and `split`.

    Raises:
        InputError: One is named.
    """
    if subset or split:
        where, remedy = label("subset" if subset else "split"), "Leave it out"
        raise InputError("only a dataset's folder has parts", where=where, remedy=remedy)


def _reader_of(row_format: Format) -> RowReader:
    if row_format is Format.PARQUET:
        from producer.rows import parquet_rows  # pyarrow takes 40 MB and 0.1 s

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
