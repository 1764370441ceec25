"""Turns an input's bytes into plain UTF-8: unpacks gzip and zstd, converts UTF-16 and UTF-32.

What an input is in is told by its first bytes, never by its name. Memory stays the same however
long the input is.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable
from typing import BinaryIO

from routoo.errors import InputError

_PIECE_BYTES = 1 << 17
_BUFFER_BYTES = 1 << 18
_MOST_LAYERS = 4
"""Such as UTF-16 in gzip in gzip."""
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
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
    if head == _ZSTD or (head[1:] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F):  # noqa: PLR2004
        return _zstd(stream)
    if head in _UTF_32:
        return _transcoded(stream, "utf-32")
    return _transcoded(stream, "utf-16") if head[:2] in _UTF_16 else None


def _zstd(stream: io.BufferedReader) -> _NextPiece:
    import pyarrow as pa  # noqa: PLC0415 - it takes 40 MB and 0.1 s, and zstd input is rare

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
