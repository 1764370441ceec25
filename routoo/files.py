"""Writes files whole or not at all, hashes them, and checks the suffixes of their names."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from routoo.errors import InputError

_MODE = 0o666


def check_suffix(path: Path, suffixes: Collection[str], what: str) -> str:
    """Return a file name's suffix in lower case, after checking that it is one of those allowed.

    Args:
        path: The file.
        suffixes: Those allowed, each with its full stop.
        what: What the error says is wrong.

    Raises:
        InputError: The suffix is another one.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise InputError(
            what,
            value=path.suffix,
            where=str(path),
            remedy=f"End the file's name in {', '.join(suffixes)}",
        )
    return suffix


def files_sha256(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of what files hold, one after the other.

    Raises:
        InputError: One can't be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        except OSError as error:
            what = "the file can't be read"
            raise InputError(what, value=error.strerror, where=str(path)) from error
    return digest.hexdigest()


@contextmanager
def replacing(path: Path | None) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    None stands for standard output; other than regular files are written directly.

    Raises:
        InputError: The folder can't be written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = path.resolve()  # a link stays one: what it points to is replaced
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:  # a device or a pipe can't be replaced
            yield stream
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(
            "the file can't be written",
            value=error.strerror,
            where=str(path),
            remedy="Give a folder that exists and can be written",
        ) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(_MODE & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
