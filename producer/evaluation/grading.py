"""Reads reference answers and grades a batch's answers against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from routoo.domain.items import Item
from routoo.domain.prompt import prompt_text
from routoo.errors import InputError
from routoo.evaluation.item_grading import check_gradable, grade_item
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.evaluation import grades
from routoo.store.evaluation.grades import Gradable, GradeRecord

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
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            "the references can't be read", value=error.strerror, where=str(path)
        ) from error
    references: dict[str, Reference] = {}
    for number, line in enumerate(lines, start=1):
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
