"""Rows of every format become jobs, or say what is wrong with them."""

import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.rows import csv_rows, jsonl_rows
from producer.rows.bad_rows import ProblemList
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck
from producer.rows.formats import RawRow
from producer.rows.problems import ProblemKind
from producer.rows.source import Source
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.validators import Validators
from routoo.errors import InputError
from routoo.store.jobs import JobInput

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def candidate(name: str, window: int) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(base_url="http://localhost:1/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(2)),
        context_window_tokens=window,
        max_completion_tokens=100,
    )


SHOWN = [
    {"type": "text", "text": "What is it?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]
POOL = Pool(models=(candidate("small", 400), candidate("large", 1000)))


def take(
    rows: Any, *, sla: SLA | None = None, ignore_model: bool = False, pool: Pool = POOL
) -> tuple[list[JobInput], ProblemList]:
    check = RowCheck(BodyCheck(pool, ignore_model=ignore_model), sla or SLA(), NOW)
    checked = InputCheck(check, ProblemList("in"))
    jobs = [job for chunk in checked.jobs(rows) for job in chunk]
    return jobs, checked.problems


def from_lines(*lines: bytes, **options: Any) -> tuple[list[JobInput], ProblemList]:
    return take(jsonl_rows.read(io.BytesIO(b"\n".join(lines)), "in"), **options)


def rows_of(path: Path) -> list[list[RawRow]]:
    with Source.of(str(path)).rows() as (rows, _):
        return list(rows)


def request(custom_id: Any = "a", **body: Any) -> bytes:
    messages = {"messages": [{"role": "user", "content": "Why?"}]}
    row = {"method": "POST", "url": "/v1/chat/completions", "body": messages | body}
    return orjson.dumps(row if custom_id is None else row | {"custom_id": custom_id})


def kind_of(line: bytes, **options: Any) -> ProblemKind:
    jobs, problems = from_lines(line, **options)
    assert not jobs
    ((kind, count),) = problems.counts.items()
    assert count == 1
    return kind


def test_an_openai_request_keeps_its_body() -> None:
    jobs, problems = from_lines(request(temperature=0.5, max_tokens=9))
    assert not problems.counts
    assert jobs[0].custom_id == "a"
    assert orjson.loads(jobs[0].body_json) == {
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.5,
        "max_tokens": 9,
    }


def test_a_plain_completion_keeps_its_body() -> None:
    row = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "2 + 2 =", "echo": True}}
    jobs, problems = from_lines(orjson.dumps(row))
    assert not problems.counts
    assert orjson.loads(jobs[0].body_json) == row["body"]


def test_images_need_a_model_that_prices_them_and_a_pinned_job_its_own() -> None:
    seeing = candidate("large", 1000).model_copy(update={"image_prompt_tokens": 100})
    pool = Pool(models=(candidate("small", 400), seeing))
    messages = [{"role": "user", "content": SHOWN}]
    jobs, problems = from_lines(
        request("a", messages=messages),
        request("b", messages=messages, model="large"),
        request("c", messages=messages, model="small"),
        pool=pool,
    )
    assert [job.custom_id for job in jobs] == ["a", "b"]
    assert orjson.loads(jobs[0].body_json)["messages"] == messages
    assert "image_prompt_tokens" in problems.listed[0]


def test_a_file_needs_one_model_that_bounds_all_kinds_of_its_row() -> None:
    hearing = candidate("large", 1000).model_copy(
        update={"part_prompt_tokens": (("input_audio", 2000),)}
    )
    reading = candidate("small", 1000).model_copy(update={"part_prompt_tokens": (("file", 500),)})
    text = {"type": "text", "text": "Sum up."}
    file, sound = {"type": "file", "file": {}}, {"type": "input_audio", "input_audio": {}}
    contents = {"a": [text, file], "b": [text, sound], "c": [text, file, sound]}
    jobs, problems = from_lines(
        *(
            request(name, messages=[{"role": "user", "content": content}])
            for name, content in contents.items()
        ),
        pool=Pool(models=(reading, hearing)),
    )
    assert [job.custom_id for job in jobs] == ["a", "b"]
    assert "file and input_audio parts" in problems.listed[0]
    assert "part_prompt_tokens" in problems.listed[0]


