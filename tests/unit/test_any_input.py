"""Whatever comes from outside is read, or refused by an error of ours: no parser breaks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routoo.client.formats.anthropic import AnthropicFormat
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.wire_format import SentCall, WireFormat
from routoo.client.http import decode_json
from routoo.client.stream import AnswerStream
from routoo.client.token_counts import TokenCounters
from routoo.domain.job import Stage
from routoo.domain.pool_file import parse_pool
from routoo.errors import RoutooError
from routoo.predictor.manifest import read_manifest
from tests.batch_factory import pool_of
from worker.tasks import read_message

MODEL = pool_of("small").models[0]
FORMATS: tuple[WireFormat, ...] = (OpenAIFormat(), AnthropicFormat())
WORDS = st.sampled_from(
    [
        *("choices", "message", "content", "usage", "prompt_tokens", "completion_tokens", "error"),
        *("id", "status", "data", "custom_id", "response", "body", "status_code", "request_counts"),
        *("output_file_id", "created_at", "metadata", "finish_reason", "tool_calls", "details"),
        *("models", "name", "endpoint", "base_url", "price_usd_per_mtok", "prompt", "completion"),
        *("text", "code", "message", "type", "total_tokens", "cached_tokens", "has_more"),
        *("prompt_tokens_details", "completion_tokens_details", "reasoning_tokens", "errors"),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**30, 2**70),
    st.floats(),
    st.text(max_size=12),
    WORDS,
    st.sampled_from(["\x00", "\ud800", "completed", "in_progress", "stop", "length", "1e999"]),
)
JSON = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=4)), inner)
    ),
    max_leaves=25,
)


def _nested(depth: int) -> bytes:
    return b'{"choices":' + b"[" * depth + b"]" * depth + b"}"


DEEP = st.integers(1, 3000).map(_nested)
DEEP_YAML = st.integers(1, 600).map(_nested)
"""Both sides of the depth at which PyYAML ends the recursion, which is slow long before."""
BYTES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    DEEP,
)
unhurried = settings(deadline=None)  # the machine may be busy


def _call() -> SentCall:
    return SentCall(MODEL, {"messages": []}, "there", TokenCounters().of(MODEL), "a key")


def _choice(message: Any, usage: Any) -> Any:
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def _message(content: Any, usage: Any, reason: Any) -> Any:
    """Return an answer of Anthropic's form."""
    return {"type": "message", "content": content, "usage": usage, "stop_reason": reason}


ANSWERS = st.one_of(
    BYTES,
    st.one_of(st.builds(_choice, JSON, JSON), st.builds(_message, JSON, JSON, JSON)).map(
        lambda one: json.dumps(one).encode()
    ),
)


@pytest.mark.parametrize("speaks", FORMATS)
@unhurried
@given(raw=ANSWERS)
def test_any_body_is_an_answer_or_an_error(speaks: WireFormat, raw: bytes) -> None:
    with suppress(RoutooError):
        answer = decode_json(raw, where="there", http_status=200)
        speaks.read_completion(answer, _call(), http_status=200, latency_s=0.1)


@pytest.mark.parametrize("speaks", FORMATS)
@unhurried
@given(raw=BYTES, status=st.integers(300, 599))
def test_any_refusal_is_read(speaks: WireFormat, raw: bytes, status: int) -> None:
    speaks.read_error(status, raw)


_DELTA = st.dictionaries(st.sampled_from(["content", "role", "tool_calls", "x"]), JSON, max_size=3)
_CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.one_of(
            st.lists(
                st.one_of(JSON, st.fixed_dictionaries({"delta": _DELTA, "index": JSON})), max_size=3
            ),
            JSON,
        ),
        "type": st.sampled_from(
            [*("message_start", "content_block_start", "content_block_delta", "message_delta")]
        ),
        **dict.fromkeys(("index", "delta", "content_block", "message", "usage", "error"), JSON),
    },
)
_EVENTS = st.lists(
    st.one_of(
        _CHUNK.map(lambda one: b"data: " + json.dumps(one).encode("utf-8", "surrogatepass")),
        BYTES.map(lambda raw: b"data:" + raw),
        st.sampled_from([b"data: [DONE]", b": wait", b""]),
        st.binary(max_size=20),
    ),
    max_size=6,
).map(b"\n".join)


async def _read_stream(speaks: WireFormat, raw: bytes, cut: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), cut):
            yield raw[start : start + cut]

    stream = AnswerStream(pieces(), speaks, _call(), 200, 0.0)
    with suppress(RoutooError):
        async for _ in stream.events():
            pass
    with suppress(RoutooError):
        stream.completion()


@pytest.mark.parametrize("speaks", FORMATS)
@settings(deadline=None, max_examples=40)
@given(raw=_EVENTS, cut=st.integers(5, 40))
def test_any_stream_is_an_answer_or_an_error(speaks: WireFormat, raw: bytes, cut: int) -> None:
    asyncio.run(_read_stream(speaks, raw, cut))


@pytest.mark.parametrize("speaks", FORMATS)
@unhurried
@given(lines=st.lists(BYTES, max_size=4))
def test_any_file_of_a_provider_is_read_or_refused(speaks: WireFormat, lines: list[bytes]) -> None:
    batches, raw = speaks.batches, b"\n".join(lines)
    assert batches is not None
    readers = (
        lambda: batches.read_batch(raw, "there"),
        lambda: batches.read_page(raw, "there"),
        lambda: batches.read_marker([raw], ["marker"]),
        *([lambda: batches.read_file_id(raw, "there")] if batches.keeps_markers else []),
        lambda: batches.is_postponed(raw),
    )
    for read in readers:
        with suppress(RoutooError):
            read()


@unhurried
@given(st.one_of(st.text(max_size=80), JSON.map(json.dumps), DEEP_YAML.map(bytes.decode)))
def test_any_pool_file_is_a_pool_or_an_error(text: str) -> None:
    with suppress(RoutooError):
        parse_pool(text)


@unhurried
@given(BYTES)
def test_any_manifest_is_read_or_refused(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(raw)
        with suppress(RoutooError):
            read_manifest(Path(folder))


@unhurried
@given(st.lists(JSON, max_size=3))
def test_any_message_names_a_shard_or_is_dropped(arguments: list[object]) -> None:
    key = read_message(Stage.SCORE, arguments)
    assert key is None or key.stage is Stage.SCORE


@pytest.mark.parametrize("arguments", [(), ("x",), ("x", 1), ("x", 1, 2), (None, None)])
def test_a_message_that_names_no_shard_is_dropped(arguments: tuple[object, ...]) -> None:
    assert read_message(Stage.SCORE, arguments) is None
