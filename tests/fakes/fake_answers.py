"""Responses of a fake endpoint: well-formed ones, and every way they go wrong."""

import asyncio
import base64
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.fakes.fake_script import Fault, ModelScript

CHARACTERS_PER_TOKEN = 4


def prompt_of(body: Mapping[str, Any]) -> str:
    if "messages" not in body:
        return str(body.get("prompt", ""))
    return "\n\n".join(str(message.get("content", "")) for message in body["messages"])


def completion_of(model: str, body: Mapping[str, Any], script: ModelScript) -> dict[str, Any]:
    answer = script.answer_to(model, prompt_of(body))
    limit = limit_of(body, script) or sys.maxsize
    words = answer.split(" ")
    cut = len(words) > limit
    text = " ".join(words[:limit]) if cut else answer
    completion_tokens = min(limit, script.completion_tokens or len(words))
    prompt_tokens = prompt_tokens_of(body, script)
    part: dict[str, Any] = {"index": 0, "finish_reason": "length" if cut else "stop"}
    chat = "messages" in body
    part |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    whole = {
        "id": "chatcmpl-fake",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [part],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return dict(merged(whole, script.patch))


def limit_of(body: Mapping[str, Any], script: ModelScript) -> int | None:
    """Return the limit of a request that the model obeys."""
    limits = (body.get(name) for name in script.limit_fields)
    return next((limit for limit in limits if limit is not None), None)


def prompt_tokens_of(body: Mapping[str, Any], script: ModelScript) -> int:
    """Return what the model bills for a prompt: its text, and its parts by their type."""
    contents = [message.get("content") for message in body.get("messages", ())]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    known = [
        script.part_tokens[part["type"]] for part in parts if part["type"] in script.part_tokens
    ]
    return sum(known) + 1 + len(prompt_of(body)) // CHARACTERS_PER_TOKEN


def billed_tokens(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the prompt and completion tokens that are billed by the usage of an answer."""
    usage = answer.get("usage") or {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, completion, total = (
        count if isinstance(count := usage.get(name), int) else 0 for name in names
    )
    return prompt, max(completion, total - prompt)


def merged(whole: Any, patch: Any) -> Any:
    """Return JSON with a patch over it: objects key by key, lists item by item."""
    if isinstance(whole, dict) and isinstance(patch, dict):
        return whole | {name: merged(whole.get(name), one) for name, one in patch.items()}
    if isinstance(whole, list) and isinstance(patch, list):
        rest = patch[len(whole) :] or whole[len(patch) :]
        return [merged(*pair) for pair in zip(whole, patch, strict=False)] + rest
    return patch


def refusal_of(body: Mapping[str, Any], script: ModelScript) -> web.Response | None:
    """Return the error for the first field that the model refuses; None where it takes all."""
    name = next((name for name in script.refuses if name in body), None)
    if name is None:
        return None
    refusal = script.refuses[name]
    if isinstance(refusal, str):
        error = {"message": refusal, "type": "invalid_request_error", "param": name}
        refusal = {"json": {"error": error | {"code": "unsupported_parameter"}}}
    return web.json_response(refusal["json"], status=refusal.get("status", 400))


def error_response(
    status: int, message: str, code: str | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = {"error": {"message": message, "type": "fake", "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def streamed_response(
    request: web.Request, body: Mapping[str, Any], answer: dict[str, Any], *, breaks: bool
) -> web.StreamResponse:
    """Send an answer word by word, as server-sent events; `breaks` ends it after the first half."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    events = list(_events(body, answer))
    for event in events[: len(events) // 2] if breaks else events:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    if not breaks:
        await response.write(b"data: [DONE]\n\n")
    elif request.transport is not None:
        request.transport.close()
    return response


def _events(body: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    choice = answer["choices"][0]
    words = choice["message"]["content"].split(" ")
    for number, word in enumerate(words):
        delta = {"content": word if number == 0 else f" {word}"}
        delta |= {"role": "assistant"} if number == 0 else {}
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield head | {"choices": [end]}
    if (body.get("stream_options") or {}).get("include_usage") and "usage" in answer:
        yield head | {"choices": [], "usage": answer["usage"]}


async def faulty_response(
    request: web.Request, fault: Fault, answer: dict[str, Any]
) -> web.StreamResponse:
    """Return what the client gets instead of the answer."""
    if fault.kind not in _STRIKES:
        raise ValueError(f"no such fault: {fault.kind}")
    return await _STRIKES[fault.kind](request, fault, answer)


async def _refuse(_request: web.Request, fault: Fault, _answer: dict[str, Any]) -> web.Response:
    if fault.kind == "context_length":
        text = "This model's maximum context length is exceeded. Reduce the messages."
        return error_response(400, text, "context_length_exceeded")
    if fault.kind == "content_filter":
        return error_response(400, "The prompt was filtered.", "content_filter")
    limited = fault.kind == "rate_limit"
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
    status, code = (429, "rate_limit_exceeded") if limited else (fault.status, None)
    return error_response(status, fault.message, code, headers)


async def _spoil(_request: web.Request, fault: Fault, answer: dict[str, Any]) -> web.Response:
    if fault.kind == "wrong_json":
        return web.Response(text="<html>not JSON", content_type="application/json")
    if fault.kind == "no_choices":
        return web.json_response({**answer, "choices": []})
    if fault.kind == "filtered":
        part = {**answer["choices"][0], "finish_reason": "content_filter"}
        return web.json_response({**answer, "choices": [part]})
    return web.json_response({key: answer[key] for key in answer if key != "usage"})


async def _patch(_request: web.Request, fault: Fault, answer: dict[str, Any]) -> web.Response:
    return web.json_response(merged(answer, fault.json))


async def _reply(request: web.Request, fault: Fault, _answer: dict[str, Any]) -> web.StreamResponse:
    data = json.dumps(fault.json).encode() if fault.text is None else fault.text.encode()
    if fault.base64 is not None:
        data = base64.b64decode(fault.base64)
    headers = {"Content-Type": "application/json", **fault.headers}
    response = web.StreamResponse(status=fault.status, headers=headers)
    response.content_length = len(data) * fault.repeat
    await response.prepare(request)
    for _ in range(fault.repeat):
        await response.write(data)
    return response


async def _delay(_request: web.Request, fault: Fault, answer: dict[str, Any]) -> web.Response:
    await asyncio.sleep(fault.delay_s)
    return web.json_response(answer)


async def _reset(request: web.Request, _fault: Fault, _answer: dict[str, Any]) -> web.Response:
    transport = request.transport
    if transport is not None:
        # Lingering for no time makes the kernel send a reset instead of an orderly end.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response(status=500)


async def _halves(request: web.Request, fault: Fault, answer: dict[str, Any]) -> web.StreamResponse:
    data = json.dumps(answer).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if fault.kind == "half_body":
        if request.transport is not None:
            request.transport.close()
        return response
    await asyncio.sleep(fault.delay_s)
    await response.write(data[len(data) // 2 :])
    return response


_STRIKES: dict[str, Callable[..., Awaitable[web.StreamResponse]]] = {
    "rate_limit": _refuse,
    "status": _refuse,
    "context_length": _refuse,
    "wrong_json": _spoil,
    "no_choices": _spoil,
    "missing_usage": _spoil,
    "content_filter": _refuse,
    "filtered": _spoil,
    "patch": _patch,
    "reply": _reply,
    "hang": _delay,
    "slow_headers": _delay,
    "reset": _reset,
    "half_body": _halves,
    "slow_body": _halves,
}