def test_a_plain_row_becomes_a_chat_request_named_after_its_line() -> None:
    jobs, _ = from_lines(b"", b'{"prompt": "Why?", "max_tokens": 5}')
    assert jobs[0].custom_id == "row-2"
    assert orjson.loads(jobs[0].body_json) == {
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 5,
    }


def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_passed_over() -> None:
    jobs, problems = from_lines(b'\xef\xbb\xbf{"prompt": "a"}\r', b"  ", b'{"prompt": "b"}', b"")
    assert [job.custom_id for job in jobs] == ["row-1", "row-3"]
    assert not problems.counts


def test_lists_of_models_come_as_json_or_with_commas() -> None:
    lists = (b'["small"]', b'" small, large,"', b'""', b"null")
    jobs, problems = from_lines(
        *(b'{"prompt": "x", "allowed_models": %s}' % text for text in lists)
    )
    assert not problems.bad_rows
    assert [job.sla.allowed_models for job in jobs] == [("small",), ("small", "large"), None, None]


def test_a_rows_limits_override_the_batch_wide_ones() -> None:
    batch = SLA(min_quality=0.5, max_cost_usd=Decimal("0.1"))
    row = b'{"prompt": "a", "min_quality": 0.9, "max_latency_s": 3, "deadline": "2h"}'
    jobs, _ = from_lines(row, b'{"prompt": "b"}', sla=batch)
    deadline = datetime(2026, 11, 1, 2, tzinfo=UTC)
    assert jobs[0].sla == SLA(0.9, Decimal("0.1"), 3.0, deadline)
    assert jobs[1].sla is batch


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", ProblemKind.MALFORMED_LINE),
        (b"[1]", ProblemKind.MALFORMED_LINE),
        (b'{"prompt": NaN}', ProblemKind.MISSING_FIELD),
        (b'{"prompt": "x", "more": Infinity}', ProblemKind.MALFORMED_LINE),
        (b'{"prompt": "x", "more": 1e400}', ProblemKind.MALFORMED_LINE),
        (b'{"prompt": "x", "more": 18446744073709551616}', ProblemKind.NUMBER_OUT_OF_RANGE),
        (b'{"prompt": "x", "more": -9223372036854775809}', ProblemKind.NUMBER_OUT_OF_RANGE),
        (b'{"prompt": "x", "more": ' + b"9" * 5000 + b"}", ProblemKind.NUMBER_OUT_OF_RANGE),
        (b'{"prompt": "x", "prompt": "y"}', ProblemKind.REPEATED_KEY),
        (b'{"prompt" :"x", "prompt": "y"}', ProblemKind.REPEATED_KEY),
        (b'{"prompt": "x", "prom\\u0070t": "y"}', ProblemKind.REPEATED_KEY),
        (request().replace(b'{"role"', b'{"role":"system","role"'), ProblemKind.REPEATED_KEY),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", ProblemKind.MALFORMED_LINE),
        (b'{"prompt": "\xff\xfe"}', ProblemKind.INVALID_ENCODING),
        (b'{"prompt": "x\\ud800y"}', ProblemKind.LONE_SURROGATE),
        (b'{"prompt": "x", "more": {"\\udfff": 1}}', ProblemKind.LONE_SURROGATE),
        (b'{"prompt": "x\\u0000y"}', ProblemKind.NUL_CHARACTER),
        (b'{"text": "x"}', ProblemKind.MISSING_FIELD),
        (b'{"prompt": 7}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": " \\n"}', ProblemKind.EMPTY_PROMPT),
        (b'{"prompt": "x", "custom_id": 7}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "custom_id": ""}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "custom_id": "' + b"i" * 513 + b'"}', ProblemKind.CUSTOM_ID_TOO_LONG),
        (b'{"prompt": "' + b"long " * 2000 + b'"}', ProblemKind.PROMPT_TOO_LONG),
        (b'{"prompt": "x", "max_tokens": 1000}', ProblemKind.PROMPT_TOO_LONG),
        (b'{"prompt": "x", "max_tokens": 0}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "max_tokens": 1.5}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "min_quality": 1.1}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "denied_models": ["smal"]}', ProblemKind.UNKNOWN_MODEL),
        (b'{"prompt": "x", "allowed_models": {"small": 1}}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "min_quality": true}', ProblemKind.WRONG_TYPE),
        (b'{"prompt": "x", "max_cost_usd": -1}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "max_latency_s": 0}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "deadline": "2026-12-01T00:00:00"}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "deadline": "2020-01-01T00:00:00Z"}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "deadline": "soon"}', ProblemKind.LIMIT_OUT_OF_RANGE),
        (b'{"prompt": "x", "model": "gpt-none"}', ProblemKind.UNKNOWN_MODEL),
        (b'{"prompt": "x", "model": ["small"]}', ProblemKind.UNKNOWN_MODEL),
        (request(None), ProblemKind.MISSING_FIELD),
        (request(stream=True), ProblemKind.UNSUPPORTED_REQUEST),
        (request(n=0), ProblemKind.WRONG_TYPE),
        (request(messages=[]), ProblemKind.MISSING_FIELD),
        (request(messages="Why?"), ProblemKind.MISSING_FIELD),
        (request(messages=[{"content": "no role"}]), ProblemKind.WRONG_TYPE),
        (request(messages=[{"role": "user", "content": 7}]), ProblemKind.WRONG_TYPE),
        (request(messages=[{"role": "user", "content": ["x"]}]), ProblemKind.WRONG_TYPE),
        (request(messages=[{"role": "user", "content": None}]), ProblemKind.EMPTY_PROMPT),
        (b'{"custom_id": "a", "body": "x"}', ProblemKind.WRONG_TYPE),
        (b'{"custom_id": "a", "method": "POST"}', ProblemKind.MISSING_FIELD),
        (request().replace(b"POST", b"GET"), ProblemKind.UNSUPPORTED_REQUEST),
        (request().replace(b"/chat/completions", b"/embeddings"), ProblemKind.UNSUPPORTED_REQUEST),
        (request().replace(b"/chat/completions", b"/completions"), ProblemKind.UNSUPPORTED_REQUEST),
        (request(messages=[{"role": "user", "content": SHOWN}]), ProblemKind.UNSUPPORTED_REQUEST),
        (b'{"custom_id": "a", "body": {"prompt": ["x", "y"]}}', ProblemKind.WRONG_TYPE),
        (b'{"custom_id": "a", "body": {"prompt": " "}}', ProblemKind.EMPTY_PROMPT),
    ],
)
def test_a_bad_row_is_reported_by_its_kind(line: bytes, kind: ProblemKind) -> None:
    assert kind_of(line) is kind


