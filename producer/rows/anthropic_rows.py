"""Reads rows of Anthropic's Message Batches (`custom_id`, `params`) as requests of OpenAI's form.

What has no counterpart there is refused, with what to do about it. Where every model that may
answer speaks Anthropic's own API, what only that knows (thinking, marks of a cache, the begin of an
answer) stays.

Source: "Messages" of Anthropic's API reference.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producer.rows.problems import LimitError, ProblemKind, RowProblem
from routoo.client.formats.anthropic_requests import THOUGHTS, tool_call

_SAME = ("model", "max_tokens", "temperature", "top_p", "stream", "service_tier", "top_k")
_NATIVE_FIELDS = ("thinking", "top_k", "output_config", "cache_control", "inference_geo")
_TRANSLATED = frozenset(
    {"messages", "system", "stop_sequences", "metadata", "tools", "tool_choice", *_SAME}
)
_CACHE = "cache_control"
# Tuples and no sets: what is looked for may be a list, which has no hash.
_OWN_TOOL_TYPES = (None, "custom")
_SERVICE_TIERS = ("auto", "standard_only")
_TOOL_CHOICES = ("auto", "none", "any")
_TRANSLATED_BLOCKS = (*THOUGHTS, "tool_use")
_NATIVE_REMEDY = (
    "Leave it out, or let only models answer that speak Anthropic's own API (format: anthropic)"
)


def chat_body(params: object, *, native: bool) -> dict[str, Any]:
    """Return the request that a row's `params` are.

    Args:
        params: A request of the Messages API.
        native: Whether every model that may answer speaks that API itself.

    Raises:
        LimitError: It is none, or holds what can't be said in the other form.
    """
    if not isinstance(params, Mapping):
        raise _wrong("params is not an object", params)
    body: dict[str, Any] = {name: params[name] for name in _SAME if params.get(name) is not None}
    if body.get("service_tier") in _SERVICE_TIERS:
        del body["service_tier"]
    if params.get("thinking") == {"type": "disabled"}:
        params = {name: value for name, value in params.items() if name != "thinking"}
    for name in params.keys() - _TRANSLATED | (params.keys() & set(_NATIVE_FIELDS)):
        if params[name] is None:
            continue
        if not native or name not in _NATIVE_FIELDS:
            raise _unsupported(f"{name} has no counterpart in other APIs", params[name])
        body[name] = params[name]
    body["messages"] = list(_messages(params, native=native))
    body |= dict(_options(params, native=native))
    return body


def _wrong(what: str, value: object) -> LimitError:
    remedy = 'Write it as Anthropic\'s API reference has it: {"model", "max_tokens", "messages"}'
    return LimitError(RowProblem(ProblemKind.WRONG_TYPE, what, remedy, value))


def _unsupported(what: str, value: object, remedy: str = _NATIVE_REMEDY) -> LimitError:
    return LimitError(RowProblem(ProblemKind.UNSUPPORTED_REQUEST, what, remedy, value))


def _options(params: Mapping[str, Any], *, native: bool) -> Iterator[tuple[str, Any]]:
    if params.get("stop_sequences"):
        yield "stop", params["stop_sequences"]
    metadata = params.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("user_id"):
        yield "user", metadata["user_id"]
    tools = params.get("tools")
    if tools:
        if not isinstance(tools, list):
            raise _wrong("tools is not a list", tools)
        yield "tools", [_tool(one, native=native) for one in tools]
    choice = params.get("tool_choice")
    if isinstance(choice, Mapping):
        yield "tool_choice", _tool_choice(choice)
        if choice.get("disable_parallel_tool_use"):
            yield "parallel_tool_calls", False


def _tool(tool: object, *, native: bool) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
        raise _wrong("a tool is not an object with a name", tool)
    if tool.get("type") not in _OWN_TOOL_TYPES:
        remedy = "Leave it out: such tools run at Anthropic and are billed beside the tokens"
        raise _unsupported("a tool of Anthropic's own can't be routed", tool["type"], remedy)
    function = {"name": tool["name"], "parameters": tool.get("input_schema")}
    kept = ("description", "strict")
    function |= {name: tool[name] for name in kept if tool.get(name) is not None}
    function |= _mark(tool, native=native)
    return {"type": "function", "function": function}


def _tool_choice(choice: Mapping[str, Any]) -> object:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind in _TOOL_CHOICES:
        return "required" if kind == "any" else kind
    raise _wrong("tool_choice is not known", kind)


def _messages(params: Mapping[str, Any], *, native: bool) -> Iterator[dict[str, Any]]:
    system, given = params.get("system"), params.get("messages")
    if system:
        yield {"role": "system", "content": _content(system, _text, native=native)}
    if not isinstance(given, list):
        raise _wrong("params has no list of messages", given)
    for message in given:
        if not isinstance(message, Mapping):
            raise _wrong("a message is not an object", message)
        if message.get("role") == "user":
            yield from _user(message.get("content"), native=native)
        elif message.get("role") == "assistant":
            yield _assistant(message.get("content"), native=native)
        else:
            raise _wrong("a message's role is neither user nor assistant", message.get("role"))
    if given and not native and given[-1].get("role") == "assistant":
        what = "the last message is the begin of an answer, which other models don't go on with"
        raise _unsupported(what, None)


_Part = Callable[[Mapping[str, Any], bool], dict[str, Any]]


def _content(content: object, part_of: _Part, *, native: bool) -> str | list[dict[str, Any]]:
    """Return content; one text alone as a text, which every server takes."""
    if isinstance(content, str):
        return content
    parts = [part_of(block, native) for block in _blocks(content)]
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts


def _blocks(content: object) -> list[Mapping[str, Any]]:
    if isinstance(content, list) and all(isinstance(one, Mapping) for one in content):
        return content
    raise _wrong("content is neither a text nor a list of blocks", content)


def _user(content: object, *, native: bool) -> Iterator[dict[str, Any]]:
    """Yield the results of tools, each a message of its own, and then what the user says."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    blocks = _blocks(content)
    for block in blocks:
        if block.get("type") == "tool_result":
            yield _tool_result(block, native=native)
    said = [block for block in blocks if block.get("type") != "tool_result"]
    if said:
        yield {"role": "user", "content": _content(said, _part, native=native)}


