"""Rows of Anthropic's Message Batches become chat requests, or say what can't be said in one."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from producer.rows.problems import ProblemKind
from routoo.domain.endpoint import ApiFormat, Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from tests.unit.test_producer_rows import POOL, from_lines

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
MARK = {"cache_control": {"type": "ephemeral"}}


def pool_of(*formats: ApiFormat) -> Pool:
    models = (
        CandidateModel(
            name=f"m{number}",
            endpoint=Endpoint(base_url="http://localhost:1/v1", format=one),
            price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(2)),
            context_window_tokens=100_000,
            image_prompt_tokens=10,
            part_prompt_tokens={"file": 100},
        )
        for number, one in enumerate(formats)
    )
    return Pool(models=tuple(models))


MIXED = pool_of(ApiFormat.OPENAI, ApiFormat.ANTHROPIC)
NATIVE = pool_of(ApiFormat.ANTHROPIC)


def row(*messages: dict[str, Any], **params: Any) -> bytes:
    given = list(messages) or [{"role": "user", "content": "Why?"}]
    return orjson.dumps({"custom_id": "a", "params": {"messages": given, **params}})


def body_of(line: bytes, pool: Pool = MIXED) -> dict[str, Any]:
    jobs, problems = from_lines(line, pool=pool)
    assert not problems.listed
    body: dict[str, Any] = orjson.loads(jobs[0].body_json)
    return body


def problem_of(line: bytes, pool: Pool = MIXED) -> str:
    jobs, problems = from_lines(b"", line, pool=pool)
    assert not jobs
    (listed,) = problems.listed
    assert listed.startswith("in:2: ")
    return listed


def test_both_forms_stand_in_one_file() -> None:
    openai = b'{"custom_id": "b", "body": {"messages": [{"role": "user", "content": "x"}]}}'
    jobs, problems = from_lines(
        row(max_tokens=9, temperature=0.5, top_p=1), openai, b'{"prompt":"y"}'
    )
    assert not problems.listed
    assert [job.custom_id for job in jobs] == ["a", "b", "row-3"]
    assert orjson.loads(jobs[0].body_json) == {
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1,
    }


def test_the_system_its_blocks_and_stops_are_translated() -> None:
    system = [{"type": "text", "text": "Be brief.", **MARK}]
    body = body_of(row(system=system, stop_sequences=["END"], metadata={"user_id": "u"}))
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["stop"], body["user"]) == (["END"], "u")


def test_content_blocks_are_translated() -> None:
    pdf = {"type": "document", "title": "a.pdf", "source": {**IMAGE["source"]}}
    text = {"type": "document", "source": {"type": "text", "data": "plain"}}
    said = {"role": "user", "content": [{"type": "text", "text": "See"}, IMAGE, pdf, text]}
    parts = body_of(row(said))["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "file", "text"]
    assert parts[1]["image_url"]["url"] == "data:image/png;base64,aGk="
    assert parts[2]["file"]["filename"] == "a.pdf"


def test_tools_are_translated_with_their_calls_and_results() -> None:
    use = {"type": "tool_use", "id": "t", "name": "add", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "2"}]}
    body = body_of(
        row(
            {"role": "user", "content": "add"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
            tools=[{"name": "add", "input_schema": {"type": "object"}}],
            tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
        )
    )
    assert body["tools"][0]["function"] == {"name": "add", "parameters": {"type": "object"}}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["parallel_tool_calls"] is False
    _, called, answered, after = body["messages"]
    assert called.keys() == {"role", "content", "tool_calls"}
    assert called["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"x":1}'}
    assert answered == {"role": "tool", "tool_call_id": "t", "content": "2"}
    assert after == {"role": "user", "content": "go on"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "format: anthropic"),
        ({"top_k": 5}, "top_k has no counterpart"),
        ({"mcp_servers": [{}]}, "mcp_servers has no counterpart"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "billed beside"),
        ({"stream": True}, "stream is true"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice is not known"),
        ({"model": "claude-x"}, "not in the pool"),
    ],
)
def test_what_can_t_be_translated_is_refused_with_its_line(
    params: dict[str, Any], words: str
) -> None:
    assert words in problem_of(row(**params))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "from a file"),
        ([{"type": "search_result", "source": "x"}], "'search_result'"),
        ([{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}], "can't stand here"),
        (5, "neither a text nor a list"),
    ],
)
def test_blocks_that_can_t_be_translated_are_refused(content: Any, words: str) -> None:
    assert words in problem_of(row({"role": "user", "content": content}))


def test_a_begun_answer_is_refused_where_others_may_answer() -> None:
    begun = {"role": "user", "content": "a"}, {"role": "assistant", "content": "So"}
    assert "begin of an answer" in problem_of(row(*begun))
    assert body_of(row(*begun), NATIVE)["messages"][-1]["content"] == "So"


def test_what_only_anthropic_knows_stays_where_only_its_models_may_answer() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    said = {"role": "user", "content": [{"type": "text", "text": "Why?", **MARK}]}
    line = row(said, thinking=thinking, top_k=5)
    body = body_of(line, NATIVE)
    assert (body["thinking"], body["top_k"]) == (thinking, 5)
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Why?", **MARK}]
    named = orjson.dumps(orjson.loads(line) | {"params": {"messages": [said], "model": "m1"}})
    assert body_of(named)["messages"][0]["content"][0].keys() >= MARK.keys()
    off = row(thinking={"type": "disabled"})
    assert "thinking" not in body_of(off)


def test_params_of_another_kind_are_no_request() -> None:
    assert "params is not an object" in problem_of(b'{"custom_id": "a", "params": 3}')
    jobs, problems = from_lines(b'{"prompt": "x", "params": 3}', pool=POOL)
    assert (len(jobs), problems.counts) == (1, {})
    assert ProblemKind.MISSING_FIELD in from_lines(b'{"params": {"messages": []}}')[1].counts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (row(tools=[{"name": "f", "type": []}]), "a tool of Anthropic's own"),
        (row(tool_choice={"type": []}), "tool_choice is not known"),
        (row({"role": "assistant", "content": [{"type": []}]}), "a block of type []"),
    ],
)
def test_a_list_that_stands_for_a_word_is_the_problem_of_its_row(line: bytes, words: str) -> None:
    assert words in problem_of(line)
    from_lines(row(service_tier=[]), pool=MIXED)


@pytest.mark.parametrize("depth", range(240, 250))
def test_what_is_accepted_can_be_put_into_other_json(depth: int) -> None:
    schema: list[object] = []
    for _ in range(depth):
        schema = [schema]
    jobs, problems = from_lines(row(tools=[{"name": "f", "input_schema": schema}]))
    for job in jobs:
        orjson.dumps({"body": orjson.loads(job.body_json)})
    assert len(jobs) + problems.bad_rows == 1