@pytest.mark.parametrize(
    ("url", "body", "words"),
    [
        ("/v1/embeddings", {"input": "x"}, "no quality"),
        ("/v1/responses", {"input": "x"}, "/v1/chat/completions"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}, "Message Batches"),
        ("/v1/moderations", {"input": "x"}, "to the provider itself"),
        ("/v1/completions", {"messages": [{"role": "user", "content": "x"}]}, "/v1/chat"),
        ("/v1/chat/completions", {"prompt": "x"}, "/v1/completions"),
        (7, {"prompt": "x"}, "/v1/completions"),
    ],
)
def test_a_url_that_is_not_served_is_refused_once_with_what_to_do(
    url: object, body: dict[str, Any], words: str
) -> None:
    _, problems = from_lines(orjson.dumps({"custom_id": "a", "url": url, "body": body}))
    assert problems.counts == {ProblemKind.UNSUPPORTED_REQUEST: 1}
    assert words in problems.listed[0]


def test_azure_writes_urls_without_a_version() -> None:
    rows = (
        {"url": "/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}]}},
        {"url": "/completions", "body": {"prompt": "x"}},
    )
    lines = (orjson.dumps({"custom_id": str(no), **row}) for no, row in enumerate(rows))
    jobs, problems = from_lines(*lines)
    assert not problems.counts
    assert len(jobs) == 2


def test_whole_numbers_that_pandas_wrote_as_fractions_are_whole() -> None:
    jobs, problems = from_lines(
        request("a", max_tokens=256.0, seed=7.0, temperature=1.0),
        b'{"prompt": "x", "max_tokens": 9.0}',
    )
    assert not problems.counts
    body = orjson.loads(jobs[0].body_json)
    assert [str(body[name]) for name in ("max_tokens", "seed", "temperature")] == [
        "256",
        "7",
        "1.0",
    ]
    assert str(orjson.loads(jobs[1].body_json)["max_tokens"]) == "9"


def test_nan_in_json_is_an_absent_value() -> None:
    row = b'{"prompt": "NaN \\u00e9", "max_tokens": NaN, "min_quality": NaN}'
    jobs, problems = from_lines(row)
    assert not problems.counts
    assert jobs[0].sla == SLA()
    messages = [{"role": "user", "content": "NaN \u00e9"}]
    assert orjson.loads(jobs[0].body_json) == {"messages": messages}


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1234567890123456789])
def test_large_whole_numbers_are_kept_as_they_are(number: int) -> None:
    jobs, _ = from_lines(request("a", metadata={"n": number, "text": "9" * 30}))
    assert orjson.loads(jobs[0].body_json)["metadata"]["n"] == number


