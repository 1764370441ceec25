"""Turns raw rows into jobs, or says everything that is wrong with them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self, cast

import orjson

from producer.rows.anthropic_rows import chat_body
from producer.rows.bad_rows import BadRow, ProblemList
from producer.rows.body import BodyCheck
from producer.rows.formats import PLAIN_FIELDS, RawRow, id_text
from producer.rows.limits import LIMIT_FIELDS, read_sla, sla_readers
from producer.rows.problems import TOO_DEEP, LimitError, ProblemKind, RowProblem
from producer.rows.seen_ids import SeenIds
from routoo.domain.job import SLA
from routoo.store.jobs import JobInput

REQUEST_FIELDS = LIMIT_FIELDS | {"custom_id", "method", "url", "body"}
"""Fields of an OpenAI Batch request, and the limits on top."""
MESSAGES_FIELDS = LIMIT_FIELDS | {"custom_id", "params"}
"""Fields of a row of Anthropic's Message Batches, and the limits on top."""
_REQUEST_MARKS = frozenset({"body", "method", "url"})
CHAT_URLS = ("/v1/chat/completions", "/chat/completions")
PLAIN_URLS = ("/v1/completions", "/completions")
"""The endpoints that requests may name, as OpenAI and as Azure write them: messages go to the
first two, a prompt to the others."""
_OTHER_ENDPOINTS = {
    "responses": 'Write the input as "messages" with the url /v1/chat/completions',
    "embeddings": "Send such rows to the provider itself: an embedding has no quality to choose by",
    "moderations": "Send such rows to the provider itself: only answers in words are routed",
    "generations": "Send such rows to the provider itself: only answers in words are routed",
    "messages": 'Write {"custom_id", "params"} as Anthropic\'s Message Batches have it',
}
"""What to do with a row for an endpoint that isn't routed, by the last part of its path."""
LONGEST_CUSTOM_ID = 512
"""Characters: the database's index takes no more than 2,700 bytes."""
_TEXT_FIELDS = frozenset({"custom_id", "method", "url"})
"""Fields of a request that are checked to be texts."""
_BODY_NAME = '"body":'
_MOST_SHAPES, _MOST_CHARACTERS = 64, 1000
"""Shapes that are kept in memory, and the names of one: rows with names of their own each must not
fill it."""
UNNUMBERED = -1
"""A job's number before it is known which rows of its chunk are good."""
_MOST_IGNORED_NAMES = 20
_WHOLE_NUMBER = re.compile(r"\d{1,10}(?:\.0*)?")
"""As it stands in a table; pandas writes 256.0 where other cells of the column are empty."""
_NO_CUSTOM_ID = RowProblem(
    ProblemKind.MISSING_FIELD, "the row has no custom_id", 'Add "custom_id", unique in the file'
)
_BAD_CUSTOM_ID = RowProblem(
    ProblemKind.WRONG_TYPE, "custom_id is not a text of at least one character", "Quote it"
)
_LONG_CUSTOM_ID = RowProblem(
    ProblemKind.CUSTOM_ID_TOO_LONG,
    f"custom_id has more than {LONGEST_CUSTOM_ID} characters",
    "Use a shorter key, such as a hash of it",
)
_NO_BODY = RowProblem(
    ProblemKind.MISSING_FIELD,
    "the row has neither a prompt nor a request body",
    'Write {"prompt": ...}, an OpenAI Batch request (custom_id, method, url, body) or one of '
    "Anthropic's (custom_id, params)",
)
_PROMPT_TYPE = RowProblem(ProblemKind.WRONG_TYPE, "prompt is not text", "Quote it")
_SYSTEM_TYPE = RowProblem(ProblemKind.WRONG_TYPE, "system is not text", "Quote it")
_NO_JSON = RowProblem(
    ProblemKind.WRONG_TYPE, "the body holds a value that JSON has no form for", "Write it as text"
)
_BODY_TYPE = RowProblem(
    ProblemKind.WRONG_TYPE, "body is not an object", 'Write "body": {"messages": [...]}'
)


