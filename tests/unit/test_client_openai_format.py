"""The wire format: what is sent and how answers are read."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from routoo.client.access import Access
from routoo.client.endpoints import ChatEndpoints, decode_json
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.provider_words import FINISH_REASONS
from routoo.client.formats.wire_format import ErrorKind, SentCall, encode_json
from routoo.client.http import target_of
from routoo.domain.completion import Completion, FinishReason
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens
from routoo.errors import (
    ConfigError,
    ContentFilterError,
    ContextLengthError,
    EndpointDeniedError,
    EndpointError,
    EndpointUnavailableError,
    InvalidResponseError,
    RateLimitedError,
    RequestRejectedError,
)

URL = "http://endpoint.test/v1"
FORMAT = OpenAIFormat()
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def candidate(**endpoint: Any) -> CandidateModel:
    return CandidateModel(
        name="small",
        endpoint=Endpoint(base_url=endpoint.pop("base_url", URL), **endpoint),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=100,
        max_completion_tokens=64,
    )


def answer(**fields: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": "4"}}], **fields})


def read(raw: bytes, body: dict[str, Any] = CHAT) -> Completion:
    decoded = decode_json(raw, where=URL, http_status=200)
    call = SentCall(candidate(), body, URL)
    return FORMAT.read_completion(decoded, call, http_status=200, latency_s=0.1)


def url_of(base_url: str, body: dict[str, Any]) -> str:
    endpoint, access = Endpoint(base_url=base_url), Access({}, None, None, None)
    return str(target_of(endpoint, FORMAT.path_of(body), access, FORMAT.headers).url)


def test_a_request_is_untouched_but_for_its_model_and_a_limit() -> None:
    body = {**CHAT, "top_p": 0.5, "vendor_field": {"x": [1]}, "model": "theirs"}
    sent = FORMAT.request(candidate(model="tiny-v2"), body)
    assert sent == {**body, "model": "tiny-v2", "max_tokens": 64}
    assert body["model"] == "theirs"


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 7},
        {"max_completion_tokens": 7},
        {"max_tokens": 7, "max_completion_tokens": 9},
        {"max_tokens": 9, "max_completion_tokens": 7},
        {"max_tokens": 7, "max_completion_tokens": None},
    ],
)
@pytest.mark.parametrize(
    ("reads", "sent"),
    [
        (None, {"max_tokens": 7}),
        ("max_tokens", {"max_tokens": 7}),
        ("max_completion_tokens", {"max_completion_tokens": 7}),
        ("none", {}),
    ],
)
def test_a_requests_limit_goes_into_the_field_that_its_endpoint_reads(
    limits: dict[str, Any], reads: str | None, sent: dict[str, int]
) -> None:
    model = candidate(completion_limit_field=reads)
    assert FORMAT.request(model, {**CHAT, **limits}) == {**CHAT, **sent, "model": "small"}


def test_a_plain_prompt_is_limited_by_the_only_field_that_it_has() -> None:
    model = candidate(completion_limit_field="max_completion_tokens")
    assert FORMAT.request(model, {"prompt": "x"})["max_tokens"] == 64


REFUSALS = [
    (
        400,
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead."
        ),
    ),
    (
        400,
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), "
            "'msg': 'Extra inputs are not permitted', 'input': 800}]"
        ),
    ),
    (
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "max_completion_tokens"],
                    "msg": "Extra inputs are not permitted",
                    "input": 32000,
                }
            ]
        },
    ),
    (
        422,
        '[{"loc":["body","max_tokens"],"msg":"extra fields not permitted","type":"value_error"}]',
    ),
    (400, "Unrecognized request argument supplied: max_completion_tokens"),
    (400, "property 'max_completion_tokens' is unsupported"),
    (400, 'Invalid JSON payload received. Unknown name "max_tokens": Cannot find field.'),
    (400, "Malformed input request: #: extraneous key [max_tokens] is not permitted"),
    (500, "create() got an unexpected keyword argument 'max_completion_tokens'"),
    (400, "Additional properties are not allowed ('max_completion_tokens' was unexpected)"),
    (400, "azure does not support parameters: ['logit_bias', 'max_tokens'], for model=o1"),
    (422, "unknown field: parameter 'max_completion_tokens' is not a valid field"),
    (400, "max_tokens is deprecated, please use max_completion_tokens"),
]


@pytest.mark.parametrize(("status", "message"), REFUSALS)
def test_a_refusal_of_the_limits_field_is_known_in_many_words(status: int, message: object) -> None:
    raw = orjson.dumps({"object": "error", "message": message, "code": status})
    assert FORMAT.read_error(status, raw).kind is ErrorKind.LIMIT_FIELD
    raw = orjson.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    assert FORMAT.read_error(status, raw).kind is ErrorKind.LIMIT_FIELD


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0",
        "max_tokens must be less than or equal to 8192, the maximum for this model",
        "Unsupported parameter: 'temperature' is not supported with this model",
        "unknown field `logprobs`, expected one of `messages`, `model`, `max_tokens`",
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum "
            "context length is 8192 tokens and your request has 20 input tokens"
        ),
        "The parameter `max_tokens` specified in the request are not valid: integer above maximum",
    ],
)
def test_a_bad_value_of_the_limit_is_no_refusal_of_its_field(message: str) -> None:
    raw = orjson.dumps({"error": {"message": message, "param": "max_tokens"}})
    assert FORMAT.read_error(400, raw).kind is not ErrorKind.LIMIT_FIELD


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h:1/a/b", "http://h:1/a/b/chat/completions"),
        ("https://h/d?api-version=2", "https://h/d/chat/completions?api-version=2"),
    ],
)
def test_a_base_url_keeps_its_path_and_query(base_url: str, url: str) -> None:
    assert url_of(base_url, CHAT) == url


def test_a_plain_prompt_goes_to_plain_completions() -> None:
    assert url_of(URL, {"prompt": "x"}) == f"{URL}/completions"


@pytest.mark.parametrize("value", ["\ud800", 2**70])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(RequestRejectedError, match="surrogates"):
        encode_json({"x": value}, where=URL)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": "4"}}, "4"),
        ({"message": {"content": None, "tool_calls": []}}, ""),
        ({"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}, "ab"),
        ({"text": "plain"}, "plain"),
    ],
)
def test_the_first_choices_text_is_the_answer(choice: dict[str, Any], text: str) -> None:
    raw = orjson.dumps({"choices": [choice, {"message": {"content": "second"}}]})
    assert read(raw).answer == text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [1]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b"\xff",
    ],
)
def test_anything_else_is_an_invalid_response(raw: bytes) -> None:
    with pytest.raises(InvalidResponseError) as caught:
        read(raw)
    assert caught.value.http_status == 200


@pytest.mark.parametrize(
    ("reason", "known", "filtered"),
    [
        ("stop", FinishReason.STOP, False),
        ("length", FinishReason.LENGTH, False),
        ("function_call", FinishReason.TOOL_CALLS, False),
        ("content_filter", FinishReason.CONTENT_FILTER, True),
        ("content-filter", FinishReason.CONTENT_FILTER, True),
        ("SAFETY", FinishReason.CONTENT_FILTER, True),
        ("FinishReason.RECITATION", FinishReason.CONTENT_FILTER, True),
        ("MAX_TOKENS", FinishReason.LENGTH, False),
        ("end_turn", FinishReason.STOP, False),
        ("new_reason", None, False),
        (None, None, False),
        (["stop"], None, False),
    ],
)
def test_the_first_choices_end_is_read_in_our_own_terms(
    reason: object,
    known: FinishReason | None,
    filtered: bool,
) -> None:
    choice = {"message": {"content": "4"}, "finish_reason": reason}
    completion = read(orjson.dumps({"choices": [choice]}))
    assert completion.finish_reason is known
    assert completion.is_filtered is filtered


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_every_word_for_the_end_of_an_answer_is_known(reason: str) -> None:
    choice = {"message": {"content": "4"}, "finish_reason": reason}
    assert read(orjson.dumps({"choices": [choice]})).finish_reason is FINISH_REASONS[reason]


@pytest.mark.parametrize(
    ("message", "reason", "known"),
    [
        ({"content": ""}, "stop", FinishReason.EMPTY),
        ({"content": None}, None, FinishReason.EMPTY),
        ({"content": " \n"}, "stop", FinishReason.EMPTY),
        ({"content": []}, "stop", FinishReason.EMPTY),
        ({"content": "", "tool_calls": []}, "tool_calls", FinishReason.EMPTY),
        ({"content": None, "reasoning_content": "Hm"}, "length", FinishReason.TRUNCATED),
        ({"content": ""}, "MAX_TOKENS", FinishReason.TRUNCATED),
        ({"content": None, "refusal": "I can't"}, "stop", FinishReason.CONTENT_FILTER),
        ({"content": ""}, "PROHIBITED_CONTENT", FinishReason.CONTENT_FILTER),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", FinishReason.TOOL_CALLS),
        ({"content": None, "function_call": {"name": "f"}}, "stop", FinishReason.STOP),
        ({"content": None, "audio": {"id": "a"}}, "stop", FinishReason.STOP),
        ({"content": [{"type": "image_url"}]}, "stop", FinishReason.STOP),
        ({"content": "4", "refusal": None}, "length", FinishReason.LENGTH),
    ],
)
def test_an_answer_with_nothing_in_it_is_told_from_one_that_says_something(
    message: dict[str, Any], reason: str | None, known: FinishReason
) -> None:
    choice = {"message": message, "finish_reason": reason}
    assert read(orjson.dumps({"choices": [choice]})).finish_reason is known


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"code": 429, "message": "Rate limit exceeded"}, RateLimitedError, 429),
        ({"code": 402, "message": "Insufficient credits"}, EndpointDeniedError, 402),
        ({"code": 401, "message": "User not found."}, EndpointDeniedError, 401),
        ({"code": 503, "message": "No instances available"}, EndpointUnavailableError, 503),
        ({"code": "502", "message": "Bad gateway"}, EndpointUnavailableError, 502),
        ({"code": 400, "message": "Prompt is too long"}, ContextLengthError, 400),
        ({"message": "x"}, EndpointUnavailableError, 500),
        ("upstream failed", EndpointUnavailableError, 500),
    ],
)
def test_an_error_inside_a_success_counts_as_its_own_status_and_costs_nothing(
    error: object, kind: type[EndpointError], status: int
) -> None:
    for body in ({"error": error}, [{"error": error}], {"error": error, "choices": None}):
        with pytest.raises(kind) as caught:
            read(orjson.dumps(body))
        assert caught.value.http_status == status
        assert caught.value.maybe_billed is False
        text = error["message"] if isinstance(error, dict) else error
        assert str(text).rstrip(".") in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"finish_reason": "error"}, EndpointUnavailableError),
        ({"finish_reason": "network_error"}, EndpointUnavailableError),
        ({"error": {"code": 502, "message": "lost"}}, EndpointUnavailableError),
        ({"error": {"code": 429, "message": "slow"}}, RateLimitedError),
        ({"error": {"code": 403, "message": "flagged for x"}}, ContentFilterError),
    ],
)
def test_an_error_in_a_choice_is_a_failure_that_is_billed_as_reported(
    choice: dict[str, Any], kind: type[EndpointError]
) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    part = {"message": {"content": "half an ans"}, **choice}
    completion = read(orjson.dumps({"choices": [part], "usage": usage}))
    assert completion.finish_reason is FinishReason.ERROR
    assert type(completion.failure) is kind
    assert completion.usage.total_tokens == 7


def test_an_error_that_is_null_is_none() -> None:
    choice = {"message": {"content": "4"}, "error": None, "finish_reason": "stop"}
    assert read(orjson.dumps({"choices": [choice], "error": None})).failure is None


def test_reported_usage_is_taken() -> None:
    usage = read(answer(usage={"prompt_tokens": 3, "completion_tokens": 0})).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (3, 0, False)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": 3},
        {"prompt_tokens": None, "completion_tokens": 2},
        [],
    ],
)
def test_missing_usage_counts_at_the_bound_that_was_reserved(usage: object) -> None:
    body = {**CHAT, "n": 3}
    found = read(answer(usage=usage), body).usage
    assert found.estimated
    assert found.prompt_tokens == bound_prompt_tokens(body, candidate())
    assert found.completion_tokens == bound_completion_tokens(body, candidate()) == 3 * 64


def test_missing_keys_are_named_all_at_once() -> None:
    models = [candidate(api_key_env="KEY_A"), candidate(api_key_env="KEY_B")]
    with pytest.raises(ConfigError, match="KEY_A, KEY_B"):
        ChatEndpoints(models, environ={"KEY_A": " "})


def test_keys_that_are_there_or_not_needed_are_fine() -> None:
    ChatEndpoints([candidate(api_key_env="KEY_A"), candidate()], environ={"KEY_A": "x"})


def test_parameters_of_the_candidate_are_sent_where_the_request_sets_none() -> None:
    parameters = {"reasoning_effort": "high", "temperature": 0.2}
    thinker = CandidateModel.model_validate(
        {**candidate().model_dump(mode="json"), "parameters": parameters}
    )
    sent = FORMAT.request(thinker, {**CHAT, "temperature": 1})
    assert sent == {
        **FORMAT.request(candidate(), CHAT),
        "reasoning_effort": "high",
        "temperature": 1,
    }


def test_token_probabilities_are_asked_for_where_the_pool_says_so() -> None:
    asking = CandidateModel.model_validate(
        {**candidate().model_dump(mode="json"), "logprobs": True}
    )
    sent = FORMAT.request(asking, CHAT)
    assert sent == {**FORMAT.request(candidate(), CHAT), "logprobs": True, "top_logprobs": 5}
    assert FORMAT.request(asking, {**CHAT, "logprobs": False})["logprobs"] is False
