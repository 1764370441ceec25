"""Results as a table for people."""

from collections.abc import Sequence

from rich.table import Table

from routoo.console import formatting
from routoo.store.results import ResultRecord

_LONGEST_ANSWER = 60


def results_table(records: Sequence[ResultRecord]) -> Table:
    """Return a table of results, an answer cut to one line."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("custom_id", "status", "model", "answer"):
        table.add_column(name, overflow="ellipsis", no_wrap=name != "answer")
    for name in ("expected", "graded", "cost", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            record.custom_id,
            record.status,
            record.model or "-",
            _one_line(record.answer if record.answer is not None else _error(record)),
            _quality(record.expected_quality),
            _quality(record.quality),
            formatting.usd(record.cost_usd),
            "-" if record.latency_s is None else f"{record.latency_s:.2f} s",
        )
    return table


def _one_line(text: str) -> str:
    # Answers are a model's: control characters could rewrite the terminal.
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST_ANSWER else f"{line[: _LONGEST_ANSWER - 3]}..."


def _error(record: ResultRecord) -> str:
    return f"{record.error_code}: {record.error_message}"


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
