"""Properties of reading rows: every row is a job or a problem, and repeats are found."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from producer.rows import csv_rows, jsonl_rows
from producer.rows.bad_rows import ProblemList
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck, SeenIds
from producer.rows.limits import LimitError, read_deadline
from routoo.domain.job import SLA
from tests.batch_factory import pool_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@given(st.lists(st.lists(st.integers(0, 300).map(str), max_size=40), max_size=20))
def test_repeats_are_found_like_a_dictionary_would(chunks: list[list[str]]) -> None:
    seen, first_lines, line = SeenIds(), dict[str, int](), 0
    for chunk in chunks:
        lines = list(range(line + 1, line + 1 + len(chunk)))
        found = seen.add(chunk, lines).tolist()
        expected = []
        for custom_id, number in zip(chunk, lines, strict=True):
            expected.append(first_lines.get(custom_id, 0))
            first_lines.setdefault(custom_id, number)
        assert found == expected
        line += len(chunk)


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(
            [b'{"prompt": "x"}', b'{"body": {}}', b'{"prompt": "\\ud800"}', b"[" * 2000]
        ),
    ),
    max_size=10,
)


@given(LINES)
def test_any_line_is_a_job_or_a_problem(lines: list[bytes]) -> None:
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    checked = InputCheck(check, ProblemList("in"))
    data = b"\n".join(lines)
    assume(not data.lstrip().startswith(b"["))  # an array, which is refused where more follows it
    jobs = [job for chunk in checked.jobs(jsonl_rows.read(io.BytesIO(data), "in")) for job in chunk]
    assert len(jobs) + checked.problems.bad_rows == checked.row_count


@given(LINES)
def test_any_csv_row_is_a_job_or_a_problem(lines: list[bytes]) -> None:
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    checked = InputCheck(check, ProblemList("in"))
    data = b"\n".join([b"custom_id,prompt,max_tokens", *lines])
    jobs = [job for chunk in checked.jobs(csv_rows.read(io.BytesIO(data), "in")) for job in chunk]
    assert len(jobs) + checked.problems.bad_rows == checked.row_count


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("2h", timedelta(hours=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5d", timedelta(hours=36)),
        ("2026-11-01T03:00:00+02:00", timedelta(hours=1)),
    ],
)
def test_a_deadline_is_an_instant_or_a_time_from_now(text: str, ahead: timedelta) -> None:
    assert read_deadline(text, NOW) == NOW + ahead


@pytest.mark.parametrize("text", ["", "2", "h", "2h later", "0s", "9e9d", "99999999999d", 7, None])
def test_anything_else_is_no_deadline(text: object) -> None:
    with pytest.raises(LimitError):
        read_deadline(text, NOW)