class _Shape(NamedTuple):
    """What the names of a row's fields say; most rows of an input have the same."""

    is_request: bool
    """It is a request of OpenAI's or Anthropic's form, not a plain row."""
    is_limited: bool
    """It may set limits of its own."""
    may_be_usual: bool
    """It is a request with an id that ends with its body and has texts alone beside it."""
    ignored: frozenset[str]
    """Names that mean nothing."""

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        fields = dict.fromkeys(names)
        requested = is_request(fields)
        return cls(
            requested,
            not LIMIT_FIELDS.isdisjoint(fields),
            names[-1:] == ("body",) and {"custom_id"} <= set(names[:-1]) <= _TEXT_FIELDS,
            frozenset(names) - _known_fields(fields, requested=requested),
        )


_known_shape = lru_cache(_MOST_SHAPES)(_Shape.of)


def _shape(names: tuple[str, ...]) -> _Shape:
    is_short = sum(map(len, names)) <= _MOST_CHARACTERS
    return _known_shape(names) if is_short else _Shape.of(names)


class RowCheck:
    """Checks rows one by one; `InputCheck` checks what spans rows, such as repeated ids.

    Args:
        body_check: Checks the requests.
        defaults: Batch-wide limits of jobs; a row's own limit overrides each.
        now: The present instant, which deadlines are compared with.

    Attributes:
        ignored: Names of fields that are not used, for a note to the user; not all of many.
    """

    def __init__(self, body_check: BodyCheck, defaults: SLA, now: datetime) -> None:
        self._body_check, self._defaults = body_check, defaults
        self._readers = sla_readers(now, body_check.models, defaults.validators)
        self.ignored: set[str] = set()

    def check(self, row: RawRow) -> JobInput | BadRow:
        """Return the row's job, not numbered yet, or the row with its problems."""
        fields = row.fields
        if type(fields) is not dict:
            return BadRow(row, (cast("RowProblem", fields),))
        shape = _shape(tuple(fields))
        problems: list[RowProblem] = []
        if shape.ignored and len(self.ignored) < _MOST_IGNORED_NAMES:
            self.ignored |= shape.ignored
        custom_id = _custom_id(fields, None if shape.is_request else default_id(row), problems)
        body = self._body(fields, problems) if shape.is_request else _plain_body(fields, problems)
        sla = self._sla(fields, problems) if shape.is_limited else self._defaults
        most_bytes = None if body is None else _most_bytes(row, body, problems, shape)
        if body is not None and most_bytes is not None:
            self._body_check.check(body, most_bytes, problems)
        body_json = "" if problems or body is None else _dump(body, problems)
        if problems:
            return BadRow(row, tuple(problems))
        return JobInput(UNNUMBERED, custom_id, body_json, sla)

    def usual_jobs(self, rows: Sequence[RawRow]) -> list[JobInput] | None:
        """Return the jobs of rows that are all such as most are, None where one may not be.

        `check` returns the same jobs more slowly: here each question is put to all rows at once.
        """
        texts = [row.compact for row in rows if row.compact is not None]
        if not texts or len(texts) < len(rows):
            return None
        fields = [cast("dict[str, Any]", row.fields) for row in rows]
        if not all(_shape(names).may_be_usual for names in set(map(tuple, fields))):
            return None
        if not _are_usual_heads(fields):
            return None
        largest_bytes = max([len(row.raw) for row in rows])
        if not self._body_check.are_usual([one["body"] for one in fields], largest_bytes):
            return None
        # What stands before the body are texts, in which a quotation mark has a backslash.
        bodies = [text[text.index(_BODY_NAME) + len(_BODY_NAME) : -1] for text in texts]
        return [
            JobInput(UNNUMBERED, one["custom_id"], body, self._defaults)
            for one, body in zip(fields, bodies, strict=True)
        ]

    def _body(self, fields: Mapping[str, Any], problems: list[RowProblem]) -> dict[str, Any] | None:
        """Return the body of a request, of OpenAI's form or of Anthropic's."""
        if not _is_anthropic(fields):
            return _request_body(fields, problems)
        params = fields["params"]
        named = params.get("model") if isinstance(params, dict) else None
        try:
            return chat_body(params, native=self._body_check.is_native(named))
        except LimitError as error:
            problems.append(error.problem)
            return None

    def _sla(self, fields: Mapping[str, Any], problems: list[RowProblem]) -> SLA:
        sla, found = read_sla(fields, self._defaults, self._readers)
        problems.extend(found)
        return sla


