"""The OpenAI wire format: what is sent, and what a well-formed answer looks like."""

from collections.abc import Mapping
from typing import Any

import orjson

from routoo.client.token_counts import TokenCounter
from routoo.domain.completion import Usage
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import (
    bound_completion_tokens,
    bound_prompt_tokens,
    requested_completion_tokens,
)
from routoo.errors import InvalidResponseError, RequestRejectedError

CHAT_PATH = "chat/completions"
PLAIN_PATH = "completions"


def path_of(body: Mapping[str, Any]) -> str:
    """Return the path below the base URL that serves this request."""
    return CHAT_PATH if "messages" in body else PLAIN_PATH


def request_to_send(model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request as it goes out: untouched but for the model's name and a token limit.

    A request that names no limit gets the candidate model's `max_completion_tokens`, because the
    cost of a call without one has no bound.
    """
    sent = {**body, "model": model.model_at_endpoint}
    if requested_completion_tokens(body) is None:
        sent["max_tokens"] = model.max_completion_tokens
    return sent


def encode_request(sent: Mapping[str, Any], *, where: str) -> bytes:
    """Return the request as JSON.

    Raises:
        RequestRejectedError: The request holds something that JSON can't carry.
    """
    try:
        return orjson.dumps(sent)
    except TypeError as error:
        raise RequestRejectedError(
            f"the request can't be sent as JSON: {error}",
            where=where,
            remedy="Remove lone surrogates and numbers beyond 64 bits from the request",
        ) from error


def decode_answer(raw: bytes, *, where: str, http_status: int) -> tuple[dict[str, Any], str]:
    """Return a response's body and the text of its first choice.

    Raises:
        InvalidResponseError: The bytes are not JSON, or the JSON is not a completion.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidResponseError(
            f"the answer is not JSON: {error}", where=where, http_status=http_status
        ) from error
    text = text_of_answer(body)
    if text is None:
        raise InvalidResponseError(
            "the answer is JSON but not a completion: it has no choices",
            where=where,
            remedy="Check that the base URL is that of an OpenAI-compatible API",
            http_status=http_status,
        )
    return body, text


def text_of_answer(body: object) -> str | None:
    """Return the text of an answer's first choice, None where it is no completion."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    if isinstance(message, dict):
        return _content_text(message.get("content"))
    text = choice.get("text")
    return text if isinstance(text, str) else None


def _content_text(content: object) -> str | None:
    if content is None:
        return ""  # a tool call or a refusal: a completion all the same
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def usage_of(
    answer: Mapping[str, Any],
    body: Mapping[str, Any],
    model: CandidateModel,
    counter: TokenCounter | None = None,
) -> Usage:
    """Return the tokens an answer reports; where it reports none, an estimate, marked.

    Args:
        answer: The response.
        body: The request as the caller gave it.
        model: The candidate model that was asked.
        counter: Estimates; the upper bound is taken where unset.
    """
    reported = answer.get("usage")
    if isinstance(reported, dict):
        prompt = _count(reported.get("prompt_tokens"))
        completion = _count(reported.get("completion_tokens"))
        if prompt is not None and completion is not None:
            return Usage(prompt, completion)
    if counter is not None:
        return counter.usage(answer, body, model)
    return Usage(
        bound_prompt_tokens(body, model), bound_completion_tokens(body, model), estimated=True
    )


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= 0 else None
