"""Draws a batch's results as a table."""

from collections.abc import Sequence

from routoo.console import formatting
from routoo.console.fitted_table import FittedTable, TableColumn
from routoo.store.results import ResultRecord

_LONGEST_ANSWER = 60


def results_table(records: Sequence[ResultRecord]) -> FittedTable:
    """Return a table of results, an answer cut to one line."""
    table = FittedTable(
        TableColumn(title="custom_id", least=16),
        TableColumn(title="status"),
        TableColumn(title="model", least=20),
        TableColumn(title="answer", least=24, first=True),
        TableColumn(title="expected", rank=3, right=True),
        TableColumn(title="graded", rank=1, right=True),
        TableColumn(title="cost", rank=2, right=True),
        TableColumn(title="latency", rank=4, right=True),
    )
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
