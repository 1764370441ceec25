"""Reads and writes the ids of files and batches as the API shows them."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from producer.gateway.errors import ApiError

_BATCH = "batch_"
_FILE = "file-"


class FileKind(StrEnum):
    """What a file's id names."""

    UPLOAD = "upload"
    """A file that was uploaded."""
    OUTPUT = "output"
    """The answers of a batch; the id is the batch's."""
    ERRORS = "errors"
    """The rows of a batch without an answer; the id is the batch's."""


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file is meant."""

    kind: FileKind
    id: UUID

    def __str__(self) -> str:
        """Return the id as the API shows it."""
        kind = "" if self.kind is FileKind.UPLOAD else f"{self.kind}-"
        return f"{_FILE}{kind}{self.id.hex}"


def batch_id_text(batch_id: UUID) -> str:
    """Return a batch's id as the API shows it."""
    return f"{_BATCH}{batch_id.hex}"


def read_batch_id(text: str) -> UUID:
    """Return the batch that an id names; the bare id is taken too.

    Raises:
        ApiError: It is no id of a batch.
    """
    return _uuid(text.removeprefix(_BATCH), text, "batch")


def read_file_id(text: str, *, param: str | None = None) -> FileId:
    """Return the file that an id names.

    Raises:
        ApiError: It is no id of a file.
    """
    kind, _, bare = text.removeprefix(_FILE).rpartition("-")
    if kind not in {"", FileKind.OUTPUT, FileKind.ERRORS}:
        raise _not_found(text, "file", param)
    return FileId(FileKind(kind or FileKind.UPLOAD), _uuid(bare, text, "file", param))


def _uuid(bare: str, text: str, what: str, param: str | None = None) -> UUID:
    try:
        return UUID(bare)
    except ValueError:
        raise _not_found(text, what, param) from None


def _not_found(text: str, what: str, param: str | None) -> ApiError:
    return ApiError(404, f"No such {what}: {text[:80]!r}.", param=param)