DEEP = b"[" * 400 + b"]" * 400
_TALK = b'"messages":[{"role":"user","content":"%s"}]'


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"a","body":{%s,"x":%s}}' % (_TALK % b"x", DEEP),
        b'{"custom_id":"a","body":{%s,"x":[NaN,%s]}}' % (_TALK % b"x", DEEP),
        b'{"custom_id":"a","body":{%s,"tools":%s}}' % (_TALK % (b"x" * 9000), DEEP),
        b'{"custom_id":"a","params":{"messages":[{"role":"assistant","content":'
        b'[{"type":"tool_use","id":"b","name":"f","input":{"a":%s}}]}]}}' % DEEP,
        b'{"prompt":"x","validate":{"json_schema":{"a":%s}}}' % DEEP,
    ],
)
def test_a_row_nested_too_deep_is_a_bad_row(line: bytes) -> None:
    assert kind_of(line) is ProblemKind.MALFORMED_LINE


def test_a_rule_nested_too_deep_is_a_bad_row() -> None:
    rules = b'{\\"json_schema\\":{\\"a\\":%s}}' % DEEP  # as text, which tables hold
    assert kind_of(b'{"prompt":"x","validate":"%s"}' % rules) is ProblemKind.INVALID_RULE


def test_an_escaped_backslash_before_u0000_is_no_nul_character() -> None:
    jobs, _ = from_lines(b'{"prompt": "a \\\\u0000 in C"}')
    assert "u0000" in jobs[0].body_json


def test_a_whole_surrogate_pair_is_one_character() -> None:
    jobs, _ = from_lines(b'{"prompt": "\\ud83d\\ude00"}')
    assert orjson.loads(jobs[0].body_json)["messages"][0]["content"] == "\U0001f600"


@pytest.mark.parametrize("model", ["auto", "routoo", None])
def test_a_routed_job_stores_no_model(model: str | None) -> None:
    jobs, _ = from_lines(request(model=model))
    assert "model" not in orjson.loads(jobs[0].body_json)


def test_a_pool_members_name_pins_the_job_to_it_and_to_its_window() -> None:
    prompt = "x" * 2000  # about 500 tokens: fits `large` alone
    jobs, problems = from_lines(
        request("a", model="small"),
        request("b", model="small", messages=[{"role": "user", "content": prompt}]),
        request("c", model="large", messages=[{"role": "user", "content": prompt}]),
    )
    assert [job.custom_id for job in jobs] == ["a", "c"]
    assert orjson.loads(jobs[0].body_json)["model"] == "small"
    assert problems.counts == {ProblemKind.PROMPT_TOO_LONG: 1}


def test_model_names_can_be_ignored() -> None:
    jobs, _ = from_lines(request(model="gpt-none"), ignore_model=True)
    assert "model" not in orjson.loads(jobs[0].body_json)


