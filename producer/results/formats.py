"""Names the formats of results, and states what a writer of a format does.

A format is one module of this package whose class is a `ResultWriter`;
`producer.results.export` makes the writer of a format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from routoo.files import check_suffix

if TYPE_CHECKING:
    from routoo.store.results import ResultRecord


class ResultFormat(StrEnum):
    """Formats of results."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Export:
    """The format and the files of an export."""

    format: ResultFormat
    """Not `TABLE`: that one is for the screen."""
    out: Path | None = None
    """None is standard output."""
    errors: Path | None = None
    """JSONL only: the file of the failures; None leaves them out."""

    @classmethod
    def to_file(cls, out: Path) -> Self:
        """Return an export into a file whose name tells the format.

        Raises:
            InputError: It ends in no known suffix.
        """
        suffix = check_suffix(out, BY_SUFFIX, "the format can't be told from the file's name")
        is_jsonl = BY_SUFFIX[suffix] is ResultFormat.JSONL
        return cls(BY_SUFFIX[suffix], out, failures_beside(out) if is_jsonl else None)


BY_SUFFIX = {
    ".jsonl": ResultFormat.JSONL,
    ".csv": ResultFormat.CSV,
    ".parquet": ResultFormat.PARQUET,
}
"""The format that a file's name tells."""


def failures_beside(out: Path) -> Path:
    """Return the file of the failures that belongs to a file of answers."""
    return out.with_name(f"{out.stem}.errors.jsonl")


class ResultWriter(Protocol):
    """Writes results in one format, a chunk at a time; it holds no more than a chunk."""

    def write(self, records: "Sequence[ResultRecord]") -> None:
        """Write some results, in input order."""
        ...

    def close(self) -> None:
        """Write the end of the file, where the format has one; the stream stays open."""
        ...
