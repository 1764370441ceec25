"""Turns a raw row into a job, or says everything that is wrong with it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from producer.rows.body import BodyCheck
from producer.rows.limits import read_sla, sla_readers
from producer.rows.problems import BadRow, Kind, Problem, RawRow
from producer.rows.schema import (
    CHAT_URL,
    LIMIT_FIELDS,
    LONGEST_CUSTOM_ID,
    PLAIN_FIELDS,
    PLAIN_URL,
    REQUEST_FIELDS,
)
from routoo.domain.job import SLA
from routoo.store.jobs import JobInput

UNNUMBERED = -1
"""A job's number before it is known which rows of its chunk are good."""
_MOST_IGNORED_NAMES = 20
_NO_CUSTOM_ID = Problem(
    Kind.MISSING_FIELD, "the row has no custom_id", 'Add "custom_id", unique in the file'
)
_BAD_CUSTOM_ID = Problem(
    Kind.WRONG_TYPE, "custom_id is not a text of at least one character", "Quote it"
)
_LONG_CUSTOM_ID = Problem(
    Kind.CUSTOM_ID_TOO_LONG,
    f"custom_id has more than {LONGEST_CUSTOM_ID} characters",
    "Use a shorter key, such as a hash of it",
)
_NO_BODY = Problem(
    Kind.MISSING_FIELD,
    "the row has neither a prompt nor a request body",
    'Write {"prompt": ...} or an OpenAI Batch request with custom_id, method, url and body',
)
_PROMPT_TYPE = Problem(Kind.WRONG_TYPE, "prompt is not text", "Quote it")
_BODY_TYPE = Problem(Kind.WRONG_TYPE, "body is not an object", 'Write "body": {"messages": [...]}')
_TOO_DEEP = Problem(Kind.MALFORMED_LINE, "the body is nested deeper than 250 levels", "Flatten it")


class RowCheck:
    """Checks rows one by one; what spans rows, such as repeated ids, is checked elsewhere.

    Args:
        body_check: Checks the requests.
        defaults: Batch-wide limits of jobs; a row's own limit overrides each.
        now: The present instant, which deadlines are compared with.

    Attributes:
        ignored: Names of fields that are not used, for a note to the user; not all of many.
    """

    def __init__(self, body_check: BodyCheck, defaults: SLA, now: datetime) -> None:
        self._body_check, self._defaults = body_check, defaults
        self._readers = sla_readers(now, body_check.models)
        self.ignored: set[str] = set()

    def check(self, row: RawRow) -> JobInput | BadRow:
        """Return the row's job, not numbered yet, or the row with its problems."""
        fields = row.fields
        if type(fields) is not dict:
            return BadRow(row, (fields,))  # type: ignore[arg-type]  # then it is a Problem
        problems: list[Problem] = []
        is_request = "body" in fields or "method" in fields or "url" in fields
        known = REQUEST_FIELDS if is_request else PLAIN_FIELDS
        if not fields.keys() <= known and len(self.ignored) < _MOST_IGNORED_NAMES:
            self.ignored |= fields.keys() - known
        custom_id = _custom_id(row, is_request, problems)
        body = _request_body(fields, problems) if is_request else _plain_body(fields, problems)
        bounded = not LIMIT_FIELDS.isdisjoint(fields)
        sla = self._sla(fields, problems) if bounded else self._defaults
        if body is not None:
            size_bytes = len(row.raw) if type(row.raw) is bytes else 4 * len(fields["prompt"])
            self._body_check.check(body, size_bytes, problems)
        body_json = "" if problems or body is None else _dump(body, problems)
        if problems:
            return BadRow(row, tuple(problems))
        return JobInput(UNNUMBERED, custom_id, body_json, sla)

    def _sla(self, fields: Mapping[str, Any], problems: list[Problem]) -> SLA:
        sla, found = read_sla(fields, self._defaults, self._readers)
        problems.extend(found)
        return sla


def _custom_id(row: RawRow, is_request: bool, problems: list[Problem]) -> str:  # noqa: FBT001 - private
    fields = row.fields
    assert isinstance(fields, dict)  # noqa: S101 - for the type checker; the caller looked
    value = fields.get("custom_id")
    if value is None and not is_request:
        value = fields.get("item_id")
        value = f"row-{row.line}" if value is None else value
    if type(value) is str and value and len(value) <= LONGEST_CUSTOM_ID:
        return value
    if value is None:
        problems.append(_NO_CUSTOM_ID)
    else:
        problems.append(_LONG_CUSTOM_ID if value and type(value) is str else _BAD_CUSTOM_ID)
    return ""


def _request_body(fields: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any] | None:
    if fields.get("method", "POST") != "POST":
        remedy = "Write POST, or leave it out"
        what = "the method is not POST"
        problems.append(Problem(Kind.UNSUPPORTED_REQUEST, what, remedy, fields["method"]))
    body = fields.get("body")
    if type(body) is dict:
        url = CHAT_URL if "messages" in body or "prompt" not in body else PLAIN_URL
        if fields.get("url", url) != url:
            what = "the url is not the one that serves such a body"
            remedy = f"Write {url}, or leave it out"
            problems.append(Problem(Kind.UNSUPPORTED_REQUEST, what, remedy, fields["url"]))
        return body
    problems.append(_NO_BODY if body is None else _BODY_TYPE)
    return None


def _plain_body(fields: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any] | None:
    prompt = fields.get("prompt")
    if type(prompt) is not str:
        problems.append(_NO_BODY if prompt is None else _PROMPT_TYPE)
        return None
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if fields.get("model") is not None:
        body["model"] = fields["model"]
    limit = fields.get("max_tokens")
    if limit is not None:
        body["max_tokens"] = int(limit) if isinstance(limit, str) and limit.isdecimal() else limit
    return body


def _dump(body: Mapping[str, Any], problems: list[Problem]) -> str:
    try:
        return orjson.dumps(body).decode()
    except orjson.JSONEncodeError:
        problems.append(_TOO_DEEP)
        return ""