def test_a_prompt_is_measured_with_the_answer_it_asks_for() -> None:
    prompt = "x" * 3000  # about 780 tokens; the default answer leaves 900 for it
    assert from_lines(orjson.dumps({"prompt": prompt}))[0]
    assert from_lines(orjson.dumps({"prompt": prompt, "max_tokens": 200}))[0]
    assert (
        kind_of(orjson.dumps({"prompt": prompt, "max_tokens": 300})) is ProblemKind.PROMPT_TOO_LONG
    )


def test_every_problem_of_a_row_is_reported_with_line_and_remedy() -> None:
    _, problems = from_lines(b"", b'{"custom_id": 1, "prompt": "", "min_quality": 2}')
    assert problems.bad_rows == 1
    assert [line.split(":")[:2] for line in problems.listed] == [["in", "2"]] * 3
    assert problems.listed[1] == (
        "in:2: min_quality is not between 0 and 1 (got 2). Give 0 to 1, as 0.7."
    )


def test_after_fifty_problems_the_rest_is_counted() -> None:
    _, problems = from_lines(*[b"{" + b" " * n for n in range(60)], *[b'{"prompt": ""}'] * 7)
    lines = list(problems.lines())
    assert len(lines) == 51
    assert lines[-1] == "... and 17 more; all by kind: malformed_line 60, empty_prompt 7"


def test_repeated_ids_name_the_line_of_the_first_in_a_chunk_and_across_chunks() -> None:
    lines = [orjson.dumps({"prompt": "x", "custom_id": f"i{n}"}) for n in range(3000)]
    lines[5] = lines[2]
    lines[2999] = lines[2]
    jobs, problems = from_lines(*lines)
    assert len(jobs) == 2998
    assert problems.listed == [
        "in:6: custom_id repeats the one of line 3 (got 'i2'). Give every row its own.",
        "in:3000: custom_id repeats the one of line 3 (got 'i2'). Give every row its own.",
    ]


def test_a_generated_id_that_a_row_already_has_is_a_repeat() -> None:
    _, problems = from_lines(b'{"prompt": "x", "custom_id": "row-2"}', b'{"prompt": "y"}')
    assert problems.counts == {ProblemKind.DUPLICATE_CUSTOM_ID: 1}


def test_csv_rows_have_the_same_fields_and_checks() -> None:
    table = (
        "\ufeffcustom_id,prompt,min_quality,max_tokens,deadline\r\n"
        'a,"Two\nlines, one field",0.5,9,\r\n'
        "\r\n"
        ",No id,,,2h\r\n"
        "c,x,high,,\r\n"
        "d,too,few\r\n"
    )
    jobs, problems = take(csv_rows.read(io.BytesIO(table.encode()), "in"))
    assert [job.custom_id for job in jobs] == ["a", "row-5"]
    assert orjson.loads(jobs[0].body_json)["max_tokens"] == 9
    assert jobs[0].sla == SLA(min_quality=0.5)
    assert [line.split(":")[1] for line in problems.listed] == ["6", "7"]


def test_csv_bytes_that_are_not_utf8_are_a_bad_row() -> None:
    jobs, problems = take(csv_rows.read(io.BytesIO(b"prompt\nfine\nb\xe9d\n"), "in"))
    assert len(jobs) == 1
    assert problems.counts == {ProblemKind.INVALID_ENCODING: 1}


def test_cells_without_a_value_are_absent_as_pandas_writes_them() -> None:
    table = (
        b"custom_id,prompt,min_quality,max_tokens,model\n"
        b"a,x,nan,256.0,NaN\nnan,y,,7.,<NA>\nc,NaN,,,\nd,x,,7.5,\n"
    )
    jobs, problems = take(csv_rows.read(io.BytesIO(table), "in"))
    assert [job.custom_id for job in jobs] == ["a", "row-3"]
    assert [orjson.loads(job.body_json)["max_tokens"] for job in jobs] == [256, 7]
    assert jobs[0].sla == SLA()
    assert problems.counts == {ProblemKind.MISSING_FIELD: 1, ProblemKind.WRONG_TYPE: 1}