@dataclass(slots=True)
class InputCheck:
    """Checks the rows of one input, chunk by chunk, and counts what it found so far."""

    row_check: RowCheck
    problems: ProblemList
    on_bad_row: Callable[[BadRow], None] | None = None
    """Called for each bad row, in input order."""
    row_count: int = 0
    """Rows read so far, bad ones included."""
    job_count: int = 0
    """Good rows among them."""
    _seen: SeenIds = field(default_factory=SeenIds)

    def jobs(self, chunks: Iterable[Sequence[RawRow]]) -> Iterator[list[JobInput]]:
        """Yield the jobs of each chunk's good rows, numbered in input order."""
        for chunk in chunks:
            self.row_count += len(chunk)
            jobs = self._take(chunk)
            for number, job in enumerate(jobs, self.job_count):
                job.job_no = number
            self.job_count += len(jobs)
            yield jobs

    def _take(self, chunk: Sequence[RawRow]) -> list[JobInput]:
        rows, good, bad = self._checked(chunk)
        earlier = self._seen.add([job.custom_id for job in good], [row.line for row in rows])
        if earlier.any():
            found = list(zip(rows, good, earlier.tolist(), strict=True))
            bad += [_repeat(row, job, line) for row, job, line in found if line]
            good = [job for _, job, line in found if not line]
        self._report(bad)
        return good

    def _checked(
        self, chunk: Sequence[RawRow]
    ) -> tuple[Sequence[RawRow], list[JobInput], list[BadRow]]:
        """Return the good rows, their jobs, and the bad rows."""
        usual = self.row_check.usual_jobs(chunk)
        if usual is not None:
            return chunk, usual, []
        check = self.row_check.check
        checked = [check(row) for row in chunk]
        bad = [one for one in checked if isinstance(one, BadRow)]
        good = [one for one in checked if isinstance(one, JobInput)]
        pairs = zip(chunk, checked, strict=True)
        return [row for row, one in pairs if isinstance(one, JobInput)], good, bad

    def _report(self, bad: list[BadRow]) -> None:
        for one in sorted(bad, key=lambda one: one.row.line):
            self.problems.add(one)
            if self.on_bad_row is not None:
                self.on_bad_row(one)


def _repeat(row: RawRow, job: JobInput, earlier_line: int) -> BadRow:
    problem = RowProblem(
        ProblemKind.DUPLICATE_CUSTOM_ID,
        f"custom_id repeats the one of line {earlier_line}",
        "Give every row its own",
        job.custom_id,
    )
    return BadRow(row, (problem,))


