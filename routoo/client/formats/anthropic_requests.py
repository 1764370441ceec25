"""Makes requests of Anthropic's Messages API out of those of OpenAI's form.

What OpenAI's form says and the API lacks is left out where the API's own compatible form leaves it
out too (`seed`, penalties, `logprobs`), and refused where the answer would be another (several
answers, sound). Fields that OpenAI doesn't know, such as `top_k`, go out as they are.

Source: "Messages" and "OpenAI SDK compatibility" of Anthropic's API reference.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from routoo.domain.pool import IMAGE_TYPES, CandidateModel
from routoo.domain.prompt import LIMIT_KEYS, completion_limit
from routoo.errors import RequestRejectedError

_SHORTEST_THINKING = 1024
"""Least `budget_tokens` of `thinking`."""
_HOTTEST = 1.0
_CACHE_MARK = "cache_control"
_SYSTEM_ROLES = frozenset({"system", "developer"})
_TRANSLATED = frozenset(
    {
        *("model", "messages", "prompt", "stop", "temperature", "tools", "functions"),
        *("tool_choice", "function_call", "parallel_tool_calls", "response_format"),
        *("reasoning_effort", "user", "metadata", "thinking", *LIMIT_KEYS),
    }
)
_LEFT_OUT = frozenset(
    {
        *("seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs"),
        *("top_logprobs", "store", "prediction", "verbosity", "stream_options", "modalities"),
        *("safety_identifier", "prompt_cache_key", "suffix", "echo", "n", "best_of"),
    }
)
"""Fields of OpenAI's that the API doesn't have; `n` and `best_of` may only be 1."""
_SERVICE_TIERS = ("auto", "standard_only")
_NOT_WITH_THINKING = ("temperature", "top_p", "top_k")
_EFFORTS = {"minimal": "low"}
THOUGHTS = ("thinking", "redacted_thinking")
"""Types of the blocks that hold what a model thought; no set, which would have to hash a list that
stands for a type."""
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.-]+)*;base64,", re.IGNORECASE)


def request_of(model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request as it goes out.

    Args:
        model: The candidate model.
        body: A chat request or a plain one.

    Raises:
        RequestRejectedError: It asks for something that the API can't do.
    """
    asked = model.with_parameters(body)
    _check(asked, model)
    _check_place(body, model)
    sent = {k: v for k, v in asked.items() if k not in _TRANSLATED and k not in _LEFT_OUT}
    system, messages = _conversation(asked, model)
    sent |= {"model": model.model_at_endpoint, "messages": messages}
    sent["max_tokens"] = completion_limit(body, model)
    if system:
        sent["system"] = system
    sent |= dict(_options(asked))
    sent |= dict(_tools(asked, model))
    if asked.get("service_tier") not in _SERVICE_TIERS:
        sent.pop("service_tier", None)
    if not _is_write_priced(model):
        sent.pop(_CACHE_MARK, None)
    _think(sent, asked.get("thinking"), model)
    return sent


def _reject(what: str, model: CandidateModel, remedy: str) -> RequestRejectedError:
    return RequestRejectedError(
        f"Anthropic's API can't take the request: {what}", where=model.name, remedy=remedy
    )


def _check(asked: Mapping[str, Any], model: CandidateModel) -> None:
    if any((asked.get(name) or 1) != 1 for name in ("n", "best_of")):
        raise _reject("it gives one answer", model, "Leave n out, or write several rows")
    wanted = asked.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        remedy = "Give a json_schema, or say by capabilities in the pool that it has no json_mode"
        raise _reject("JSON without a schema", model, remedy)


def _check_place(body: Mapping[str, Any], model: CandidateModel) -> None:
    """Refuse a place of inference that isn't the candidate's own: some are dearer."""
    usual = (None, "global", model.with_parameters({}).get("inference_geo"))
    if body.get("inference_geo") not in usual:
        remedy = "Put inference_geo into the parameters of a candidate that has the price there"
        raise _reject("inference_geo asks for a place with a price of its own", model, remedy)


