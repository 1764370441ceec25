"""What providers say when a call fails: one row each, with the class of ours that it means."""

import json
from typing import Any

import pytest

from routoo.client.failures import error_of_response
from routoo.client.formats.error_body import duration_s, wait_in_words_s
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.provider_words import WORDINGS, kind_of
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    DenialReason,
    EndpointDeniedError,
    EndpointError,
    EndpointUnavailableError,
    RateLimitedError,
    RequestRejectedError,
)

URL = "http://endpoint.test/v1/chat/completions"


def error_of(status: int, body: object) -> EndpointError:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return error_of_response(OpenAIFormat().read_error(status, raw), status, {}, where=URL)


def said(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


TOO_LONG = [
    ("OpenAI", 400, said("x", code="context_length_exceeded")),
    ("OpenAI", 400, said("Your input exceeds the context window of this model.")),
    ("Anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "prompt is too long: 208310 tokens > 200000 maximum"}}),
    ("Anthropic", 400, said("input length and `max_tokens` exceed context limit: 9 + 1 > 10")),
    ("Anthropic", 413, said("Request exceeds the maximum size; request is too large")),
    ("Gemini", 400, [said("The input token count (1200293) exceeds the maximum number of tokens "
     "allowed (1048576).", code=400, status="INVALID_ARGUMENT")]),
    ("Vertex", 400, said("Unable to submit request because the input token count is 36018 but "
     "model only supports up to 32768.")),
    ("Mistral", 400, {"object": "error", "code": 3051, "message": "Prompt contains 45678 tokens "
     "and 0 draft tokens, too large for model with 32768 maximum context length"}),
    ("Groq", 400, said("Please reduce the length of the messages or completion.")),
    ("Together", 422, said("Input validation error: `inputs` tokens + `max_new_tokens` must be "
     "<= 8193. Given: 9000 `inputs` tokens and 100 `max_new_tokens`")),
    ("TGI", 422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. "
     "Given: 2000", "error_type": "validation"}),
    ("Fireworks", 400, said("The prompt is too long: 140000, model maximum context length: 1")),
    ("xAI", 400, {"code": "Client specified an invalid argument", "error": "This model's maximum "
     "prompt length is 131072 but the request contains 537812 tokens."}),
    ("vLLM", 400, {"object": "error", "message": "This model's maximum context length is 4096 "
     "tokens. However, you requested 5000", "type": "BadRequestError", "code": 400}),
    ("vLLM", 400, said("You passed 5000 input tokens and requested 0 output tokens. However, the "
     "model's context length is only 4096 tokens")),
    ("SGLang", 400, said("The input (9000 tokens) is longer than the model's context length")),
    ("llama.cpp", 400, said("the request exceeds the available context size, try increasing it",
     type="exceed_context_size_error")),
    ("llama.cpp", 500, said("input is too large to process. increase the physical batch size")),
    ("LM Studio", 400, {"error": "The number of tokens to keep from the initial prompt is greater "
     "than the context length. However, the model is loaded with context length of only 4096"}),
    ("Ollama", 400, said("input length exceeds maximum context length")),
    ("Bedrock", 400, {"message": "Input is too long for requested model.",
     "__type": "ValidationException"}),
    ("Bedrock", 400, {"message": "Too many input tokens. Max input tokens: 8192"}),
    ("Cohere", 400, {"message": "too many tokens: total number of tokens in the prompt cannot "
     "exceed 4081 - received 5000."}),
    ("Alibaba", 400, said("<400> InternalError.Algo.InvalidParameter: Range of input length "
     "should be [1, 30720]")),
    ("Moonshot", 400, said("Invalid request: Your request exceeded model token limit: 8192")),
    ("MiniMax", 400, said("invalid params, context window exceeds limit (2013)")),
    ("GitHub", 413, said("Request body too large for gpt-4o model. Max size: 8000 tokens.",
     code="tokens_limit_reached")),
    ("LiteLLM", 400, said("litellm.ContextWindowExceededError: litellm.BadRequestError: x",
     code="400", type="ContextWindowExceededError")),
    ("OpenRouter", 400, said("Provider returned error", code=400, metadata={"raw": json.dumps(
     said("This model's maximum context length is 163840 tokens."))})),
]  # fmt: skip

FILTERED = [
    ("Azure", 400, said("The response was filtered due to the prompt triggering Azure OpenAI's "
     "content management policy.", code="content_filter",
     innererror={"code": "ResponsibleAIPolicyViolation"})),
    ("Azure", 400, said("x", code="400", innererror={"code": "ResponsibleAIPolicyViolation"})),
    ("OpenAI", 400, said("Your request was rejected as a result of our safety system.")),
    ("OpenAI", 400, said("Invalid prompt: your prompt was flagged as potentially violating our "
     "usage policy.", code="invalid_prompt")),
    ("OpenRouter", 403, said('x requires moderation on y. Your input was flagged for "z"',
     code=403, metadata={"reasons": ["z"], "flagged_input": "a"})),
    ("DeepSeek", 400, said("Content Exists Risk", code="invalid_request_error")),
    ("Moonshot", 400, said("The request was rejected because it was considered high risk",
     type="content_filter")),
    ("Alibaba", 400, said("Input data may contain inappropriate content.",
     code="data_inspection_failed")),
    ("xAI", 403, {"code": "The caller does not have permission",
     "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}),
    ("LiteLLM", 400, said("x", type="ContentPolicyViolationError")),
]  # fmt: skip

RATE_LIMITED = [
    ("OpenAI", 429, said("Rate limit reached for gpt-4o. Please try again in 7.2s.",
     code="rate_limit_exceeded"), 7.2),
    ("OpenAI", 429, said("Please try again in 1m30.5s."), 90.5),
    ("OpenAI", 429, said("Rate limit reached. Please try again in 6ms."), 0.006),
    ("Azure", 429, said("Rate limit is exceeded. Try again in 50 seconds.", code="429"), 50),
    ("Azure", 429, said("Please retry after 20 seconds."), 20),
    ("Azure", 429, {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 1 second."},
     1),
    ("Gemini", 429, [said("You exceeded your current quota, please check your plan and billing "
     "details. Please retry in 37.388923819s.", code=429, status="RESOURCE_EXHAUSTED",
     details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}])], 37),
    ("Gemini", 429, [said("Resource has been exhausted (e.g. check quota).", code=429,
     status="RESOURCE_EXHAUSTED")], None),
    ("Gemini CLI", 429, said(json.dumps(said("quota", details=[{"retryDelay": "7s"}])), code=429),
     7),
    ("Groq", 429, said("Rate limit reached for model `x` on tokens per minute (TPM): Limit 7000, "
     "Used 0, Requested ~6000. Please try again in 50.597142857s.", type="tokens",
     code="rate_limit_exceeded"), 50.597142857),
    ("Anthropic", 429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x"}},
     None),
    ("Mistral", 429, {"object": "error", "message": "Requests rate limit exceeded",
     "type": "rate_limited", "code": "1300"}, None),
    ("Bedrock", 400, {"__type": "ThrottlingException", "message": "Too many tokens, please wait "
     "before trying again."}, None),
    ("Google", 403, said("Quota", errors=[{"reason": "rateLimitExceeded"}]), None),
    ("Azure AI", 429, {"error": {"code": "RateLimitReached", "message": "wait 30 seconds"}}, 30),
    ("gateway", 503, said("upstream rate limit, retry after 2 minutes"), 120),
    ("OpenRouter", 429, said("Provider returned error", code=429, metadata={"raw": "x is "
     "temporarily rate-limited upstream.", "retry_after_seconds": 4}), 4),
    ("gateway", 429, {"error": "slow down", "retry_after_ms": 1500}, 1.5),
    ("gateway", 429, {"error": "slow down", "retry_after": {"seconds": 3}}, 3),
]  # fmt: skip

DENIED = [
    ("OpenAI", 401, said("Incorrect API key provided", code="invalid_api_key"), "unauthorized"),
    ("Gemini", 400, [said("API key not valid. Please pass a valid API key.", code=400,
     status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])], "unauthorized"),
    ("xAI", 400, {"code": "x", "error": "Incorrect API key provided: xa***. "}, "unauthorized"),
    ("Anthropic", 401, said("invalid x-api-key", type="authentication_error"), "unauthorized"),
    ("OpenAI", 429, said("You exceeded your current quota", code="insufficient_quota"),
     "no_credit"),
    ("DeepSeek", 402, said("Insufficient Balance", code="invalid_request_error"), "no_credit"),
    ("Anthropic", 400, said("Your credit balance is too low to access the Anthropic API."),
     "no_credit"),
    ("OpenRouter", 402, said("This request requires more credits, or fewer max_tokens.",
     code=402), "no_credit"),
    ("OpenRouter", 403, said("Key limit exceeded (total limit)", code=403), "no_credit"),
    ("Moonshot", 429, said("Your account org-1 is suspended due to insufficient balance",
     type="exceeded_current_quota_error"), "no_credit"),
    ("Fireworks", 412, said("Account me is suspended, possibly due to reaching the monthly "
     "spending limit or failure to pay past invoices."), "no_credit"),
    ("Alibaba", 400, said("Access denied, please make sure your account is in good standing.",
     code="Arrearage"), "no_credit"),
    ("LiteLLM", 400, said("Budget has been exceeded! Current cost: 1, Max budget: 0.5",
     type="budget_exceeded"), "no_credit"),
    ("Zhipu", 429, said("x", code="1113"), "no_credit"),
    ("OpenAI", 403, said("Country not supported",
     code="unsupported_country_region_territory"), "forbidden"),
    ("Bedrock", 403, {"message": "You don't have access to the model with the specified ID."},
     "forbidden"),
    ("OpenAI", 404, said("The model `x` does not exist or you do not have access to it.",
     code="model_not_found"), "misconfigured"),
    ("vLLM", 404, {"object": "error", "message": "The model `x` does not exist.",
     "type": "NotFoundError", "code": 404}, "misconfigured"),
    ("Ollama", 404, said('model "x" not found, try pulling it first'), "misconfigured"),
    ("DeepSeek", 400, said("Model Not Exist"), "misconfigured"),
    ("Mistral", 400, {"message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
     "misconfigured"),
    ("Azure", 404, said("The API deployment for this resource does not exist.",
     code="DeploymentNotFound"), "misconfigured"),
    ("Groq", 400, said("The model `x` has been decommissioned", code="model_decommissioned"),
     "misconfigured"),
    ("LiteLLM", 400, said("Invalid model name passed in model=x"), "misconfigured"),
    ("FastAPI", 404, {"detail": "Not Found"}, "no_api"),
    ("nginx", 404, "<html><head><title>404 Not Found</title></head></html>", "no_api"),
    ("nginx", 405, "<html>405 Not Allowed</html>", "no_api"),
]  # fmt: skip

UNAVAILABLE = [
    ("Anthropic", 529, {"type": "error", "error": {"type": "overloaded_error",
     "message": "Overloaded"}}, None),
    ("Hugging Face", 503, {"error": "Model x is currently loading", "estimated_time": 20.0}, 20),
    ("llama.cpp", 503, said("Loading model", code=503, type="unavailable_error"), None),
    ("DeepSeek", 503, said("Server overloaded"), None),
    ("Gemini", 503, [said("The model is overloaded. Please try again later.", code=503,
     status="UNAVAILABLE")], None),
    ("OpenRouter", 502, said("Provider returned error", code=502), None),
    ("TGI", 503, {"error": "Model is overloaded", "error_type": "overloaded"}, None),
]  # fmt: skip

REJECTED = [
    ("OpenAI", 429, said("Request too large for model `x` on tokens per min (TPM): Limit 30000, "
     "Requested 44370.", type="tokens", code="rate_limit_exceeded")),
    ("Groq", 413, said("Request too large for model `x` on tokens per minute (TPM): Limit 6000, "
     "Requested 6294", code="rate_limit_exceeded")),
    ("Cloudflare", 403, "<!DOCTYPE html><html>Attention Required! You have been blocked</html>"),
    ("OpenAI", 400, said("Invalid 'temperature'", code="invalid_value")),
    ("OpenRouter", 404, said("No endpoints found that support image input", code=404)),
    ("OpenAI", 404, said("No such File object: file-abc")),
    ("FastAPI", 422, {"detail": [{"loc": ["body"], "msg": "field required", "type": "missing",
     "input": {"code": "insufficient_quota", "message": "maximum context length"}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("who", "status", "body"), TOO_LONG)
def test_too_long_is_too_long_in_everybodys_words(who: str, status: int, body: object) -> None:
    assert type(error_of(status, body)) is ContextLengthError, who


@pytest.mark.parametrize(("who", "status", "body"), FILTERED)
def test_a_filter_is_a_filter_in_everybodys_words(who: str, status: int, body: object) -> None:
    assert type(error_of(status, body)) is ContentFilterError, who


@pytest.mark.parametrize(("who", "status", "body", "wait_s"), RATE_LIMITED)
def test_a_rate_limit_and_its_wait_are_read_from_the_body(
    who: str, status: int, body: object, wait_s: float | None
) -> None:
    error = error_of(status, body)
    assert type(error) is RateLimitedError, who
    assert error.retry_after_s == pytest.approx(wait_s)


@pytest.mark.parametrize(("who", "status", "body", "reason"), DENIED)
def test_a_denial_names_its_reason(who: str, status: int, body: object, reason: str) -> None:
    error = error_of(status, body)
    assert isinstance(error, EndpointDeniedError), who
    assert error.reason is DenialReason(reason)
    assert error.remedy


@pytest.mark.parametrize(("who", "status", "body", "wait_s"), UNAVAILABLE)
def test_an_overloaded_or_loading_model_may_be_asked_again(
    who: str, status: int, body: object, wait_s: float | None
) -> None:
    error = error_of(status, body)
    assert type(error) is EndpointUnavailableError, who
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize(("who", "status", "body"), REJECTED)
def test_what_is_the_requests_own_fault_stays_its_own(who: str, status: int, body: object) -> None:
    assert type(error_of(status, body)) is RequestRejectedError, who


def test_no_two_rows_of_the_table_claim_a_code() -> None:
    codes = [code for row in WORDINGS for code in row.codes]
    assert len(codes) == len(set(codes))


def test_codes_count_in_any_case() -> None:
    assert kind_of(["ResponsibleAIPolicyViolation"], "", 400) is kind_of(["content_filter"], "", 0)


def test_a_header_that_asks_for_a_wait_counts_before_the_body() -> None:
    details = OpenAIFormat().read_error(429, b'{"error": {"message": "try again in 7.2s"}}')
    for header, wait_s in (("3", 3.0), ("0", 7.2)):
        error = error_of_response(details, 429, {"Retry-After": header}, where=URL)
        assert error.retry_after_s == wait_s


def test_no_wait_is_longer_than_a_week() -> None:
    week_s = 7 * 86400
    assert error_of(429, said("try again in 1000000 days")).retry_after_s == week_s
    assert error_of(429, {"error": "x", "retry_after": 1e300}).retry_after_s == week_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7s", 7), ("1m30.5s", 90.5), ("2 hours", 7200), ("500ms", 0.5), ("1d", 86400), ("x", None),
     ("", None), ("7 potatoes", None)],
)  # fmt: skip
def test_durations_are_read_in_any_unit(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "try again later", "retry after", "wait", "in 7s"])
def test_words_without_a_wait_ask_for_none(text: str) -> None:
    assert wait_in_words_s(text) is None
