"""A fake of Anthropic's API on a socket: Messages, streamed too, and Message Batches.

It refuses what the real one refuses: a missing key or version, fields that it doesn't know, turns
of one role after another, empty texts, thinking beyond the limit. Words in the last user's text
make it behave in some way:
    CUT, PAUSE, DECLINE, WINDOW    the answer's stop_reason is max_tokens, pause_turn, refusal,
                                   model_context_window_exceeded
    CACHE                          1000 tokens are read from the cache, 500 written to it
    TOOL                           the first tool is asked for
    OVERLOADED, LIMITED, SPENT     errors 529, 429 with retry-after, 429 without, for good: each as
                                   often as `failures` says
    LONG, HUGE                     errors 400 (context) and 413
and in batches ERRORED, CANCELED, EXPIRED are what becomes of the row.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Self

from aiohttp import web

KEY = "sk-ant-fake"
VERSION = "2023-06-01"
_FIELDS = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k"),
        *("stop_sequences", "stream", "metadata", "tools", "tool_choice", "thinking"),
        *("service_tier", "output_config"),
    }
)
_STOPS = {
    "CUT": "max_tokens",
    "PAUSE": "pause_turn",
    "DECLINE": "refusal",
    "WINDOW": "model_context_window_exceeded",
}
_ERRORS = {
    "OVERLOADED": (529, "overloaded_error", "Overloaded", {}),
    "LIMITED": (
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 50 requests per minute.",
        {"retry-after": "1"},
    ),
    "SPENT": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API.",
        {},
    ),
    "LONG": (
        400,
        "invalid_request_error",
        "prompt is too long: 210000 tokens > 200000 maximum",
        {},
    ),
    "HUGE": (413, "request_too_large", "Request exceeds the maximum allowed number of bytes.", {}),
}


@dataclass
class FakeMessageBatch:
    """A batch of the fake."""

    id: str
    requests: list[dict[str, Any]]
    created_at: datetime
    ended_at: datetime | None = None
    canceling: bool = False

    def shown(self, base_url: str) -> dict[str, Any]:
        ended = self.ended_at is not None
        state = "ended" if ended else "canceling" if self.canceling else "in_progress"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if ended else "processing"] = len(self.requests)
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": state,
            "request_counts": counts,
            "created_at": self.created_at.isoformat(),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
            "expires_at": (self.created_at + timedelta(days=1)).isoformat(),
            "results_url": f"{base_url}/messages/batches/{self.id}/results" if ended else None,
        }


@dataclass
class FakeAnthropic:
    """The server in the current event loop; an async context manager on a free port."""

    failures: int = 1
    """How often each error word strikes."""
    batch_s: float = 0.0
    """From a batch's creation to its end, in seconds."""
    lose_creates: int = 0
    """So many creations make a batch, and their answers are lost."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the single calls."""
    batches: list[FakeMessageBatch] = field(default_factory=list)
    _struck: Counter[str] = field(default_factory=Counter)
    _port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20, middlewares=[_authorized])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/messages", self._message)
        app.router.add_post("/v1/messages/batches", self._create)
        app.router.add_get("/v1/messages/batches", self._list)
        app.router.add_get("/v1/messages/batches/{id}", self._get)
        app.router.add_post("/v1/messages/batches/{id}/cancel", self._cancel)
        app.router.add_get("/v1/messages/batches/{id}/results", self._results)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [], "has_more": False})

    async def _message(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        problem = problem_of(body)
        if problem is not None:
            return error(400, "invalid_request_error", problem)
        text = last_text(body)
        for word, (status, kind, message, headers) in _ERRORS.items():
            if word in text and self._struck[word] < self.failures:
                self._struck[word] += 1
                return error(status, kind, message, headers)
        answer = message_of(body)
        if body.get("stream"):
            return await streamed(request, answer)
        return web.json_response(answer, headers=limits())

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        for number, row in enumerate(body["requests"]):
            if len(row["custom_id"]) > 64:
                message = f"requests.{number}.custom_id: String should have at most 64 characters"
                return error(400, "invalid_request_error", message)
        name = f"msgbatch_{len(self.batches) + 1}"
        batch = FakeMessageBatch(name, body["requests"], datetime.now(UTC))
        self.batches.append(batch)
        if self.lose_creates:
            self.lose_creates -= 1
            return error(500, "api_error", "Internal server error")
        return web.json_response(batch.shown(self.base_url))

    async def _list(self, request: web.Request) -> web.Response:
        shown = [self._progress(batch).shown(self.base_url) for batch in reversed(self.batches)]
        after = request.query.get("after_id")
        if after:
            shown = shown[[row["id"] for row in shown].index(after) + 1 :]
        page = shown[: int(request.query.get("limit", "20"))]
        last = page[-1]["id"] if page else None
        return web.json_response(
            {"data": page, "has_more": len(page) < len(shown), "last_id": last}
        )

    async def _get(self, request: web.Request) -> web.Response:
        batch = self._find(request)
        if batch is None:
            return error(404, "not_found_error", "Not found")
        return web.json_response(batch.shown(self.base_url))

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._find(request)
        if batch is None or batch.ended_at is not None:
            return error(400, "invalid_request_error", "Batch is not in progress")
        batch.canceling = True
        return web.json_response(batch.shown(self.base_url))

    async def _results(self, request: web.Request) -> web.Response:
        batch = self._find(request)
        if batch is None or batch.ended_at is None:
            return error(404, "not_found_error", "No results")
        lines = [
            {"custom_id": row["custom_id"], "result": outcome_of(row["params"])}
            for row in reversed(batch.requests)  # not in the order of the requests
        ]
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))

    def _find(self, request: web.Request) -> FakeMessageBatch | None:
        wanted = request.match_info["id"]
        found = next((batch for batch in self.batches if batch.id == wanted), None)
        return None if found is None else self._progress(found)

    def _progress(self, batch: FakeMessageBatch) -> FakeMessageBatch:
        is_due = datetime.now(UTC) >= batch.created_at + timedelta(seconds=self.batch_s)
        if batch.ended_at is None and (is_due or batch.canceling):
            batch.ended_at = datetime.now(UTC)
        return batch