def _options(asked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the translated fields beside messages, tools and thinking."""
    temperature = asked.get("temperature")
    if isinstance(temperature, int | float):
        yield "temperature", min(temperature, _HOTTEST)
    stop = asked.get("stop")
    if stop:
        yield "stop_sequences", [stop] if isinstance(stop, str) else stop
    metadata = asked.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    if user := user or asked.get("user"):
        yield "metadata", {"user_id": user}
    config = dict(asked.get("output_config") or {})
    effort = asked.get("reasoning_effort")
    if isinstance(effort, str) and effort != "none":
        config.setdefault("effort", _EFFORTS.get(effort, effort))
    wanted = asked.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema")
        config.setdefault("format", {"type": "json_schema", "schema": schema})
    if config:
        yield "output_config", config


def _tools(asked: Mapping[str, Any], model: CandidateModel) -> Iterator[tuple[str, Any]]:
    functions = [one.get("function") or one for one in asked.get("tools") or ()]
    functions += asked.get("functions") or ()
    if functions:
        yield "tools", [_tool(one, model) for one in functions]
    choice = asked.get("tool_choice", asked.get("function_call"))
    translated = _tool_choice(choice)
    if asked.get("parallel_tool_calls") is False and functions:
        translated = {**(translated or {"type": "auto"}), "disable_parallel_tool_use": True}
    if translated is not None and functions:
        yield "tool_choice", translated


def _tool(function: Mapping[str, Any], model: CandidateModel) -> dict[str, Any]:
    named = {"name": function.get("name"), "description": function.get("description")}
    tool = {name: value for name, value in named.items() if value is not None}
    tool["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    kept = {"strict": function["strict"]} if "strict" in function else {}
    return tool | kept | _mark(function, model)


def _mark(part: Mapping[str, Any], model: CandidateModel) -> dict[str, Any]:
    """Return the mark of a cache; none where nobody knows what it costs to write there."""
    mark = part.get(_CACHE_MARK)
    return {_CACHE_MARK: mark} if mark and _is_write_priced(model) else {}


def _is_write_priced(model: CandidateModel) -> bool:
    return model.price_usd_per_mtok.cache_write is not None


def _tool_choice(choice: object) -> dict[str, Any] | None:
    if isinstance(choice, str):
        return {"type": {"required": "any"}.get(choice, choice)}
    if isinstance(choice, Mapping):
        function = choice.get("function")
        return {"type": "tool", "name": (function or choice).get("name")}
    return None


def _think(sent: dict[str, Any], thinking: object, model: CandidateModel) -> None:
    """Add thinking, and keep its budget within the limit of the answer's tokens.

    The API counts thinking against `max_tokens`. Tokens that the pool allows an endpoint beside
    that limit are for thinking.
    """
    if not isinstance(thinking, Mapping) or thinking.get("type") == "disabled":
        return
    for name in _NOT_WITH_THINKING:
        sent.pop(name, None)
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int):
        sent["max_tokens"] += min(budget, model.extra_completion_tokens)
        budget = min(budget, sent["max_tokens"] - 1)
        if budget < _SHORTEST_THINKING:
            remedy = "Raise max_tokens, or give the endpoint extra_completion_tokens in the pool"
            raise _reject("the limit of its answer leaves no room for thinking", model, remedy)
        thinking = {**thinking, "budget_tokens": budget}
    sent["thinking"] = dict(thinking)


def _conversation(
    asked: Mapping[str, Any], model: CandidateModel
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the system's text blocks, and the messages of user and assistant in turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in asked.get("messages") or [{"role": "user", "content": asked.get("prompt")}]:
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            system += _blocks(message.get("content"), model)
            continue
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _turn(role, message, model)
        if blocks and turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    _trim_last(turns)
    return system, turns


def _turn(role: object, message: Mapping[str, Any], model: CandidateModel) -> list[dict[str, Any]]:
    if role == "tool":
        content = _blocks(message.get("content"), model)
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
        flagged = {"is_error": True} if message.get("is_error") else {}
        return [result | {"content": content} | flagged]
    if role == "assistant":
        calls = [_tool_use(call, model) for call in message.get("tool_calls") or ()]
        said = _blocks(message.get("content") or message.get("refusal"), model)
        return [*(message.get("thinking_blocks") or ()), *said, *calls]
    if role == "user":
        return _blocks(message.get("content"), model)
    raise _reject(f"a message of the role {role!r}", model, "Use system, user, assistant or tool")


def _tool_use(call: Mapping[str, Any], model: CandidateModel) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError) as error:
        what = "the arguments of a tool call are no JSON"
        raise _reject(what, model, "Correct them in the row") from error
    return {
        "type": "tool_use",
        "id": call.get("id"),
        "name": function.get("name"),
        "input": arguments,
    }


def tool_call(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `tool_use` block as a tool call of OpenAI's form."""
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _trim_last(turns: list[dict[str, Any]]) -> None:
    """Take the space off the end of an answer that the model is to continue: the API refuses it."""
    last = turns[-1]["content"][-1] if turns and turns[-1]["role"] == "assistant" else {}
    if last.get("type") == "text":
        last["text"] = last["text"].rstrip()


def _blocks(content: object, model: CandidateModel) -> list[dict[str, Any]]:
    """Return content as blocks; texts without a character are left out, the API refuses them."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    parts = content if isinstance(content, list) else []
    return [block for part in parts for block in _block(part, model)]


def _block(part: Mapping[str, Any], model: CandidateModel) -> Iterable[dict[str, Any]]:
    kind = part.get("type") or "text"
    mark = _mark(part, model)
    if kind in {"text", "input_text", "output_text", "refusal"}:
        text = part.get("text") or part.get("refusal") or ""
        return [{"type": "text", "text": text, **mark}] if str(text).strip() else []
    if kind in IMAGE_TYPES:
        named = part.get("image_url")
        url = named.get("url") if isinstance(named, Mapping) else named
        if isinstance(url, str):
            return [{"type": "image", "source": _source(url), **mark}]
    if kind == "file":
        data = (part.get("file") or {}).get("file_data")
        if isinstance(data, str) and _DATA_URL.match(data):
            return [{"type": "document", "source": _source(data), **mark}]
    what = f"a content part of type {kind!r}"
    remedy = "Give images as image_url and PDFs as file with file_data; leave other parts out"
    raise _reject(what, model, remedy)


def _source(url: str) -> dict[str, str]:
    found = _DATA_URL.match(url)
    if found is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": found[1].lower(), "data": url[found.end() :]}
