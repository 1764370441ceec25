"""`/v1/chat/completions` and `/v1/models`: single requests, each routed when it comes."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from producer.aims import read_budget, read_limits, read_objective
from producer.gateway.access import key_of, require
from producer.gateway.errors import ApiError, api_error
from producer.gateway.live_calls import OpenStream
from producer.gateway.live_choice import LiveAim, LiveCandidate, LiveChoice
from producer.gateway.state import Gateway, GatewayDep, gateway_of
from producer.rows.body import BodyCheck
from producer.rows.problems import ProblemKind, RowProblem, find_unstorable_text
from routoo.domain.caller import Caller, Scope
from routoo.domain.pool import Pool
from routoo.errors import EndpointError, RoutooError

_EXTRA = "routoo"
"""Field of requests and answers for what OpenAI's API has no field for."""
_HEADER = "x-routoo-"
_FIELDS = (
    "pool",
    "budget_usd",
    "willingness_to_pay_usd",
    "min_quality",
    "max_cost_usd",
    "max_latency_s",
    "allowed_models",
    "denied_models",
)
AUTO = "routoo/auto"
COMPLETIONS_PATH = "/v1/chat/completions"
router = APIRouter(prefix="/v1", tags=["Chat"])
Reader = Annotated[Caller, Depends(require(Scope.READ))]

