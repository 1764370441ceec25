"""Reads an answer that an endpoint streams: events as they come, and in the end what it came to."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from routoo.client.failures import unreadable
from routoo.client.formats.wire_format import EventReader, SentCall, WireFormat
from routoo.domain.completion import Completion
from routoo.errors import EndpointError, InvalidResponseError

_DATA = b"data:"
_DONE = b"[DONE]"
_LONGEST_LINE_BYTES = 4 * 2**20


@dataclass(slots=True)
class AnswerStream:
    """The events of one answer; iterate it once, to its end, then ask for the completion.

    Args:
        lines: The response's body, in any pieces.
        format: The endpoint's format.
        call: The call that is answered.
        http_status: Of the response.
        started_s: When the call was sent, by the performance counter.
    """

    lines: AsyncIterator[bytes]
    format: WireFormat
    call: SentCall
    http_status: int
    started_s: float
    _head: dict[str, Any] = field(default_factory=dict)
    _choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    _usage: Any = None
    _error: Any = None
    _ended: bool = False

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the events, each a chunk of the answer.

        Raises:
            EndpointError: The stream broke off, or holds something else.
        """
        read = self.format.event_reader()
        async for line in _lines(self.lines, self.call.where):
            if not line.startswith(_DATA):
                continue  # a comment, an event's name, or the empty line between events
            data = line[len(_DATA) :].strip()
            if data == _DONE:
                self._ended = True
                return
            for chunk in self._chunks(read, data):
                yield chunk
        self._ended = any(choice["finish_reason"] for choice in self._choices.values())
        if not self._ended and self._error is None:
            raise InvalidResponseError(
                "the stream ended before the answer did",
                where=self.call.where,
                http_status=self.http_status,
            )

    def _chunks(self, read: EventReader, data: bytes) -> list[dict[str, Any]]:
        """Return what an event adds to the answer, and take it in."""
        event = _decode(data, self.call.where, self.http_status)
        try:
            chunks = list(read(event))
            for chunk in chunks:
                self._take(chunk)
        except EndpointError:
            raise
        except Exception as error:
            raise unreadable(error, self.call.where, self.http_status) from error
        return chunks

    def completion(self) -> Completion:
        """Return the answer as if it had come in one piece, with its usage.

        Raises:
            EndpointError: It is no completion.
        """
        choices = [self._choices[index] for index in sorted(self._choices)]
        answer = {**self._head, "object": "chat.completion", "choices": choices}
        if self._usage is not None:
            answer["usage"] = self._usage
        if self._error is not None:
            answer["error"] = self._error
        latency_s = time.perf_counter() - self.started_s
        return self.format.read_completion(
            answer, self.call, http_status=self.http_status, latency_s=latency_s
        )

    def _take(self, event: Mapping[str, Any]) -> None:
        for name in ("id", "created", "model"):
            self._head.setdefault(name, event.get(name))
        self._usage = event.get("usage") or self._usage
        self._error = event.get("error") or self._error
        for choice in event.get("choices") or ():
            if isinstance(choice, dict):
                self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index") if isinstance(choice.get("index"), int) else 0
        whole = self._choices.setdefault(
            index or 0,
            {"index": index, "message": {"role": "assistant"}, "finish_reason": None},
        )
        whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
        delta = choice.get("delta")
        if isinstance(choice.get("text"), str):  # of a plain completion
            whole.pop("message", None)
            whole["text"] = whole.get("text", "") + choice["text"]
        elif isinstance(delta, dict):
            _merge(whole["message"], delta)


def _merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a chunk to what was said so far: texts are joined, tool calls are listed."""
    for name, value in delta.items():
        if isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        elif isinstance(value, list):
            message[name] = [*(message.get(name) or []), *value]
        elif value is not None:
            message[name] = value


def _decode(data: bytes, where: str, http_status: int) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidResponseError(
            "an event of the stream is not JSON", where=where, http_status=http_status
        ) from error
    if not isinstance(event, dict):
        raise InvalidResponseError(
            "an event of the stream is no object", where=where, http_status=http_status
        )
    return event


async def _lines(pieces: AsyncIterator[bytes], where: str) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        if len(rest) > _LONGEST_LINE_BYTES:
            raise InvalidResponseError("an event of the stream is too large", where=where)
    if rest:
        yield rest
