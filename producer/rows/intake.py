"""Reads rows chunk by chunk: checks each, finds repeated ids, sorts out what is wrong."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from producer.rows.check import RowCheck
from producer.rows.problems import BadRow, Kind, Problem, ProblemReport, RawRow
from producer.rows.seen_ids import SeenIds
from routoo.store.jobs import JobInput


@dataclass(slots=True)
class Intake:
    """The checks of one input, with what they found so far."""

    check: RowCheck
    report: ProblemReport
    on_bad_row: Callable[[BadRow], None] | None = None
    """Called for each bad row, in input order."""
    row_count: int = 0
    """Rows read so far, bad ones included."""
    job_count: int = 0
    """Good rows among them."""
    _seen: SeenIds = field(default_factory=SeenIds)

    def jobs(self, chunks: Iterable[Sequence[RawRow]]) -> Iterator[list[JobInput]]:
        """Yield the jobs of each chunk's good rows, numbered in input order."""
        for chunk in chunks:
            self.row_count += len(chunk)
            jobs = self._take(chunk)
            for number, job in enumerate(jobs, self.job_count):
                job.job_no = number
            self.job_count += len(jobs)
            yield jobs

    def _take(self, chunk: Sequence[RawRow]) -> list[JobInput]:
        checked = [self.check.check(row) for row in chunk]
        pairs = zip(chunk, checked, strict=True)
        good = {row.line: one for row, one in pairs if isinstance(one, JobInput)}
        bad = [one for one in checked if isinstance(one, BadRow)]
        earlier = self._seen.add([job.custom_id for job in good.values()], list(good))
        if earlier.any():
            by_line = {row.line: row for row in chunk}
            for line, at in zip(list(good), earlier.tolist(), strict=True):
                if at:
                    bad.append(_repeat(by_line[line], good.pop(line), at))
        self._report(bad)
        return list(good.values())

    def _report(self, bad: list[BadRow]) -> None:
        for one in sorted(bad, key=lambda one: one.row.line):
            self.report.add(one)
            if self.on_bad_row is not None:
                self.on_bad_row(one)


def _repeat(row: RawRow, job: JobInput, earlier_line: int) -> BadRow:
    problem = Problem(
        Kind.DUPLICATE_CUSTOM_ID,
        f"custom_id repeats the one of line {earlier_line}",
        "Give every row its own",
        job.custom_id,
    )
    return BadRow(row, (problem,))
