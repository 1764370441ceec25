"""An API that words everything in its own way needs a format, and nothing else of the client."""

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from routoo.client import model_endpoints
from routoo.client.endpoints import ChatEndpoints
from routoo.client.formats.wire_format import (
    BatchFormat,
    ErrorDetails,
    ErrorKind,
    EventReader,
    SentCall,
)
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.errors import ContextLengthError, InvalidResponseError

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


class OtherFormat:
    """Implements `WireFormat` for an API that shares no word with OpenAI's."""

    headers: Mapping[str, str] = {"Content-Type": "application/json", "x-version": "7"}
    paths = ("ask",)
    batches: BatchFormat | None = None

    def path_of(self, _body: Mapping[str, Any]) -> str:
        return "ask"

    def request(self, model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
        said = [message["content"] for message in body["messages"]]
        return {"who": model.model_at_endpoint, "said": said, "most": model.max_completion_tokens}

    def read_completion(
        self, answer: object, call: SentCall, *, http_status: int, latency_s: float
    ) -> Completion:
        if not isinstance(answer, dict) or "reply" not in answer:
            raise InvalidResponseError("no reply", where=call.where, http_status=http_status)
        usage = Usage(answer["read"], answer["wrote"])
        reason = FinishReason.CONTENT_FILTER if answer["end"] == "BLOCKED" else FinishReason.STOP
        return Completion(answer["reply"], answer, usage, http_status, latency_s, reason)

    def read_error(self, _status: int, raw: bytes) -> ErrorDetails:
        return ErrorDetails(ErrorKind.CONTEXT_LENGTH if b"TOO_LONG" in raw else None, raw.decode())

    def event_reader(self) -> EventReader:
        return lambda event: (event,)


@pytest.fixture
async def server() -> AsyncIterator[list[Any]]:
    """Yield the port of a server of that API, followed by what it was asked."""
    seen: list[Any] = []

    async def ask(request: web.Request) -> web.Response:
        asked = await request.json()
        seen.append((request.headers["x-version"], asked))
        if asked["said"] == ["long"]:
            return web.json_response({"why": "TOO_LONG"}, status=400)
        end = "BLOCKED" if asked["said"] == ["bad"] else "DONE"
        return web.json_response({"reply": "4", "read": 9, "wrote": 1, "end": end})

    app = web.Application()
    app.router.add_post("/v1/ask", ask)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen.append(runner.addresses[0][1])
    try:
        yield seen
    finally:
        await runner.cleanup()


async def test_a_format_of_its_own_is_all_that_another_api_needs(
    server: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_endpoints, "format_of", lambda _model: OtherFormat())
    model = CandidateModel(
        name="m",
        endpoint=Endpoint(base_url=f"http://127.0.0.1:{server[0]}/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=1000,
        max_completion_tokens=64,
    )
    async with ChatEndpoints(environ={}) as client:
        answered = await client.complete(model, CHAT)
        blocked = await client.complete(model, {"messages": [{"content": "bad"}]})
        with pytest.raises(ContextLengthError, match="TOO_LONG"):
            await client.complete(model, {"messages": [{"content": "long"}]})
    assert server[1] == ("7", {"who": "m", "said": ["What is 2 + 2?"], "most": 64})
    assert (answered.answer, answered.usage, answered.is_filtered) == ("4", Usage(9, 1), False)
    assert blocked.is_filtered
