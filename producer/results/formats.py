"""Names the formats of results, and states what a writer of a format does.

A format is one module of this package whose class is a `ResultWriter`;
`producer.results.export` makes the writer of a format.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from routoo.errors import InputError
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


def chosen_export(
    result_format: ResultFormat | None, out: Path | None, errors: Path | None
) -> Export:
    """Return the export that a command's options --format, --out and --errors ask for.

    Raises:
        InputError: They exclude each other.
    """
    by_suffix = None if out is None else BY_SUFFIX.get(out.suffix.lower(), ResultFormat.JSONL)
    chosen = result_format or by_suffix or ResultFormat.TABLE
    if chosen is ResultFormat.TABLE and out is not None:
        raise InputError("a table is only for the screen", where="--format", remedy="Choose jsonl")
    if chosen is ResultFormat.PARQUET and out is None and sys.stdout.isatty():
        raise InputError("Parquet is no text", where="--format", remedy="Name a file with --out")
    if errors is None and out is not None and chosen is ResultFormat.JSONL:
        errors = failures_beside(out)
    if errors is not None and chosen is not ResultFormat.JSONL:
        raise InputError(
            "only JSONL has a file of failures",
            where="--errors",
            remedy="Leave it out: CSV and Parquet hold the failed jobs too",
        )
    return Export(chosen, out, errors)


class ResultWriter(Protocol):
    """Writes results in one format, a chunk at a time; it holds no more than a chunk."""

    def write(self, records: "Sequence[ResultRecord]") -> None:
        """Write some results, in input order."""
        ...

    def close(self) -> None:
        """Write the end of the file, where the format has one; the stream stays open."""
        ...
