"""Responses of a fake endpoint: well-formed ones, and every way they go wrong."""

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
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
    limit = body.get("max_completion_tokens", body.get("max_tokens")) or sys.maxsize
    words = answer.split(" ")
    cut = len(words) > limit
    text = " ".join(words[:limit]) if cut else answer
    completion_tokens = min(limit, script.completion_tokens or len(words))
    prompt_tokens = 1 + len(prompt_of(body)) // CHARACTERS_PER_TOKEN
    part: dict[str, Any] = {"index": 0, "finish_reason": "length" if cut else "stop"}
    chat = "messages" in body
    part |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
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


def error_response(
    status: int, message: str, code: str | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = {"error": {"message": message, "type": "fake", "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


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
    "hang": _delay,
    "slow_headers": _delay,
    "reset": _reset,
    "half_body": _halves,
    "slow_body": _halves,
}
