"""Reference answers of a batch, by custom_id: what `grade` compares with."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from routoo.errors import InputError

_KEYS = '{"custom_id": ..., "answer": ..., "grader": ...}'


@dataclass(frozen=True, slots=True)
class Reference:
    """The right answer to one job."""

    answer: str
    grader: str | None = None
    """Name of a grader; the one that fits the answer where unset."""
    grader_options: str | None = None
    """The grader's options as a JSON object."""


def read_references(path: Path) -> dict[str, Reference]:
    """Read a JSONL file of references.

    Raises:
        InputError: The file can't be read, or a line is no reference; names file and line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            "the references can't be read", value=error.strerror, where=str(path)
        ) from error
    references: dict[str, Reference] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            custom_id, reference = _parse(line, f"{path}:{number}")
            if custom_id in references:
                raise InputError(
                    "the custom_id has two references",
                    value=custom_id,
                    where=f"{path}:{number}",
                    remedy="Keep one; alternatives of an answer are separated by |",
                )
            references[custom_id] = reference
    return references


def _parse(line: bytes, where: str) -> tuple[str, Reference]:
    try:
        row = orjson.loads(line)
        options = row.get("grader_options")
        reference = Reference(
            str(row["answer"]),
            row.get("grader"),
            None if options is None else orjson.dumps(options).decode(),
        )
        return str(row["custom_id"]), reference
    except (orjson.JSONDecodeError, AttributeError, KeyError) as error:
        raise InputError(
            "the line is no reference", where=where, remedy=f"Write {_KEYS} on one line"
        ) from error