def _are_usual_heads(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the ids, methods and urls of some requests are surely right."""
    ids = [row["custom_id"] for row in rows]
    if set(map(type, ids)) != {str} or not all(ids) or max(map(len, ids)) > LONGEST_CUSTOM_ID:
        return False
    methods = [row.get("method", "POST") for row in rows]
    urls = [row.get("url", CHAT_URLS[0]) for row in rows]
    return methods.count("POST") == sum(map(urls.count, CHAT_URLS)) == len(rows)


def _custom_id(fields: Mapping[str, Any], default: str | None, problems: list[RowProblem]) -> str:
    """Return a row's custom_id; a plain row, which has a default, may name it `item_id`."""
    value = fields.get("custom_id")
    if value is None and default is not None:
        value = fields.get("item_id")
        value = default if value is None else value
    if type(value) is str and value and len(value) <= LONGEST_CUSTOM_ID:
        return value
    if value is None:
        problems.append(_NO_CUSTOM_ID)
    else:
        problems.append(_LONG_CUSTOM_ID if value and type(value) is str else _BAD_CUSTOM_ID)
    return ""


def _known_fields(fields: Mapping[str, Any], *, requested: bool) -> frozenset[str]:
    if not requested:
        return PLAIN_FIELDS
    return MESSAGES_FIELDS if _is_anthropic(fields) else REQUEST_FIELDS


def custom_id_of(row: RawRow, column: str | None = None) -> str | None:
    """Return the custom_id that a row's job has; None where it can't be a job.

    Args:
        row: A row as it was read.
        column: The column that holds the custom_ids, where it is not called so.
    """
    if not isinstance(row.fields, dict):
        return None
    if column is not None:
        value = row.fields.get(column)
        return None if value is None else id_text(value)
    default = None if is_request(row.fields) else default_id(row)
    return _custom_id(row.fields, default, []) or None


def is_request(fields: Mapping[str, Any]) -> bool:
    """Return whether a row is a request, not a plain row."""
    return not fields.keys().isdisjoint(_REQUEST_MARKS) or _is_anthropic(fields)


def _is_anthropic(fields: Mapping[str, Any]) -> bool:
    return "params" in fields and "prompt" not in fields and "body" not in fields


def default_id(row: RawRow) -> str:
    """Return the custom_id of a plain row that names none."""
    return f"row-{row.position or row.line}"


def _request_body(fields: Mapping[str, Any], problems: list[RowProblem]) -> dict[str, Any] | None:
    if fields.get("method", "POST") != "POST":
        problems.append(
            _unsupported("the method is not POST", "Write POST, or leave it out", fields["method"])
        )
    body = fields.get("body")
    if type(body) is dict:
        problem = _check_url(fields.get("url"), body)
        if problem is None:
            return body
        problems.append(problem)
        return None
    problems.append(_NO_BODY if body is None else _BODY_TYPE)
    return None


def _check_url(url: object, body: Mapping[str, Any]) -> RowProblem | None:
    served = CHAT_URLS if "messages" in body or "prompt" not in body else PLAIN_URLS
    if url is None or (isinstance(url, str) and url in served):
        return None
    other = _OTHER_ENDPOINTS.get(str(url).rstrip("/").rpartition("/")[2])
    if other is not None:
        return _unsupported("requests to this endpoint are not routed", other, url)
    what = "the url is not the one that serves such a body"
    return _unsupported(what, f"Write {served[0]}, or leave it out", url)


def _unsupported(what: str, remedy: str, value: object) -> RowProblem:
    return RowProblem(ProblemKind.UNSUPPORTED_REQUEST, what, remedy, value)


def _plain_body(fields: Mapping[str, Any], problems: list[RowProblem]) -> dict[str, Any] | None:
    prompt = fields.get("prompt")
    if type(prompt) is not str:
        problems.append(_NO_BODY if prompt is None else _PROMPT_TYPE)
        return None
    messages = [{"role": "user", "content": prompt}]
    system = fields.get("system")
    if type(system) is str:
        messages.insert(0, {"role": "system", "content": system})
    elif system is not None:
        problems.append(_SYSTEM_TYPE)
    body: dict[str, Any] = {"messages": messages}
    if fields.get("model") is not None:
        body["model"] = fields["model"]
    limit = fields.get("max_tokens")
    if limit is not None:
        is_whole = isinstance(limit, str) and _WHOLE_NUMBER.fullmatch(limit) is not None
        body["max_tokens"] = int(limit.partition(".")[0]) if is_whole else limit
    return body


def _most_bytes(
    row: RawRow, body: Mapping[str, Any], problems: list[RowProblem], shape: _Shape
) -> int | None:
    """Return an upper bound of the UTF-8 bytes of a body's text; None where it is no JSON."""
    if not shape.is_request:
        return 4 * sum([len(message["content"]) for message in body["messages"]])
    if type(row.raw) is bytes:
        return len(row.raw)
    return 4 * len(_dump(body, problems)) or None  # a table's cell may hold anything


def _dump(body: Mapping[str, Any], problems: list[RowProblem]) -> str:
    try:
        # In a list: a body is put into other JSON later, which must not be too deep by that.
        return orjson.dumps([body])[1:-1].decode()
    except orjson.JSONEncodeError as error:
        problems.append(TOO_DEEP if "ecursion" in str(error) else _NO_JSON)
        return ""