@web.middleware
async def _authorized(request: web.Request, handler: Any) -> web.StreamResponse:
    if request.headers.get("x-api-key") != KEY or "Authorization" in request.headers:
        return error(401, "authentication_error", "invalid x-api-key")
    if request.headers.get("anthropic-version") != VERSION:
        return error(400, "invalid_request_error", "anthropic-version: header is required")
    answer: web.StreamResponse = await handler(request)
    return answer


def problem_of(body: Mapping[str, Any]) -> str | None:
    """Return why the API refuses a request, in its words."""
    return next(_problems(body), None)


def _problems(body: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{name}: Extra inputs are not permitted" for name in body.keys() - _FIELDS)
    if not isinstance(body.get("max_tokens"), int):
        yield "max_tokens: Field required"
    if body.get("temperature", 0) > 1:
        yield "temperature: range: 0..1"
    roles = [message["role"] for message in body["messages"]]
    if not set(roles) <= {"user", "assistant"}:
        yield "messages: Unexpected role"
    if any(one == other for one, other in pairwise(roles)):
        yield "messages: roles must alternate"
    blocks = [block for message in body["messages"] for block in message["content"]]
    if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
        yield "messages: text content blocks must be non-empty"
    if roles[-1] == "assistant" and blocks[-1].get("text", "x")[-1] == " ":
        yield "messages: final assistant content cannot end with trailing whitespace"
    yield from _thinking_problems(body)


def _thinking_problems(body: Mapping[str, Any]) -> Iterator[str]:
    thinking = body.get("thinking") or {}
    if thinking.get("type") != "enabled":
        return
    if not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        yield "`max_tokens` must be greater than `thinking.budget_tokens`"
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled"


def last_text(body: Mapping[str, Any]) -> str:
    blocks = body["messages"][-1]["content"]
    return " ".join(block.get("text", "") for block in blocks)


def message_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request."""
    text = last_text(body)
    stop = next((reason for word, reason in _STOPS.items() if word in text), "end_turn")
    content: list[dict[str, Any]] = [{"type": "text", "text": f"said: {text}"}]
    if (body.get("thinking") or {}).get("type") == "enabled":
        thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
        content.insert(0, thought)
    if "TOOL" in text and body.get("tools"):
        call = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"]}
        content, stop = [call | {"input": {"x": 1}}], "tool_use"
    if stop == "refusal":
        content = []
    cached = "CACHE" in text
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 500 if cached else 0,
            "cache_read_input_tokens": 1000 if cached else 0,
            "output_tokens": 20,
            "service_tier": "standard",
        },
    }


def outcome_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what becomes of a row of a batch."""
    problem, text = problem_of(params), last_text(params)
    if problem is not None or "ERRORED" in text:
        inner = {"type": "invalid_request_error", "message": problem or "it is not to be"}
        return {"type": "errored", "error": {"type": "error", "error": inner}}
    kind = next((kind for kind in ("canceled", "expired") if kind.upper() in text), None)
    return {"type": kind} if kind else {"type": "succeeded", "message": message_of(params)}


def limits() -> dict[str, str]:
    """Return the headers that tell what is left of the limits."""
    reset = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": reset,
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-tokens-remaining": "39000",
        "anthropic-ratelimit-tokens-reset": reset,
    }


def error(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_1",
    }
    return web.json_response(body, status=status, headers=headers)


async def streamed(request: web.Request, answer: Mapping[str, Any]) -> web.StreamResponse:
    """Send an answer as the API's events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    usage = {**answer["usage"], "output_tokens": 1}
    await _send(response, "message_start", message={**answer, "content": [], "usage": usage})
    await _send(response, "ping")
    for index, block in enumerate(answer["content"]):
        kind = block["type"]
        empty = {**block, "text": ""} if kind == "text" else {**block, "input": {}}
        if kind == "thinking":
            empty = {**block, "thinking": ""}
        await _send(response, "content_block_start", index=index, content_block=empty)
        for delta in _deltas(block):
            await _send(response, "content_block_delta", index=index, delta=delta)
        await _send(response, "content_block_stop", index=index)
    end = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    counts = {"output_tokens": answer["usage"]["output_tokens"]}
    await _send(response, "message_delta", delta=end, usage=counts)
    await _send(response, "message_stop")
    return response


def _deltas(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": part} for part in _halves(block["text"])]
    if block["type"] == "thinking":
        return [{"type": "thinking_delta", "thinking": block["thinking"]}]
    parts = _halves(json.dumps(block["input"]))
    return [{"type": "input_json_delta", "partial_json": part} for part in parts]


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


async def _send(response: web.StreamResponse, kind: str, **fields: Any) -> None:
    data = json.dumps({"type": kind, **fields})
    await response.write(f"event: {kind}\ndata: {data}\n\n".encode())
    await asyncio.sleep(0)
