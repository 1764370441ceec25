"""A fake OpenAI-compatible endpoint with scripted answers, latencies and faults, and a log.

In a test's own event loop:

    async with FakeServer({"models": {"small": {"answer": "4"}}}) as server:
        ... server.base_url, server.requests ...

In a process of its own, for tests of other processes (openai_process.py):

    with FakeServerProcess({"models": {"small": {}}}) as server:
        ... server.base_url, server.log() ...

or `python tests/fakes/openai_server.py --port-file F --script JSON_OR_FILE`.

The script is `{"models": {NAME: {...}}}`; fake_script.py says what a model and a fault can do.
Without a script, or for the model "*", every name answers. Besides `/v1/chat/completions`,
`/v1/completions` and `/v1/models` it serves `GET /log` (every request: model, times, status,
tokens billed, calls in flight), `DELETE /log`, and `POST /script` (another script from now on), and
the Batch API of fake_batches.py.
"""

import argparse
import asyncio
import json
import math
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes.fake_answers import (
    billed_tokens,
    completion_of,
    error_response,
    faulty_response,
    limit_of,
    merged,
    prompt_of,
    refusal_of,
    streamed_response,
)
from tests.fakes.fake_batches import FakeBatches
from tests.fakes.fake_script import Fault, ModelScript


@dataclass
class Served:
    """One request in the server's log."""

    no: int
    model: str
    prompt: str
    """Start of the prompt."""
    started_at: float
    """Seconds since the epoch."""
    in_flight: int
    """Requests to this model being served, this one included."""
    max_tokens: int | None
    """The limit that the model obeys."""
    fields: list[str]
    """Names of the request's fields."""
    ended_at: float | None = None
    status: int | None = None
    """None where the client got no whole answer."""
    fault: str | None = None
    prompt_tokens: int = 0
    """Billed."""
    completion_tokens: int = 0
    """Billed."""


