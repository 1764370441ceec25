"""Requests of OpenAI's form go out as Anthropic's, and its messages come back as completions."""

from decimal import Decimal
from typing import Any

import pytest

from routoo.client.formats.anthropic import AnthropicFormat, chat_completion
from routoo.client.formats.anthropic_requests import request_of
from routoo.client.ratelimit_headers import PeriodLimit, read_rate_limits
from routoo.domain.endpoint import ApiFormat, Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import (
    ANTHROPIC_TOOLS_TOKENS,
    bound_completion_tokens,
    bound_cost_usd,
    bound_prompt_tokens,
)
from routoo.errors import RequestRejectedError

ASKED = [{"role": "user", "content": "Why?"}]


def model(*, parameters: Any = (), **endpoint: Any) -> CandidateModel:
    return CandidateModel(
        name="claude",
        endpoint=Endpoint(base_url="https://api.anthropic.com", model="claude-x", **endpoint),
        price_usd_per_mtok=Tariff(
            prompt=Decimal(3),
            completion=Decimal(15),
            cached_prompt=Decimal("0.3"),
            cache_write=Decimal("3.75"),
        ),
        context_window_tokens=200_000,
        max_completion_tokens=64,
        parameters=parameters,
    )


def sent(body: dict[str, Any], **options: Any) -> dict[str, Any]:
    return request_of(model(**options), {"messages": ASKED, **body})


def blocks(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_the_format_follows_from_the_address_unless_the_pool_says_otherwise() -> None:
    native = model().endpoint
    assert (native.format, native.api_key_header) == (ApiFormat.ANTHROPIC, "x-api-key")
    assert native.base_url == "https://api.anthropic.com/v1"
    assert Endpoint.model_validate(native.model_dump(mode="json")) == native
    compatible = {"base_url": "https://api.anthropic.com/v1", "api_key_header": "Authorization"}
    assert Endpoint.model_validate(compatible).format is ApiFormat.OPENAI
    elsewhere = Endpoint.model_validate({"base_url": "http://proxy/v1", "format": "anthropic"})
    assert (elsewhere.api_key_header, elsewhere.base_url) == ("x-api-key", "http://proxy/v1")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"format": "openai"}, {"api_key_header"}),
        ({"api_key_header": "Authorization"}, {"api_key_header"}),
        ({"format": "openai", "api_key_header": "x-api-key"}, {"api_key_header", "format"}),
        ({}, {"api_key_header", "format"}),
    ],
)
def test_a_batch_keeps_the_format_that_its_pool_file_named(
    given: dict[str, str], kept: set[str]
) -> None:
    endpoint = Endpoint.model_validate({"base_url": "https://api.anthropic.com/v1", **given})
    stored = endpoint.model_dump(mode="json", exclude_defaults=True)
    assert Endpoint.model_validate(stored) == endpoint
    assert stored.keys() == {"base_url", *kept}


def test_a_plain_request_has_the_least_that_the_api_needs() -> None:
    assert sent({}) == {
        "model": "claude-x",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": blocks("Why?")}],
    }
    assert request_of(model(), {"prompt": "Hi"})["messages"][0]["content"] == blocks("Hi")


def test_turns_of_one_role_are_joined_and_the_system_stands_apart() -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": [*blocks("b"), *blocks(" ")]},
        {"role": "developer", "content": "Be kind."},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "So: "},
    ]
    asked = request_of(model(), {"messages": said})
    assert asked["system"] == blocks("Be brief.", "Be kind.")
    assert asked["messages"] == [
        {"role": "user", "content": blocks("a", "b")},
        {"role": "assistant", "content": blocks("So:")},
    ]


def test_tools_their_calls_and_their_results_are_translated() -> None:
    function = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x":1}'}}
    said = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "user", "content": "and?"},
    ]
    asked = request_of(
        model(),
        {
            "messages": said,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    )
    assert asked["tools"] == [
        {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
    ]
    assert asked["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    use = {"type": "tool_use", "id": "c1", "name": "add", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": blocks("2")}
    assert asked["messages"][1:] == [
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, *blocks("and?")]},
    ]


def test_images_and_documents_are_translated() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}},
    ]
    asked = sent({"messages": [{"role": "user", "content": parts}]})
    sources = [block["source"] for block in asked["messages"][0]["content"]]
    assert [source["type"] for source in sources] == ["base64", "url", "base64"]
    assert sources[2] == {"type": "base64", "media_type": "application/pdf", "data": "aGk="}


def test_what_the_api_lacks_is_left_out_or_refused() -> None:
    asked = sent({"seed": 1, "logprobs": True, "temperature": 1.5, "stop": "END", "n": 1})
    assert asked.keys() == {"model", "max_tokens", "messages", "temperature", "stop_sequences"}
    assert (asked["temperature"], asked["stop_sequences"]) == (1.0, ["END"])
    audio = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]
    bad: list[dict[str, Any]] = [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"messages": audio},
        {"messages": [{"role": "function", "content": "x"}]},
    ]
    for body in bad:
        with pytest.raises(RequestRejectedError, match="claude"):
            sent(body)


