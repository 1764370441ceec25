"""Reads rows chunk by chunk: checks each, finds repeated ids, sorts out what is wrong."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from producer.rows.check import Draft, RowCheck
from producer.rows.duplicates import SeenIds
from producer.rows.problems import BadRow, Kind, Problem, ProblemReport, RawRow

CHUNK_ROWS = 512
"""Rows checked and sent together: small, so that the database works while the next are read."""
CHUNK_BYTES = 1 << 20
"""A chunk ends early at this size, so that long prompts take no more memory than short ones."""


@dataclass(slots=True)
class Intake:
    """The checks of one input, with what they found so far."""

    check: RowCheck
    report: ProblemReport
    on_bad_row: Callable[[BadRow], None] | None = None
    """Called for each bad row, in input order."""
    row_count: int = 0
    """Rows read so far, bad ones included."""
    _seen: SeenIds = field(default_factory=SeenIds)

    def drafts(self, rows: Iterable[RawRow]) -> Iterator[list[Draft]]:
        """Yield the good rows of each chunk, in input order."""
        for chunk in _chunks(rows):
            self.row_count += len(chunk)
            yield self._take(chunk)

    def _take(self, chunk: Sequence[RawRow]) -> list[Draft]:
        good: list[Draft] = []
        lines: list[int] = []
        bad: list[BadRow] = []
        for row in chunk:
            checked = self.check.check(row)
            if type(checked) is Draft:
                good.append(checked)
                lines.append(row.line)
            else:
                bad.append(checked)  # type: ignore[arg-type]  # the only other type
        earlier = self._seen.add([draft.custom_id for draft in good], lines)
        if earlier.any():
            by_line = {row.line: row for row in chunk}
            repeats = zip(good, lines, earlier.tolist(), strict=True)
            bad += [_repeat(by_line[line], draft, at) for draft, line, at in repeats if at]
            good = [draft for draft, at in zip(good, earlier.tolist(), strict=True) if not at]
        self._report(bad)
        return good

    def _report(self, bad: list[BadRow]) -> None:
        for one in sorted(bad, key=lambda one: one.row.line):
            self.report.add(one)
            if self.on_bad_row is not None:
                self.on_bad_row(one)


def _repeat(row: RawRow, draft: Draft, earlier_line: int) -> BadRow:
    problem = Problem(
        Kind.DUPLICATE_CUSTOM_ID,
        f"custom_id repeats the one of line {earlier_line}",
        "Give every row its own",
        draft.custom_id,
    )
    return BadRow(row, (problem,))


def _chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    chunk: list[RawRow] = []
    size_bytes = 0
    for row in rows:
        chunk.append(row)
        size_bytes += _size_bytes(row)
        if len(chunk) >= CHUNK_ROWS or size_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


def _size_bytes(row: RawRow) -> int:
    if isinstance(row.raw, bytes):
        return len(row.raw)
    return sum([len(value) for value in row.raw.values() if isinstance(value, str)])
