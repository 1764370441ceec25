"""Turns raw rows into jobs, or says everything that is wrong with them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from mmap import mmap
from typing import Any

import numpy as np
import orjson
from jaxtyping import Int32, Int64

from producer.rows.anthropic_rows import chat_body
from producer.rows.bad_rows import BadRow, ProblemList
from producer.rows.body import BodyCheck
from producer.rows.formats import PLAIN_FIELDS, RawRow, id_text
from producer.rows.limits import LIMIT_FIELDS, read_sla, sla_readers
from producer.rows.problems import TOO_DEEP, LimitError, ProblemKind, RowProblem
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
_BODY_TYPE = RowProblem(
    ProblemKind.WRONG_TYPE, "body is not an object", 'Write "body": {"messages": [...]}'
)
_LARGEST_MERGED_RUN = 1 << 17
"""Longer runs are not merged any more: it bounds the memory that a merge takes for a moment."""

_Hashes = Int64[np.ndarray, " rows"]
_Lines = Int32[np.ndarray, " rows"]


class SeenIds:
    """The custom_ids of the rows so far, with the line where each was first seen."""

    def __init__(self) -> None:
        self._runs: list[tuple[_Hashes, _Lines]] = []

    def add(self, custom_ids: Sequence[str], lines: Sequence[int]) -> _Lines:
        """Remember ids and return which of them are repeats.

        Args:
            custom_ids: The ids of some rows, in input order.
            lines: Their line numbers, ascending.

        Returns:
            For each id the line where it was seen before, or 0 where it is new.
        """
        count = len(custom_ids)
        hashes = np.fromiter(map(hash, custom_ids), np.int64, count)
        order = np.argsort(hashes, kind="stable")
        hashes, sorted_lines = hashes[order], np.asarray(lines, np.int32)[order]
        earlier = self._look_up(hashes)
        _mark_repeats_within(hashes, sorted_lines, earlier)
        new = earlier == 0
        self._insert(hashes[new], sorted_lines[new])
        found = np.empty(count, np.int32)
        found[order] = earlier
        return found

    def _look_up(self, hashes: _Hashes) -> _Lines:
        earlier = np.zeros(len(hashes), np.int32)
        for run_hashes, run_lines in self._runs:
            at = np.searchsorted(run_hashes, hashes)
            at[at == len(run_hashes)] = 0
            hit = run_hashes[at] == hashes
            earlier[hit] = run_lines[at[hit]]
        return earlier

    def _insert(self, hashes: _Hashes, lines: _Lines) -> None:
        if not len(hashes):
            return
        run, runs = (hashes, lines), self._runs
        while runs and len(runs[-1][0]) <= min(2 * len(run[0]), _LARGEST_MERGED_RUN):
            run = _merged(runs.pop(), run)
        runs.append(run)


def _merged(older: tuple[_Hashes, _Lines], newer: tuple[_Hashes, _Lines]) -> tuple[_Hashes, _Lines]:
    count = len(older[0]) + len(newer[0])
    at = np.searchsorted(older[0], newer[0]) + np.arange(len(newer[0]))
    is_older = np.ones(count, np.bool_)
    is_older[at] = False
    merged = _empty(count, np.int64), _empty(count, np.int32)
    for target, old, new in zip(merged, older, newer, strict=True):
        target[is_older] = old
        target[at] = new
    return merged


def _empty(count: int, kind: type[np.integer]) -> np.ndarray:
    """Return an array in memory pages of its own.

    The allocator keeps the memory of a large array for others of its size; pages of its own go back
    to the system with the array.
    """
    return np.frombuffer(mmap(-1, count * np.dtype(kind).itemsize), kind)


def _mark_repeats_within(hashes: _Hashes, lines: _Lines, earlier: _Lines) -> None:
    """Point repeats inside one sorted chunk at the first of their kind, in place."""
    repeat = np.concatenate([[False], hashes[1:] == hashes[:-1]])
    if not repeat.any():
        return
    first = np.maximum.accumulate(np.where(repeat, 0, np.arange(len(hashes))))
    again = repeat & (earlier == 0)
    earlier[again] = lines[first[again]]


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
        if not isinstance(fields, dict):
            return BadRow(row, (fields,))
        problems: list[RowProblem] = []
        requested = is_request(fields)
        known = _known_fields(fields, requested=requested)
        if not fields.keys() <= known and len(self.ignored) < _MOST_IGNORED_NAMES:
            self.ignored |= fields.keys() - known
        custom_id = _custom_id(fields, None if requested else default_id(row), problems)
        body = self._body(fields, problems) if requested else _plain_body(fields, problems)
        limited = not LIMIT_FIELDS.isdisjoint(fields)
        sla = self._sla(fields, problems) if limited else self._defaults
        if body is not None:
            is_whole = requested and type(row.raw) is bytes
            most_bytes = len(row.raw) if is_whole else 4 * _length(body)
            self._body_check.check(body, most_bytes, problems)
        body_json = "" if problems or body is None else _dump(body, problems)
        if problems:
            return BadRow(row, tuple(problems))
        return JobInput(UNNUMBERED, custom_id, body_json, sla)

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
        checked = [self.row_check.check(row) for row in chunk]
        bad = [one for one in checked if isinstance(one, BadRow)]
        good = [one for one in checked if isinstance(one, JobInput)]
        pairs = zip(chunk, checked, strict=True)
        rows = [row for row, one in pairs if isinstance(one, JobInput)]
        earlier = self._seen.add([job.custom_id for job in good], [row.line for row in rows])
        if earlier.any():
            found = list(zip(rows, good, earlier.tolist(), strict=True))
            bad += [_repeat(row, job, line) for row, job, line in found if line]
            good = [job for _, job, line in found if not line]
        self._report(bad)
        return good

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


def _length(body: Mapping[str, Any]) -> int:
    """Return the characters of a plain row's messages."""
    return sum([len(message["content"]) for message in body["messages"]])


def _dump(body: Mapping[str, Any], problems: list[RowProblem]) -> str:
    try:
        return orjson.dumps(body).decode()
    except orjson.JSONEncodeError:
        problems.append(TOO_DEEP)
        return ""
