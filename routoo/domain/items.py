"""Defines items (questions with references), and reads them from a row of a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from routoo.domain.prompt import prompt_text, unicode_text
from routoo.errors import InputError


@dataclass(frozen=True, slots=True)
class Item:
    """One question of an outcome table."""

    item_id: str
    """Unique over the tables that are read together."""
    prompt: str
    """What a router sees."""
    dataset: str | None = None
    subject: str | None = None
    """Domain of the question, where known."""
    answer: str | None = None
    """Reference answer, where there is one."""
    grader: str | None = None
    """Name of the grader that fits the reference, where known."""
    grader_options: str | None = None
    """The grader's options, a JSON object."""
    max_tokens: int | None = None
    """Most tokens that an answer needs, where known."""


def item_of_line(line: bytes, number: int, where: str) -> Item:
    """Return the item that a line of a JSONL file describes.

    Args:
        line: JSON; an escaped lone surrogate becomes U+FFFD.
        number: Its position, which is its id where it has none.
        where: File and line, for messages.

    Raises:
        InputError: It is no JSON object, or a field is missing or unusable.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            row = json.loads(line)  # orjson refuses lone surrogates
        except ValueError:
            raise InputError("the line is not JSON", where=where, value=str(error)) from error
    if not isinstance(row, Mapping):
        raise InputError("the line is not a JSON object", where=where)
    return item_of(row, number, where)


def item_of(row: Mapping[str, Any], number: int, where: str) -> Item:
    """Return the item that a row of a file describes.

    Args:
        row: Its fields.
        number: Its position, which is its id where it has none.
        where: File and line, for messages.

    Raises:
        InputError: A field is missing or unusable.
    """
    prompt = row.get("prompt")
    if prompt is None and isinstance(row.get("body"), Mapping):
        prompt = _of_request(row["body"], where)
    if not isinstance(prompt, str):
        raise InputError("the row has no prompt", where=where, remedy="Give prompt or body")
    return Item(_item_id(row, number, where), unicode_text(prompt), **_optional(row, where))


def _of_request(body: Mapping[str, Any], where: str) -> str | None:
    messages = body.get("messages")
    if messages is None:
        prompt = body.get("prompt")
        return prompt if isinstance(prompt, str) else None
    said = isinstance(messages, list) and all(
        isinstance(message, Mapping) and isinstance(message.get("content"), str | list)
        for message in messages
    )
    if not said or not messages:
        raise InputError(
            "the request's messages are no list of messages with content",
            where=where,
            remedy='Write "messages": [{"role": "user", "content": ...}]',
        )
    return prompt_text(body)


def _item_id(row: Mapping[str, Any], number: int, where: str) -> str:
    given = row.get("item_id")
    if given is None:
        given = row.get("custom_id")
    if given is None:
        return str(number)
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise InputError("the item_id is neither text nor a whole number", where=where, value=given)
    return unicode_text(str(given))


def _optional(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    limit = row.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError("max_tokens is no whole number above 0", where=where, value=limit)
    options = row.get("grader_options")
    found = {name: row.get(name) for name in ("dataset", "subject", "grader")}
    found["answer"] = row.get("answer", row.get("reference"))
    written = {name: None if value is None else str(value) for name, value in found.items()}
    shown = orjson.dumps(options).decode() if isinstance(options, Mapping) else options
    return {**written, "max_tokens": limit, "grader_options": shown}