def test_a_schema_and_an_effort_go_out_in_the_api_s_own_words() -> None:
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = sent({"response_format": wanted, "reasoning_effort": "minimal", "user": "u"})
    assert asked["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": schema},
    }
    assert asked["metadata"] == {"user_id": "u"}


def test_thinking_stays_within_what_was_reserved() -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    beside = sent(
        {"max_tokens": 100, "temperature": 0}, parameters=thinking, extra_completion_tokens=2000
    )
    assert (beside["max_tokens"], beside["thinking"]["budget_tokens"]) == (2100, 2000)
    assert "temperature" not in beside
    inside = sent({"max_tokens": 1500}, parameters=thinking)
    assert (inside["max_tokens"], inside["thinking"]["budget_tokens"]) == (1500, 1499)
    with pytest.raises(RequestRejectedError, match="no room for thinking"):
        sent({"max_tokens": 1024}, parameters=thinking)
    allowed = model(parameters=thinking, extra_completion_tokens=2000)
    assert beside["max_tokens"] <= bound_completion_tokens({"max_tokens": 100}, allowed)


def test_a_call_that_may_write_to_a_cache_is_reserved_at_that_price() -> None:
    plain: dict[str, Any] = {"messages": ASKED, "max_tokens": 1}
    marked = [{"type": "text", "text": "Why?", "cache_control": {"type": "ephemeral"}}]
    caching = {"messages": [{"role": "user", "content": marked}], "max_tokens": 1}
    tokens = bound_prompt_tokens(caching, model())
    assert bound_cost_usd(caching, model()) == (tokens * Decimal("3.75") + 15) / 1_000_000
    tokens = bound_prompt_tokens(plain, model())
    assert bound_cost_usd(plain, model()) == (tokens * Decimal(3) + 15) / 1_000_000


def test_marks_of_a_cache_stay_at_home_where_a_write_has_no_price() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Why?", **mark}]}],
        "tools": [{"type": "function", "function": {"name": "add", **mark}}],
        **mark,
    }
    unpriced = model().model_copy(
        update={"price_usd_per_mtok": Tariff(prompt=Decimal(3), completion=Decimal(15))}
    )
    assert str(request_of(model(), body)).count("cache_control") == 3
    assert "cache_control" not in str(request_of(unpriced, body))


def test_a_place_of_inference_is_a_candidate_s_own() -> None:
    with pytest.raises(RequestRejectedError, match="price of its own"):
        sent({"inference_geo": "us"})
    there = {"inference_geo": "us"}
    assert sent(there, parameters=there)["inference_geo"] == "us"


@pytest.mark.parametrize(
    "body",
    [
        {"tools": ["add"]},
        {"tools": {"name": "add"}},
        {"tool_choice": {"function": "add"}},
        {"output_config": "low"},
        {"messages": [{"role": "assistant", "content": "a", "tool_calls": ["add"]}]},
        {"messages": [{"role": "assistant", "content": "a", "thinking_blocks": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": "a.pdf"}]}]},
    ],
)
def test_a_malformed_row_is_refused_and_ends_no_other(body: dict[str, Any]) -> None:
    with pytest.raises(RequestRejectedError, match="another type"):
        AnthropicFormat().request(model(), {"messages": ASKED, **body})


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_tools_are_reserved_with_the_prompt_that_the_api_writes_for_them(field: str) -> None:
    plain: dict[str, Any] = {"messages": ASKED, field: [{"name": "add"}]}
    elsewhere = model().model_copy(
        update={"endpoint": Endpoint(base_url="http://x/v1", extra_prompt_tokens=0)}
    )
    more = bound_prompt_tokens(plain, model()) - bound_prompt_tokens(plain, elsewhere)
    assert more == ANTHROPIC_TOOLS_TOKENS


def test_limits_in_headers_are_those_of_a_minute() -> None:
    headers = {
        "Date": "Sun, 01 Nov 2026 12:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-01T12:00:07Z",
    }
    found = read_rate_limits({**headers})
    assert found is not None
    assert (found.requests, found.tokens) == (PeriodLimit(50, 60.0), PeriodLimit(40_000, 60.0))
    assert found.pause_s == 7.0


def test_events_of_a_stream_become_chunks() -> None:
    read = AnthropicFormat().event_reader()
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use"}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "{}"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use"},
            "usage": {"output_tokens": 2},
        },
        {"type": "error", "error": {"type": "overloaded_error"}},
    ]
    chunks = [chunk for event in events for chunk in read(event)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[1] == {"content": "a"}
    assert deltas[3]["tool_calls"] == [{"index": 0, "function": {"arguments": "{}"}}]
    assert chunks[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-2]["usage"]["total_tokens"] == 5
    assert chunks[-1]["error"] == {"type": "overloaded_error"}


def test_a_block_whose_type_is_no_word_is_passed_over() -> None:
    blocks = [{"type": ["thinking"]}, {"type": "text", "text": "Yes."}]
    answer = chat_completion({"type": "message", "content": blocks})
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}
