"""Speaks Anthropic's Messages API; answers become chat completions of OpenAI's form.

Source: "Messages", "Streaming" and "Errors" of Anthropic's API reference.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from routoo.client.formats.anthropic_batches import AnthropicBatches
from routoo.client.formats.anthropic_requests import THOUGHTS, request_of, tool_call
from routoo.client.formats.error_body import read_error_body
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.wire_format import BatchFormat, ErrorDetails, EventReader, SentCall
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.errors import RequestRejectedError

API_VERSION = "2023-06-01"
_PATH = "messages"
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "pause_turn": "error",  # the API's own tools have more to do; none are asked for here
}


class AnthropicFormat:
    """Implements `routoo.client.formats.wire_format.WireFormat`."""

    headers: Mapping[str, str] = {
        "Content-Type": "application/json",
        "anthropic-version": API_VERSION,
    }
    paths = (_PATH,)

    def __init__(self) -> None:
        self.batches: BatchFormat | None = AnthropicBatches(self)
        self._openai = OpenAIFormat()

    def path_of(self, body: Mapping[str, Any]) -> str:
        """Return the path below the base URL; there is one."""
        del body
        return _PATH

    def request(self, model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request as it goes out.

        Raises:
            RequestRejectedError: It asks for something that the API can't do, or a field of it has
                another type than in OpenAI's form.
        """
        try:
            return request_of(model, body)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RequestRejectedError(
                "Anthropic's API can't take the request: a field of it has another type than in "
                f"OpenAI's form ({error})",
                where=model.name,
                remedy="Correct the row: its tools, tool_choice, messages and their parts",
            ) from error

    def read_completion(
        self, answer: object, call: SentCall, *, http_status: int, latency_s: float
    ) -> Completion:
        """Read an answer; its body becomes a chat completion of OpenAI's form.

        Raises:
            EndpointError: The answer is an error, or something else that is no message.
        """
        translated = answer
        if isinstance(answer, Mapping) and answer.get("type") == "message":
            translated = chat_completion(answer)
        return self._openai.read_completion(
            translated, call, http_status=http_status, latency_s=latency_s
        )

    def read_error(self, status: int, raw: bytes) -> ErrorDetails:
        """Read an error's message, kind and wait."""
        return read_error_body(raw, status)

    def event_reader(self) -> EventReader:
        """Return what makes OpenAI's chunks of the events of one streamed answer."""
        return _EventReader().read


def chat_completion(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of the API as a chat completion of OpenAI's form, with the API's usage."""
    blocks = _blocks(answer)
    texts = [str(one.get("text", "")) for one in blocks if one.get("type") == "text"]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    thoughts = [one for one in blocks if one.get("type") in THOUGHTS]
    if thoughts:
        said = (str(one.get("thinking", "")) for one in thoughts)
        message |= {"reasoning_content": "".join(said), "thinking_blocks": thoughts}
    calls = [tool_call(one) for one in blocks if one.get("type") == "tool_use"]
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
    return {
        "id": answer.get("id"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.get("model"),
        "choices": [choice],
        "usage": _usage(answer.get("usage")),
    }


def _blocks(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = answer.get("content")
    found = content if isinstance(content, list) else []
    return [one for one in found if isinstance(one, Mapping)]


def _finish_reason(answer: Mapping[str, Any]) -> str | None:
    reason = answer.get("stop_reason")
    return _FINISH_REASONS.get(str(reason), reason) if reason else None


def _usage(usage: object) -> object:
    """Return the usage with OpenAI's counts, of all prompt tokens, beside the API's own."""
    if not isinstance(usage, Mapping):
        return usage
    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    fresh, completion = usage.get("input_tokens"), usage.get("output_tokens")
    counts = [one for one in (fresh, read, written, completion) if type(one) is int]
    if len(counts) < 4:  # noqa: PLR2004 - all of them
        return usage  # not to be true: who reads it says so
    prompt, completion = sum(counts[:3]), counts[3]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": read},
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }


class _EventReader:
    """Makes OpenAI's chunks of the events of one answer."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, int] = {}
        """Places of tool calls by those of their blocks."""

    def read(self, event: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return the chunks that an event is."""
        kind = event.get("type")
        if kind == "error":
            return [{**self._head, "choices": [], "error": event.get("error")}]
        if kind == "message_start":
            message = event.get("message") or {}
            self._usage = dict(message.get("usage") or {})
            self._head = {
                "id": message.get("id"),
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": message.get("model"),
            }
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._start(event.get("index"), event.get("content_block") or {})
        if kind == "content_block_delta":
            return self._delta(event.get("index"), event.get("delta") or {})
        return self._end(event) if kind == "message_delta" else []

    def _start(self, index: object, block: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        if block.get("type") == "text" and block.get("text"):
            return [self._chunk({"content": block["text"]})]
        if block.get("type") != "tool_use" or not isinstance(index, int):
            return []
        place = self._calls[index] = len(self._calls)
        function = {"name": block.get("name"), "arguments": ""}
        call = {"index": place, "id": block.get("id"), "type": "function", "function": function}
        return [self._chunk({"tool_calls": [call]})]

    def _delta(self, index: object, delta: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        if "text" in delta:
            return [self._chunk({"content": delta["text"]})]
        if "thinking" in delta:
            return [self._chunk({"reasoning_content": delta["thinking"]})]
        if "partial_json" in delta and isinstance(index, int) and index in self._calls:
            function = {"arguments": delta["partial_json"]}
            return [
                self._chunk({"tool_calls": [{"index": self._calls[index], "function": function}]})
            ]
        return []

    def _end(self, event: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        self._usage |= event.get("usage") or {}
        yield self._chunk({}, _finish_reason(event.get("delta") or {}))
        yield {**self._head, "choices": [], "usage": _usage(self._usage)}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
