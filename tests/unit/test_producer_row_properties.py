"""Properties of reading rows: every row is a job or a problem, and repeats are found."""

import contextlib
import io
import json
from datetime import UTC, datetime, timedelta

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from producer.rows import csv_rows, jsonl_rows, parquet_rows
from producer.rows.bad_rows import BadRow, ProblemList
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck, _known_shape
from producer.rows.limits import LimitError, read_deadline
from producer.rows.problems import ProblemKind
from producer.rows.seen_ids import SeenIds
from routoo.domain.job import SLA
from routoo.errors import InputError
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


NAMES = st.sampled_from(
    [
        *("custom_id", "prompt", "body", "method", "url", "model", "messages", "role", "content"),
        *("params", "system", "tools", "tool_choice", "thinking", "stop_sequences", "metadata"),
        *("type", "text", "source", "data", "media_type", "cache_control", "name", "input_schema"),
        *("tool_use_id", "id", "input", "budget_tokens", "response_format", "json_schema"),
        *("schema", "n", "max_tokens", "image_url", "file", "validate", "deadline", "models"),
        *("max_cost_usd", "min_quality", "max_latency_s", "stream", "output_config", "effort"),
    ]
)
WORDS = st.sampled_from(
    [
        *("user", "assistant", "tool", "text", "image", "base64", "image/png", "document"),
        *("tool_use", "tool_result", "enabled", "auto", "small", "POST", "/v1/chat/completions"),
        *("json_schema", "\x00", "\ud800", "1e999", "2h"),
    ]
)
ANY = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS,
        st.integers(2**31, 2**80),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(NAMES, st.text(max_size=3)), inner, max_size=5),
    ),
    max_leaves=20,
)  # fmt: skip
FIELDS = st.dictionaries(NAMES, ANY, max_size=6)
MESSAGE = st.fixed_dictionaries({"role": WORDS, "content": ANY})
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(st.one_of(MESSAGE, ANY), max_size=3), "max_tokens": st.just(9)},
    optional={"system": ANY, "tools": ANY, "tool_choice": ANY, "thinking": ANY, "model": ANY},
)
ROWS = st.one_of(
    FIELDS,
    st.builds(lambda body, more: {**more, "body": body}, REQUEST, FIELDS),
    st.builds(lambda params: {"custom_id": "a", "params": params}, REQUEST),
)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_any_fields_of_a_row_are_a_job_or_a_problem(rows: list[dict[str, object]]) -> None:
    data = b"\n".join(json.dumps(row).encode() for row in rows)
    checked = InputCheck(RowCheck(BodyCheck(pool_of("small")), SLA(), NOW), ProblemList("in"))
    jobs = [job for chunk in checked.jobs(jsonl_rows.read(io.BytesIO(data), "in")) for job in chunk]
    assert len(jobs) + checked.problems.bad_rows == checked.row_count == len(rows)


