"""Reads items and reference answers, collects what is wrong in them, and grades a batch."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from producer.rows.problems import find_unstorable_text
from routoo.domain.items import Item, item_of
from routoo.domain.prompt import prompt_text
from routoo.errors import InputError, NotFoundError
from routoo.evaluation.item_grading import check_gradable, check_reference, grade_item
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.evaluation import grades
from routoo.store.evaluation.grades import Gradable, GradeRecord

LONGEST_ID = 256
"""Characters: an id and a model's name together make a custom_id."""
_WHOLE = ("max_tokens",)


@dataclass(slots=True)
class ItemFile:
    """The items of a file, and the problems of the others."""

    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """A message for each row that can't be used: where, what, remedy."""


def read_item_file(path: Path, *, references: bool) -> ItemFile:
    """Read JSONL, CSV or Parquet, one item a row.

    Args:
        path: The file; its suffix tells the format.
        references: Whether every item must have a reference that its grader can use.

    Returns:
        The good items in order, and what is wrong with the others.

    Raises:
        NotFoundError: There is no such file.
        InputError: The file as a whole can't be read.
    """
    if not path.exists():
        raise NotFoundError("no such file", where=str(path))
    found, seen = ItemFile(), set[str]()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        try:
            item = _checked(row, number, where, references=references)
            _check_id(seen, item.item_id, where)
        except InputError as error:
            found.problems.append(str(error))
        else:
            found.items.append(item)
    return found


def _check_id(seen: set[str], item_id: str, where: str) -> None:
    if item_id in seen:
        raise InputError(
            "the item_id repeats an earlier one",
            value=item_id,
            where=where,
            remedy="Give every item its own",
        )
    seen.add(item_id)


def _checked(
    row: Mapping[str, Any] | InputError, number: int, where: str, *, references: bool
) -> Item:
    if isinstance(row, InputError):
        raise row
    bad = find_unstorable_text(dict(row))
    if bad is not None:
        raise InputError(bad.what, where=where, remedy=bad.remedy)
    item = item_of(row, number, where)
    if not item.prompt.strip():
        raise InputError("the prompt is empty", where=where, remedy="Write one")
    if len(item.item_id) > LONGEST_ID:
        raise InputError(
            f"item_id has more than {LONGEST_ID} characters",
            where=where,
            remedy="Use a shorter key, such as a hash of it",
        )
    if references:
        _check_reference(item, where)
    return item


def _check_reference(item: Item, where: str) -> None:
    try:
        check_reference(item)
    except InputError as error:
        raise InputError(error.what, value=error.value, where=where, remedy=error.remedy) from error


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            yield from enumerate(pq.read_table(path).to_pylist(), 1)
        elif path.suffix.lower() == ".csv":
            yield from _csv_rows(path)
        else:
            yield from _json_rows(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            "the items can't be read", value=str(error)[:200], where=str(path)
        ) from error


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, _not_json(f"{path}:{number}", str(error))
        else:
            yield number, row if isinstance(row, dict) else _not_json(f"{path}:{number}", None)


def _not_json(where: str, value: str | None) -> InputError:
    remedy = 'Write {"prompt": ..., "answer": ...} on one line'
    return InputError("the line is no JSON object", value=value, where=where, remedy=remedy)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            if None in row:
                yield (
                    reader.line_num,
                    InputError(
                        "the row has more fields than the header",
                        where=f"{path}:{reader.line_num}",
                        remedy="Quote fields that hold commas",
                    ),
                )
                continue
            given: dict[str, Any] = {name: value for name, value in row.items() if value}
            for name in _WHOLE:
                if str(given.get(name, "")).isdecimal():
                    given[name] = int(given[name])
            yield reader.line_num, given


_CHUNK = 1_000
_REFERENCE_LINE = '{"custom_id": ..., "answer": ..., "grader": ...}'


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
    references: dict[str, Reference] = {}
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            custom_id, reference = _parse_reference(line, f"{path}:{number}")
            if custom_id in references:
                raise InputError(
                    "the custom_id has two references",
                    value=custom_id,
                    where=f"{path}:{number}",
                    remedy="Keep one; alternatives of an answer are separated by |",
                )
            references[custom_id] = reference
    return references


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            "the references can't be read", value=error.strerror, where=str(path)
        ) from error


def _parse_reference(line: bytes, where: str) -> tuple[str, Reference]:
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
            "the line is no reference", where=where, remedy=f"Write {_REFERENCE_LINE} on one line"
        ) from error


@dataclass(slots=True)
class GradeCounts:
    """How many of a batch's answers were graded, and how well."""

    graded: int = 0
    """Jobs with a grade, those without an answer among them: they count as wrong."""
    score_sum: float = 0.0
    ungraded: int = 0
    """Answers that can be read in more than one way."""
    without_reference: int = 0

    @property
    def mean_score(self) -> float | None:
        """Share of the graded jobs that were answered well; None before the first."""
        return self.score_sum / self.graded if self.graded else None


async def grade_batch(
    database: Database, batch: BatchRecord, references: Mapping[str, Reference]
) -> GradeCounts:
    """Grade every job that has ended, and save the grades.

    Grading again replaces earlier grades.

    Raises:
        InputError: A reference does not suit its grader.
    """
    check_gradable([_item(custom_id, "", reference) for custom_id, reference in references.items()])
    counts = GradeCounts()
    async with database.transaction() as reading:
        chunk: list[GradeRecord] = []
        async for job in grades.iterate_gradable(reading, batch.id):
            grade = _grade(job, references.get(job.custom_id), counts)
            if grade is not None:
                chunk.append(grade)
            if len(chunk) >= _CHUNK:
                await _save(database, batch, chunk)
                chunk = []
        await _save(database, batch, chunk)
    return counts


async def _save(database: Database, batch: BatchRecord, chunk: list[GradeRecord]) -> None:
    async with database.transaction() as conn:
        await grades.save(conn, batch.id, chunk)


def _grade(job: Gradable, reference: Reference | None, counts: GradeCounts) -> GradeRecord | None:
    if reference is None:
        counts.without_reference += 1
        return None
    if job.answer is None:
        counts.graded += 1
        return GradeRecord(job.job_no, 0.0, "none", "the job has no answer")
    item = _item(job.custom_id, prompt_text(orjson.loads(job.body_json)), reference)
    given = grade_item(item, job.answer)
    if given.score is None:
        counts.ungraded += 1
    else:
        counts.graded += 1
        counts.score_sum += given.score
    return GradeRecord(job.job_no, given.score, reference.grader or "default", given.detail)


def _item(custom_id: str, prompt: str, reference: Reference) -> Item:
    return Item(
        custom_id,
        prompt,
        answer=reference.answer,
        grader=reference.grader,
        grader_options=reference.grader_options,
    )