_DESCRIPTION = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["messages"],
                    "properties": {
                        "model": {
                            "type": "string",
                            "description": f"{AUTO} to have it chosen, or a model of the pool",
                        },
                        "messages": {"type": "array", "items": {"type": "object"}},
                        "stream": {"type": "boolean"},
                        _EXTRA: {
                            "type": "object",
                            "properties": {name: {"type": "string"} for name in _FIELDS},
                        },
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A single request, read."""

    body: dict[str, Any]
    """As it is sent on."""
    pool: Pool
    aim: LiveAim
    streams: bool
    wants_usage: bool
    """Whether the last chunk of a stream shall have the usage."""


@router.post("/chat/completions", openapi_extra=_DESCRIPTION)
@router.post("/completions", include_in_schema=False)
async def complete(request: Request) -> Response:
    """Answer one request by the model that fits it best, or by the one that it names.

    Budget, worth of an answer, quality and models come in the field `routoo` or in headers such as
    X-Routoo-Budget-USD. The answer names the model that was asked.
    """
    gateway = gateway_of(request)
    key = await key_of(request, Scope.SUBMIT)
    asked = _read(gateway, request, await request.body())
    live = gateway.live
    experience = await live.experience_of(asked.pool)
    choice = await live.chooser.choose(asked.body, asked.pool, asked.aim, experience)
    timeout_s = asked.aim.limits.max_latency_s
    if asked.streams:
        stream = await live.caller.stream(choice, asked.body, key, timeout_s)
        headers = _headers(stream.candidate, choice, stream.passed)
        lines = _lines(stream, wants_usage=asked.wants_usage)
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
    done = await live.caller.complete(choice, asked.body, key, timeout_s)
    headers = _headers(done.candidate, choice, done.passed)
    headers["x-routoo-cost-usd"] = f"{done.cost_usd:f}"
    body = {**done.completion.body, "model": done.candidate.model.name}
    body[_EXTRA] = {**_facts(done.candidate, choice, done.passed), "cost_usd": float(done.cost_usd)}
    return Response(orjson.dumps(body), media_type="application/json", headers=headers)


@router.get("/models", tags=["Models"])
async def list_models(gateway: GatewayDep, caller: Reader) -> dict[str, Any]:
    """List the models that requests may name, and the name that has one chosen."""
    del caller
    return {"object": "list", "data": [_model_json(name) for name in _model_names(gateway)]}


@router.get("/models/{name:path}", tags=["Models"])
async def retrieve_model(name: str, gateway: GatewayDep, caller: Reader) -> dict[str, Any]:
    """Describe a model."""
    del caller
    if name not in _model_names(gateway):
        raise ApiError(404, f"The model {name!r} does not exist.", code="model_not_found")
    return _model_json(name)


def _model_names(gateway: Gateway) -> list[str]:
    pools = gateway.options.pools.values()
    return list(dict.fromkeys([AUTO, *(name for pool in pools for name in pool.names)]))


def _model_json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "routoo"}


def _read(gateway: Gateway, request: Request, raw: bytes) -> _Asked:
    """Return a request, checked.

    Raises:
        ApiError: Something of it can't be used.
    """
    body = _decoded(raw)
    texts = _texts(body.pop(_EXTRA, None), request.headers)
    streams, wanted = body.pop("stream", None) is True, body.pop("stream_options", None)
    try:
        where, named = _label("pool"), body.get("model")
        pool = gateway.options.live_pool(texts.get("pool"), named, where=where)
        aim = _aim(texts, pool)
    except RoutooError as error:
        raise ApiError(400, str(error), param=error.where) from error
    _check(body, pool, len(raw))
    wants_usage = isinstance(wanted, dict) and wanted.get("include_usage") is True
    return _Asked(body, pool, aim, streams, wants_usage)


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The body is no object.")
    return body


def _check(body: dict[str, Any], pool: Pool, size_bytes: int) -> None:
    problems: list[RowProblem] = []
    BodyCheck(pool).check(body, size_bytes, problems)
    unstorable = find_unstorable_text(body)
    problems += [] if unstorable is None else [unstorable]
    if not problems:
        return
    first = problems[0]
    if first.kind is ProblemKind.UNKNOWN_MODEL:
        raise ApiError(404, str(first), code="model_not_found", param="model")
    codes = {ProblemKind.PROMPT_TOO_LONG: "context_length_exceeded"}
    code = codes.get(first.kind, str(first.kind))
    raise ApiError(400, " ".join(map(str, problems)), code=code, param="messages")


def _label(field: str) -> str:
    return f"{_EXTRA}.{field}"


def _texts(extra: object, headers: Mapping[str, str]) -> dict[str, str]:
    """Return Routoo's own options of a request; those in the body count before headers."""
    found = {
        name: headers[header]
        for name in _FIELDS
        if (header := _HEADER + name.replace("_", "-")) in headers
    }
    if extra is None:
        return found
    if not isinstance(extra, dict) or not extra.keys() <= set(_FIELDS):
        raise ApiError(400, f"Give an object with some of {', '.join(_FIELDS)}.", param=_EXTRA)
    for name, value in extra.items():
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            found[name] = ",".join(value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            found[name] = str(value)
        elif value is not None:
            raise ApiError(400, "It is neither text nor number.", param=_label(name))
    return found


def _aim(texts: Mapping[str, str], pool: Pool) -> LiveAim:
    objective = read_objective(texts, pool.names, _label)
    return LiveAim(
        read_limits(texts, pool.names, datetime.now(UTC), _label),
        read_budget(texts, _label),
        objective.willingness_to_pay_usd,
    )


def _facts(candidate: LiveCandidate, choice: LiveChoice, passed: tuple[str, ...]) -> dict[str, Any]:
    return {
        "model": candidate.model.name,
        "reason": "fallback" if passed else choice.reason,
        "expected_quality": candidate.expected_quality,
        "expected_cost_usd": candidate.expected_cost_usd,
        "failed_before": list(passed),
    }


def _headers(
    candidate: LiveCandidate, choice: LiveChoice, passed: tuple[str, ...]
) -> dict[str, str]:
    headers = {
        "x-routoo-model": candidate.model.name,
        "x-routoo-reason": "fallback" if passed else choice.reason,
        "x-routoo-predict-ms": f"{choice.predict_s * 1000:.3f}",
    }
    if candidate.expected_quality is not None:
        headers["x-routoo-expected-quality"] = f"{candidate.expected_quality:.4f}"
    return headers


async def _lines(stream: OpenStream, *, wants_usage: bool) -> AsyncIterator[bytes]:
    """Yield the events as they come, each with the name of the model that was asked."""
    try:
        async for event in stream.events():
            event["model"] = stream.candidate.model.name
            if wants_usage or event.get("choices") or event.get("error"):
                if not wants_usage:
                    event.pop("usage", None)
                yield b"data: " + orjson.dumps(event) + b"\n\n"
    except EndpointError as error:
        yield b"data: " + orjson.dumps(api_error(error).body()) + b"\n\n"
    yield b"data: [DONE]\n\n"