CELLS = st.sampled_from(
    [
        (pa.string(), st.text(max_size=8)),
        (pa.binary(), st.binary(max_size=8)),
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.float64(), st.floats()),
        (pa.bool_(), st.booleans()),
        (pa.list_(pa.string()), st.lists(st.text(max_size=4), max_size=3)),
        (pa.struct([("role", pa.string())]), st.fixed_dictionaries({"role": st.text(max_size=4)})),
        (pa.timestamp("us"), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1))),  # noqa: DTZ001 - a naive cell is what is meant
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Draw a Parquet file with a prompt and other columns, of any types."""
    names = {"prompt", *draw(st.lists(NAMES, max_size=4))}
    count = draw(st.integers(0, 4))
    columns = {}
    for name in sorted(names):
        kind, values = draw(CELLS)
        cells = draw(st.lists(st.one_of(st.none(), values), min_size=count, max_size=count))
        columns[name] = pa.array(cells, kind)
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_a_damaged_parquet_file_is_refused() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["Why?"]}), file)
    damaged = file.getvalue().replace(b"schema", b"sch\x80ma").replace(b"prompt", b"\x80rompt")
    with pytest.raises(InputError, match="Parquet"):
        list(parquet_rows.read(io.BytesIO(damaged), "in"))


def test_a_time_that_no_date_can_be_is_refused() -> None:
    file = io.BytesIO()
    cells = {"prompt": ["Why?"], "deadline": pa.array([2**62], pa.timestamp("us"))}
    pq.write_table(pa.table(cells), file)
    with pytest.raises(InputError, match="Parquet"):
        list(parquet_rows.read(file, "in"))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"messages": [{"role": "user", "content": "Why?"}]}, None),
        ({"prompt": "Why?"}, None),
        ({"role": "user"}, ProblemKind.MISSING_FIELD),
        ({"messages": None, "max_tokens": 3}, ProblemKind.MISSING_FIELD),
        ({"messages": [{"role": "user", "content": None}]}, ProblemKind.EMPTY_PROMPT),
        ({"prompt": "Why?", "stop": b"x"}, ProblemKind.WRONG_TYPE),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 10**6}]}]},
            ProblemKind.PROMPT_TOO_LONG,
        ),
    ],
)
def test_a_body_that_is_a_cell_of_a_table_is_checked_like_any_other(
    body: dict[str, object], problem: ProblemKind | None
) -> None:
    file = io.BytesIO()
    cells = {"custom_id": ["a"], "prompt": pa.array([None], pa.string()), "body": [body]}
    pq.write_table(pa.table(cells), file)
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    ((row,),) = parquet_rows.read(file, "in")
    checked = check.check(row)
    found = [one.kind for one in checked.problems] if isinstance(checked, BadRow) else None
    assert found == (None if problem is None else [problem])


@settings(deadline=None)
@given(tables(), st.one_of(st.none(), st.tuples(st.floats(0, 1), st.integers(0, 255))))
def test_any_parquet_row_is_a_job_or_a_problem(
    data: bytes, damage: tuple[float, int] | None
) -> None:
    if damage is not None:
        place = min(int(damage[0] * len(data)), len(data) - 1)
        data = data[:place] + bytes([damage[1]]) + data[place + 1 :]
    checked = InputCheck(RowCheck(BodyCheck(pool_of("small")), SLA(), NOW), ProblemList("in"))
    read = checked.jobs(parquet_rows.read(io.BytesIO(data), "in"))
    with contextlib.nullcontext() if damage is None else contextlib.suppress(InputError):
        jobs = [job for chunk in read for job in chunk]
        assert len(jobs) + checked.problems.bad_rows == checked.row_count


TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(['"body":', '","body":{', "\\", " "]))
ODD: st.SearchStrategy[object] = st.one_of(
    st.none(), st.integers(-1, 3), st.just([]), st.sampled_from([1.0, True])
)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.just("user"), "content": st.one_of(TEXTS, ODD)}),
        st.fixed_dictionaries({"content": TEXTS, "name": TEXTS}),
        st.just({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}),
        ODD,
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"messages": st.one_of(MESSAGES, ODD)},
    optional={
        "max_tokens": st.one_of(st.integers(0, 40_000), ODD),
        "max_completion_tokens": ODD,
        "model": st.sampled_from(["auto", "small", "none"]),
        "n": ODD,
        "prompt": TEXTS,
        "response_format": st.just({"type": "json_schema"}),
        "stream": st.booleans(),
        "tools": st.lists(st.text(max_size=200), max_size=3),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"custom_id": st.one_of(TEXTS, st.just("x" * 600), ODD)},
    optional={
        "method": st.sampled_from(["POST", "GET", None]),
        "url": st.one_of(st.sampled_from(["/v1/chat/completions", "/v1/completions"]), ODD),
        "body": st.one_of(BODIES, ODD),
        "other": TEXTS,
    },
)


@given(requests=st.lists(REQUESTS, min_size=1, max_size=3), reverse=st.booleans())
@example(requests=[{"custom_id": "\x00"}], reverse=False)
def test_usual_requests_are_checked_like_all_others(
    *, requests: list[dict[str, object]], reverse: bool
) -> None:
    step = -1 if reverse else 1
    texts = [orjson.dumps({name: one[name] for name in list(one)[::step]}) for one in requests]
    rows = [jsonl_rows.raw_row(number, text) for number, text in enumerate(texts, 1)]
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    usual = check.usual_jobs(rows)
    for row, text in zip(rows, texts, strict=True):
        assert row.compact == (text.decode() if isinstance(row.fields, dict) else None)
    if usual is not None:
        assert usual == [check.check(row) for row in rows]
        assert not check.ignored


def test_requests_such_as_most_are_checked_at_once() -> None:
    body = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 64, "temperature": 0}
    rows = [{"custom_id": f"{n}", "method": "POST", "body": body} for n in range(3)]
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (chunk,) = jsonl_rows.read(io.BytesIO(data), "in")
    jobs = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW).usual_jobs(chunk)
    assert jobs is not None
    assert [job.custom_id for job in jobs] == ["0", "1", "2"]
    assert [orjson.loads(job.body_json) for job in jobs] == [body] * 3


def test_names_of_a_row_that_fill_memory_are_not_kept() -> None:
    _known_shape.cache_clear()
    for row in ({"x" * 2000: 1}, {f"name {n}": 1 for n in range(200)}):
        raw = jsonl_rows.raw_row(1, orjson.dumps({"prompt": "Why?", **row}))
        RowCheck(BodyCheck(pool_of("small")), SLA(), NOW).check(raw)
    assert _known_shape.cache_info().currsize == 0


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
