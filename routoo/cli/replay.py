"""`routoo replay`: serve recorded outcomes as a model endpoint, so that the pipeline runs without.

It speaks the OpenAI chat API on the loopback interface. A request names its item in its metadata
(`routoo_item_id`), or else is matched by its text. The answer is the recorded text where there is
one, else a JSON object with the recorded score. The response has that score too, by which a run
over recorded answers is graded; usage holds the recorded tokens.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routoo.cli.options import OutcomesOption
from routoo.domain.items import Item
from routoo.domain.prompt import estimate_text_tokens, prompt_text
from routoo.evaluation.graders.grade import ITEM_KEY, SCORE_KEY, recorded_answer

if TYPE_CHECKING:
    from aiohttp import web

    from routoo.domain.completion import RecordedAnswer
    from routoo.domain.tables import Outcomes

_HOST = "127.0.0.1"
_LARGEST_REQUEST = 64 << 20


def replay(
    outcomes: OutcomesOption,
    items: Annotated[
        list[Path] | None,
        typer.Option(help="Items table: finds items by their text where a request names none."),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers table: its texts are served instead of scores."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    latency_scale: Annotated[
        float, typer.Option(min=0, help="Part of the recorded latency that a call takes.")
    ] = 0.0,
    *,
    until_stdin_ends: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Answer chat requests from recorded outcomes, on this machine only, until Ctrl-C.

    Prints the base URL once it answers: name it in a pool file's endpoints. Answers carry the
    recorded text (--answers) or score, and the recorded tokens, and cost nothing.

    Example:
        routoo replay --items mmlu_items.parquet --outcomes mmlu_outcomes.parquet --port 8080
    """
    import asyncio
    import contextlib
    import threading

    from routoo.domain.tables import read_answers, read_items, read_outcomes

    recorded, rows = read_outcomes(*outcomes), read_items(*(items or []))
    said = read_answers(*(answers or []))
    app = application(Replay(recorded, rows, said, latency_scale=latency_scale))
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, port))


async def _serve(app: "web.Application", port: int) -> None:
    import asyncio
    import signal

    from aiohttp import web

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, port, backlog=1024).start()
        typer.echo(f"http://{_HOST}:{runner.addresses[0][1]}/v1")
        await stopping.wait()
    finally:
        await runner.cleanup()


def _end_with_stdin() -> None:
    """End this process when the one that started it is gone, however that ended."""
    import os
    import signal

    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded outcome of one model on one item; NaN where not known."""

    score: float
    prompt_tokens: float
    completion_tokens: float
    latency_s: float


class Replay:
    """Finds recorded outcomes and answers with them.

    Args:
        outcomes: The recordings.
        items: Texts of the items, for requests that name none; of equal texts the first counts.
        answers: What was said; where it is known, it stands instead of the recorded score.
        latency_scale: Share of the recorded latency that a call takes; 0 answers at once.
    """

    def __init__(
        self,
        outcomes: "Outcomes",
        items: Iterable[Item] = (),
        answers: "Iterable[RecordedAnswer]" = (),
        *,
        latency_scale: float = 0.0,
    ) -> None:
        self._found = _by_key(outcomes)
        self._by_text: dict[str, str] = {}
        for item in items:
            self._by_text.setdefault(item.prompt, item.item_id)
        self._answers = {(one.item_id, one.model): one for one in answers}
        self.models = sorted(set(outcomes.models))
        self._latency_scale = latency_scale

    async def answer(self, body: object) -> dict[str, Any] | str:
        """Return the completion of a request, after its time; or why there is none."""
        import asyncio

        if not isinstance(body, dict):
            return "the request is no JSON object"
        model = str(body.get("model"))
        key = self._item_id(body) or "", model
        recorded, answer = self._found.get(key), self._answers.get(key)
        if recorded is None:
            return f"no outcome of {model} is recorded for this item"
        if self._latency_scale > 0 and not math.isnan(recorded.latency_s):
            await asyncio.sleep(recorded.latency_s * self._latency_scale)
        return _completion(model, body, recorded, answer)

    def _item_id(self, body: Mapping[str, Any]) -> str | None:
        metadata = body.get("metadata")
        if isinstance(metadata, Mapping) and ITEM_KEY in metadata:
            return str(metadata[ITEM_KEY])
        return self._by_text.get(prompt_text(body))


def application(replay: Replay) -> "web.Application":
    """Return a server's application that answers by recordings."""
    from aiohttp import web

    async def complete(request: web.Request) -> web.Response:
        answer = await replay.answer(await request.json())
        if isinstance(answer, dict):
            return web.json_response(answer)
        error = {"message": answer, "type": "invalid_request_error", "code": "not_recorded"}
        return web.json_response({"error": error}, status=404)

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": one} for one in replay.models]})

    app = web.Application(client_max_size=_LARGEST_REQUEST)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    return app


def _by_key(outcomes: "Outcomes") -> dict[tuple[str, str], Recorded]:
    """Return the outcomes by item and model."""
    columns = zip(
        outcomes.score,
        outcomes.prompt_tokens,
        outcomes.completion_tokens,
        outcomes.latency_s,
        strict=True,
    )
    keys = zip(outcomes.item_ids, outcomes.models, strict=True)
    return {key: Recorded(*map(float, row)) for key, row in zip(keys, columns, strict=True)}


def _completion(
    model: str, body: Mapping[str, Any], recorded: Recorded, answer: "RecordedAnswer | None"
) -> dict[str, Any]:
    score = None if math.isnan(recorded.score) else recorded.score
    text = recorded_answer(score) if answer is None else answer.text
    reason = (answer.finish_reason if answer else None) or "stop"
    message = {"role": "assistant", "content": text}
    # What is not recorded counts as plans count it.
    prompt = _count(recorded.prompt_tokens, estimate_text_tokens(body))
    completion = _count(recorded.completion_tokens, 1)
    return {
        "id": "replayed",
        "object": "chat.completion",
        "model": model,
        SCORE_KEY: score,
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


def _count(recorded: float, otherwise: int) -> int:
    return otherwise if math.isnan(recorded) else round(recorded)
