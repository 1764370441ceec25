"""Speaks OpenAI's chat and plain completions, as most providers and servers do."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from routoo.client.formats.limit_field import is_limit_field_refused
from routoo.client.formats.openai_batches import OpenAIBatches
from routoo.client.formats.usage import read_usage
from routoo.client.formats.wire_format import BatchFormat, ErrorDetails, ErrorKind, SentCall
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.pool import CandidateModel, LimitField
from routoo.domain.prompt import (
    LIMIT_KEYS,
    bound_completion_tokens,
    bound_prompt_tokens,
    requested_completion_tokens,
)
from routoo.errors import InvalidResponseError

_CHAT_PATH = "chat/completions"
_PLAIN_PATH = "completions"
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_KINDS_BY_CODE = {
    "context_length_exceeded": ErrorKind.CONTEXT_LENGTH,
    "exceed_context_size_error": ErrorKind.CONTEXT_LENGTH,
    "string_above_max_length": ErrorKind.CONTEXT_LENGTH,
    "content_filter": ErrorKind.CONTENT_FILTER,
    "content_policy_violation": ErrorKind.CONTENT_FILTER,
    "ResponsibleAIPolicyViolation": ErrorKind.CONTENT_FILTER,
    "moderation_blocked": ErrorKind.CONTENT_FILTER,
    "insufficient_quota": ErrorKind.NO_CREDIT,
    "billing_hard_limit_reached": ErrorKind.NO_CREDIT,
}
"""Values of an error's `code` or `type`, of OpenAI and of compatible servers."""
_CONTEXT_STATUSES = {400, 413, 422, 500}
_CONTEXT_MESSAGE = re.compile(
    r"maximum context length|context (?:length|window|size)\b.{0,40}\bexceed"
    r"|exceeds?\b.{0,60}\bcontext (?:length|window|size)|(?:prompt|input) is too long"
    r"|longer than the (?:model'?s )?(?:maximum )?context"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE | re.DOTALL,
)


class OpenAIFormat:
    """Implements `routoo.client.formats.wire_format.WireFormat`."""

    headers: Mapping[str, str] = {"Content-Type": "application/json"}
    paths = (_CHAT_PATH, _PLAIN_PATH)

    def __init__(self) -> None:
        self.batches: BatchFormat | None = OpenAIBatches(self)

    def path_of(self, body: Mapping[str, Any]) -> str:
        """Return the path below the base URL: that of chats, or of plain prompts."""
        return _CHAT_PATH if "messages" in body else _PLAIN_PATH

    def request(self, model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request as it goes out: unchanged but for the model's name and a token limit.

        The limit stands in the one field that the endpoint reads, since it may ignore another. A
        request that names none gets the candidate model's `max_completion_tokens`, because the cost
        of a call without one has no bound.
        """
        sent = {name: value for name, value in body.items() if name not in LIMIT_KEYS}
        sent["model"] = model.model_at_endpoint
        field = model.endpoint.completion_limit_field or LimitField.MAX_TOKENS
        if field is not LimitField.NONE:
            # Plain completions know the older field only.
            name = field if "messages" in body else LimitField.MAX_TOKENS
            limit = requested_completion_tokens(body)
            sent[str(name)] = model.max_completion_tokens if limit is None else limit
        return sent

    def read_completion(
        self, answer: object, call: SentCall, *, http_status: int, latency_s: float
    ) -> Completion:
        """Read an answer: the text of its first choice, why that ended, and the usage.

        Raises:
            InvalidResponseError: The answer is not a completion.
        """
        choice = _first_choice(answer)
        text = None if choice is None else _text_of(choice)
        if choice is None or text is None or not isinstance(answer, dict):
            raise InvalidResponseError(
                "the answer is JSON but not a completion: it has no choices",
                where=call.where,
                remedy="Check that the base URL is that of an OpenAI-compatible API",
                http_status=http_status,
            )
        reason, usage = _finish_reason(choice), _usage_of(answer, call, http_status)
        return Completion(text, answer, usage, http_status, latency_s, reason)

    def read_error(self, status: int, raw: bytes) -> ErrorDetails:
        """Read an error's message and kind, in the forms that compatible servers use."""
        text = raw.decode("utf-8", errors="replace")
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return ErrorDetails(_kind_of((), status, text), text)
        error = body.get("error", body) if isinstance(body, dict) else body
        if not isinstance(error, dict):
            return ErrorDetails(_kind_of((), status, str(error)), str(error))
        message = error.get("message") or error.get("detail") or text
        if not isinstance(message, str):
            message = text
        codes = (error.get("code"), error.get("type"))
        return ErrorDetails(_kind_of(codes, status, message), message)


def _first_choice(answer: object) -> Mapping[str, Any] | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else None


def _text_of(choice: Mapping[str, Any]) -> str | None:
    """Return a choice's text; None where it holds none in a known form."""
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


def _finish_reason(choice: Mapping[str, Any]) -> FinishReason | None:
    reason = choice.get("finish_reason")
    return _FINISH_REASONS.get(reason) if isinstance(reason, str) else None


def _usage_of(answer: Mapping[str, Any], call: SentCall, http_status: int) -> Usage:
    """Return the tokens that an answer reports; where it reports none, an estimate, so marked."""
    usage = read_usage(answer.get("usage"), where=call.where, http_status=http_status)
    if usage is not None:
        return usage
    if call.counter is not None:
        return call.counter.usage(_written_texts(answer), call.body, call.model)
    prompt = bound_prompt_tokens(call.body, call.model)
    return Usage(prompt, bound_completion_tokens(call.body, call.model), estimated=True)


def _written_texts(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text of an answer that a model wrote token by token."""
    for choice in answer.get("choices") or ():
        message = choice.get("message")
        if not isinstance(message, Mapping):
            yield str(choice.get("text") or "")
            continue
        for key in ("content", "reasoning_content", "refusal"):
            yield _as_text(message.get(key))
        yield _as_text(message.get("tool_calls"))


def _as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()


def _kind_of(codes: tuple[object, ...], status: int, message: str) -> ErrorKind | None:
    known = (_KINDS_BY_CODE.get(code) for code in codes if isinstance(code, str))
    kind = next(filter(None, known), None)
    if kind is ErrorKind.CONTEXT_LENGTH:
        return kind
    if is_limit_field_refused(status, message):
        return ErrorKind.LIMIT_FIELD
    if status in _CONTEXT_STATUSES and _CONTEXT_MESSAGE.search(message):
        return ErrorKind.CONTEXT_LENGTH
    return kind
