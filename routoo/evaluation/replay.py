"""Serves an endpoint that answers from recorded outcomes: the pipeline runs without real models.

It speaks the OpenAI chat API on the loopback interface. A request names its item in its metadata
(`routoo_item_id`), or else is matched by its text. The answer is the recorded text where there is
one, else it carries the recorded score, which the grader `recorded` reads back; usage holds the
recorded tokens.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web

from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prompt import estimate_text_tokens, prompt_text
from routoo.domain.tables import Outcomes
from routoo.evaluation.graders.grade import ITEM_KEY, recorded_answer

_LARGEST_REQUEST = 64 << 20


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
        outcomes: Outcomes,
        items: Iterable[Item] = (),
        answers: Iterable[RecordedAnswer] = (),
        *,
        latency_scale: float = 0.0,
    ) -> None:
        self._found = _by_key(outcomes)
        self._by_text: dict[str, str] = {}
        for item in items:
            self._by_text.setdefault(item.prompt, item.item_id)
        self._answers = {(one.item_id, one.model): one for one in answers}
        self._models = sorted(set(outcomes.models))
        self._latency_scale = latency_scale

    @property
    def models(self) -> Sequence[str]:
        """Models that have any outcome."""
        return self._models

    def application(self) -> web.Application:
        """Return the server's application."""
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._list)
        return app

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": one} for one in self._models]})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not isinstance(body, dict):
            return _refusal("the request is no JSON object")
        model = str(body.get("model"))
        key = self._item_id(body) or "", model
        recorded, answer = self._found.get(key), self._answers.get(key)
        if recorded is None:
            return _refusal(f"no outcome of {model} is recorded for this item")
        if self._latency_scale > 0 and not np.isnan(recorded.latency_s):
            await asyncio.sleep(recorded.latency_s * self._latency_scale)
        return web.json_response(_completion(model, body, recorded, answer))

    def _item_id(self, body: Mapping[str, Any]) -> str | None:
        metadata = body.get("metadata")
        if isinstance(metadata, Mapping) and ITEM_KEY in metadata:
            return str(metadata[ITEM_KEY])
        return self._by_text.get(prompt_text(body))


def _by_key(outcomes: Outcomes) -> dict[tuple[str, str], Recorded]:
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
    model: str, body: Mapping[str, Any], recorded: Recorded, answer: RecordedAnswer | None
) -> dict[str, Any]:
    score = None if np.isnan(recorded.score) else recorded.score
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
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


def _count(recorded: float, otherwise: int) -> int:
    return otherwise if np.isnan(recorded) else round(recorded)


def _refusal(message: str) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": "not_recorded"}}
    return web.json_response(body, status=404)
