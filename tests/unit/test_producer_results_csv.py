"""What CSV exports do with texts that a spreadsheet would run."""

import csv
import io
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from producer.results.export import CsvWriter
from routoo.store.results import ResultRecord


def record(answer: str) -> ResultRecord:
    given: dict[str, Any] = dict.fromkeys(one.name for one in fields(ResultRecord))
    given |= {"job_no": 0, "custom_id": "job-0", "status": "succeeded", "answer": answer}
    given |= {
        "source": "call",
        "decision": "direct",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return ResultRecord(**given)


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("- a list", "'- a list"),
        ("\t=1", "'\t=1"),
        ("-5", "-5"),
        ("+3.25", "+3.25"),
        ("4 = 2 + 2", "4 = 2 + 2"),
    ],
)
def test_a_text_that_is_no_number_and_begins_like_a_formula_is_written_as_text(
    answer: str, cell: str
) -> None:
    stream = io.BytesIO()
    writer = CsvWriter(stream)
    writer.write([record(answer)])
    writer.close()
    (row,) = csv.DictReader(io.StringIO(stream.getvalue().decode(), newline=""))
    assert row["answer"] == cell