class FakeServer:
    """The server in the current event loop; an async context manager on a free port.

    Args:
        script: What the models do.
        port: Port to listen on; a free one where 0.
        tls: What it shows that it is by, where it is called over HTTPS.
    """

    def __init__(
        self,
        script: Mapping[str, Any] | None = None,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Served] = []
        self.batches = FakeBatches()
        self._port, self._tls = port, tls
        self._in_flight: Counter[str] = Counter()
        self._requests_of: Counter[str] = Counter()
        self._prompts_of: Counter[tuple[str, str]] = Counter()
        self._windows: dict[str, tuple[float, int]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self.set_script(script or {"models": {"*": {}}})

    def set_script(self, script: Mapping[str, Any]) -> None:
        """Behave like this from now on."""
        self.batches.script = script.get("batches", {})
        self._models = {name: ModelScript.parse(one) for name, one in script["models"].items()}
        self.batches.models = self._models

    @contextmanager
    def held(self, model: str) -> Iterator[None]:
        """Let requests to a model come in, and answer them when the block has ended."""
        self._held[model] = asyncio.Event()
        try:
            yield
        finally:
            self._held.pop(model).set()

    @property
    def base_url(self) -> str:
        """What a pool's `base_url` names."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/log", self._show_log)
        app.router.add_delete("/log", self._clear_log)
        app.router.add_post("/script", self._change_script)
        self.batches.add_to(app)
        # A hung request ends with its client, and none outlives the server.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self._port, backlog=4096, ssl_context=self._tls
        )
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = str(body.get("model"))
        script = self._models.get(model) or self._models.get("*")
        if script is None:
            return error_response(404, f"the model {model} does not exist", "model_not_found")
        if script.api_key and request.headers.get("Authorization") != f"Bearer {script.api_key}":
            return error_response(401, "Incorrect API key provided", "invalid_api_key")
        self._in_flight[model] += 1
        served = self._note(model, body, script)
        try:
            response = await self._serve(request, body, script, served)
            served.status = response.status
        finally:
            self._in_flight[model] -= 1
            served.ended_at = time.time()
        return response

    def _note(self, model: str, body: Mapping[str, Any], script: ModelScript) -> Served:
        served = Served(
            no=len(self.requests) + 1,
            model=model,
            prompt=prompt_of(body)[:200],
            started_at=time.time(),
            in_flight=self._in_flight[model],
            max_tokens=limit_of(body, script),
            fields=sorted(body),
        )
        self.requests.append(served)
        return served

    async def _serve(
        self, request: web.Request, body: Mapping[str, Any], script: ModelScript, served: Served
    ) -> web.StreamResponse:
        prompt, refusal = prompt_of(body), refusal_of(body, script)
        limited = self._refuse_early(served, script.window)
        if limited is not None:
            return limited
        if refusal is not None:
            served.fault = "refused field"
            return refusal
        self._requests_of[served.model] += 1
        self._prompts_of[served.model, prompt] += 1
        request_no = self._requests_of[served.model]
        prompt_no = self._prompts_of[served.model, prompt]
        hit = next((f for f in script.faults if f.strikes(request_no, prompt, prompt_no)), None)
        answer = completion_of(served.model, body, script)
        window = script.context_window_tokens
        if hit is None and window and billed_tokens(answer)[0] > window:
            hit = Fault("context_length")
        if (held := self._held.get(served.model)) is not None:
            await held.wait()
        await asyncio.sleep(script.latency_of(served.model, request_no))
        served.fault = hit.kind if hit else None
        if hit is None or hit.is_billed:
            billed = answer if hit is None or hit.kind != "patch" else merged(answer, hit.json)
            served.prompt_tokens, served.completion_tokens = billed_tokens(billed)
        breaks = hit is not None and hit.kind == "half_body"
        if body.get("stream") and (hit is None or breaks):
            return await streamed_response(request, body, answer, breaks=breaks)
        return (
            web.json_response(answer, headers=script.headers)
            if hit is None
            else await faulty_response(request, hit, answer)
        )

    def _refuse_early(self, served: Served, window: Mapping[str, Any]) -> web.StreamResponse | None:
        """Return the refusal of a call for which its window has no room; None where it has."""
        if not window:
            return None
        now_s = time.monotonic()
        began_s, calls = self._windows.get(served.model, (-math.inf, 0))
        if now_s - began_s >= window["seconds"]:
            began_s, calls = now_s, 0
        self._windows[served.model] = began_s, calls + 1
        if calls < window["calls"]:
            return None
        served.fault = "window"
        wait_s = f"{began_s + window['seconds'] - now_s:.3f}"
        says = window.get("says", "Rate limit reached. Please try again in {wait_s}s.")
        return error_response(429, says.format(wait_s=wait_s), "rate_limit_exceeded")

    async def _list_models(self, _request: web.Request) -> web.Response:
        rows = [{"id": name, "object": "model"} for name in self._models]
        return web.json_response({"object": "list", "data": rows})

    async def _show_log(self, _request: web.Request) -> web.Response:
        return web.json_response({"requests": [asdict(served) for served in self.requests]})

    async def _clear_log(self, _request: web.Request) -> web.Response:
        self.requests.clear()
        return web.json_response({})

    async def _change_script(self, request: web.Request) -> web.Response:
        self.set_script(await request.json())
        return web.json_response({})


async def _run(port_file: Path, script: Mapping[str, Any] | None, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with FakeServer(script, port=port) as server:
        part = port_file.with_suffix(".part")
        part.write_text(server.base_url.split(":")[-1].split("/")[0], encoding="utf-8")
        part.replace(port_file)
        await stop.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port-file", type=Path, required=True, help="written when ready")
    parser.add_argument("--port", type=int, default=0, help="a free one if unset")
    parser.add_argument("--script", help="JSON, the path of a JSON file, or - for standard input")
    arguments = parser.parse_args()
    text = arguments.script
    if text == "-":
        text = sys.stdin.read()
    elif text and not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    script = json.loads(text) if text else None
    asyncio.run(_run(arguments.port_file, script, arguments.port))


if __name__ == "__main__":
    main()