def test_parquet_of_pandas_is_read_like_its_csv(tmp_path: Path) -> None:
    nan = float("nan")
    table = {
        "prompt": ["x", "y"],
        "custom_id": [7.0, nan],
        "max_tokens": [256.0, nan],
        "max_cost_usd": [nan, 0.5],
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    jobs, problems = take(rows_of(tmp_path / "rows.parquet"))
    assert not problems.counts
    assert [job.custom_id for job in jobs] == ["7", "row-2"]
    assert [orjson.loads(job.body_json).get("max_tokens") for job in jobs] == [256, None]
    assert [job.sla.max_cost_usd for job in jobs] == [None, Decimal("0.5")]


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a column comes twice"):
        list(csv_rows.read(io.BytesIO(b"prompt,model,prompt\nx,,y\n"), "in"))
    arrays = [pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.table(arrays, names=["prompt", "prompt"]), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="a column comes twice"):
        list(rows_of(tmp_path / "two.parquet"))


def test_csv_without_a_prompt_column_is_refused_whole() -> None:
    with pytest.raises(InputError, match="no column prompt"):
        list(csv_rows.read(io.BytesIO(b"question\nx\n"), "in"))


def test_a_parquet_items_table_is_an_input(tmp_path: Path) -> None:
    table = pa.table(
        {
            "item_id": ["a", "b", "c"],
            "prompt": ["one", None, "three"],
            "answer": ["1", "2", "3"],
            "max_cost_usd": [0.5, None, None],
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    jobs, problems = take(rows_of(tmp_path / "items.parquet"))
    assert [job.custom_id for job in jobs] == ["a", "c"]
    assert jobs[0].sla.max_cost_usd == Decimal("0.5")
    assert problems.counts == {ProblemKind.MISSING_FIELD: 1}


def test_parquet_strings_that_are_not_utf8_are_bad_rows(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"b\xe9d"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"prompt": column}), tmp_path / "bad.parquet")
    jobs, problems = take(rows_of(tmp_path / "bad.parquet"))
    assert len(jobs) == 1
    assert problems.counts == {ProblemKind.INVALID_ENCODING: 1}


def test_a_damaged_parquet_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="can't be read"):
        list(rows_of(tmp_path / "x.parquet"))


def test_a_line_of_many_megabytes_is_one_row() -> None:
    line = b'{"prompt": "x", "padding": "' + b"y" * 20_000_000 + b'"}'
    assert len(from_lines(line, b'{"prompt": "z"}')[0]) == 2


def test_rules_for_answers_are_read_and_merged_with_those_of_the_batch() -> None:
    sla = SLA(validators=Validators(regex="a", not_empty=True))
    lines = [
        b'{"prompt": "a", "validate": {"choices": ["yes", "no"], "not_empty": false}}',
        b'{"prompt": "b"}',
    ]
    jobs, _ = from_lines(*lines, sla=sla)
    assert [job.sla.validators for job in jobs] == [
        Validators(regex="a", choices=("yes", "no")),
        sla.validators,
    ]


@pytest.mark.parametrize(
    "rules",
    [
        b'{"json_schema": {"type": "strin"}}',
        b'{"json_schema": "text"}',
        b'{"regex": "("}',
        b'{"choices": []}',
        b'{"schema": {}}',
        b'{"not_empty": "yes"}',
    ],
)
def test_a_rule_that_cannot_be_applied_is_a_bad_row(rules: bytes) -> None:
    line = b'{"prompt": "a", "validate": ' + rules + b"}"
    assert kind_of(line) is ProblemKind.INVALID_RULE


@pytest.mark.parametrize("rules", [b"7", b'"regex"', b'{"choices": [1]}'])
def test_rules_of_another_type_are_a_bad_row(rules: bytes) -> None:
    assert kind_of(b'{"prompt": "a", "validate": ' + rules + b"}") is ProblemKind.WRONG_TYPE


def test_a_response_format_with_a_bad_schema_is_a_bad_row() -> None:
    def asking(schema: Any) -> bytes:
        named = {"name": "x", "schema": schema}
        return request(response_format={"type": "json_schema", "json_schema": named})

    assert kind_of(asking({"type": "strin"})) is ProblemKind.INVALID_RULE
    assert len(from_lines(asking({"type": "string"}))[0]) == 1