def _tool_result(block: Mapping[str, Any], *, native: bool) -> dict[str, Any]:
    part_of = _part if native else _text
    content = _content(block.get("content") or "", part_of, native=native)
    message = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}
    return message | ({"is_error": True} if native and block.get("is_error") else {})


def _assistant(content: object, *, native: bool) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    blocks = _blocks(content)
    thoughts = [one for one in blocks if one.get("type") in THOUGHTS]
    calls = [tool_call(one) for one in blocks if one.get("type") == "tool_use"]
    said = [one for one in blocks if one.get("type") not in _TRANSLATED_BLOCKS]
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if said:
        message["content"] = _content(said, _text, native=native)
    if calls:
        message["tool_calls"] = calls
    if thoughts and native:
        message["thinking_blocks"] = thoughts  # others are not shown another model's thoughts
    return message


def _text(block: Mapping[str, Any], native: bool) -> dict[str, Any]:  # noqa: FBT001 - as `_part`
    if block.get("type") == "text" and isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"], **_mark(block, native=native)}
    what = f"a block of type {block.get('type')!r} can't stand here"
    raise _unsupported(what, block.get("type"), "Only texts are read here: leave it out")


def _part(block: Mapping[str, Any], native: bool) -> dict[str, Any]:  # noqa: FBT001 - as `_text`
    kind, source = block.get("type"), block.get("source")
    mark = _mark(block, native=native)
    if kind == "image" and isinstance(source, Mapping):
        url = _url(source)
        if url is not None:
            return {"type": "image_url", "image_url": {"url": url}, **mark}
    if kind == "document" and isinstance(source, Mapping):
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            return {"type": "text", "text": source["data"], **mark}
        if source.get("type") == "base64":
            named = str(block.get("title") or "document.pdf")
            return {"type": "file", "file": {"filename": named, "file_data": _url(source)}, **mark}
    if kind == "text":
        return _text(block, native)
    detail = source.get("type") if isinstance(source, Mapping) else None
    what = f"a block of type {kind!r}{f' from a {detail}' if detail else ''} has no counterpart"
    remedy = "Give texts, images (base64 or URL), or documents as text or base64; leave others out"
    raise _unsupported(what, None, remedy)


def _url(source: Mapping[str, Any]) -> str | None:
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url")
    return url if isinstance(url, str) else None


def _mark(block: Mapping[str, Any], *, native: bool) -> dict[str, Any]:
    """Return the mark of a cache; other APIs cache by themselves or not at all."""
    return {_CACHE: block[_CACHE]} if native and block.get(_CACHE) else {}
