"""Reads rows chunk by chunk: checks each, finds repeated ids, sorts out what is wrong."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from producer.rows.check import Draft, RowCheck
from producer.rows.duplicates import SeenIds
from producer.rows.problems import BadRow, Kind, Problem, ProblemReport, RawRow


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

    def drafts(self, chunks: Iterable[Sequence[RawRow]]) -> Iterator[list[Draft]]:
        """Yield the good rows of each chunk, in input order."""
        for chunk in chunks:
            self.row_count += len(chunk)
            yield self._take(chunk)

    def _take(self, chunk: Sequence[RawRow]) -> list[Draft]:
        checked = list(map(self.check.check, chunk))
        good = [one for one in checked if type(one) is Draft]
        bad = [one for one in checked if isinstance(one, BadRow)] if len(good) < len(chunk) else []
        lines = [row.line for row, one in zip(chunk, checked, strict=True) if type(one) is Draft]
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
