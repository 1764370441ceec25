"""Takes from requests what the selection needs to know of them, and keeps it beside the batch.

Reading a million requests takes longer than choosing models for them. So the scorer, which reads
them anyway, leaves their facts in the store as packed arrays, and selections read these. What was
written in another format, or is damaged, counts as not written: the requests are read again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import numpy as np
import orjson
from jaxtyping import Bool, Float64, Int, Shaped

from routoo.domain.job import SLA, Job
from routoo.domain.prompt import (
    bound_text_tokens,
    choice_count,
    estimate_text_tokens,
    has_tools,
    is_repeatable,
    marks_cache,
    part_counts,
    prompt_text,
    requested_completion_tokens,
    required_capabilities,
)
from routoo.judge.agreement import is_open
from routoo.store.request_facts import PackedFacts

_LIMITS: Mapping[str, Any] = {
    "min_quality": float,
    "max_cost_usd": Decimal,
    "max_latency_s": float,
    "deadline": datetime.fromisoformat,
    "allowed_models": tuple,
    "denied_models": tuple,
}
"""Limits of an SLA that a model is chosen by, with what reads each from JSON."""


@dataclass(frozen=True, slots=True)
class RequestKind:
    """What many requests of a batch have in common: limits, and what a model must be able to do."""

    sla: SLA = SLA()  # noqa: RUF009 - frozen
    """The limits that a model is chosen by; how answers are checked is left out."""
    model: str | None = None
    """The model that the request names."""
    parts: tuple[tuple[str, int], ...] = ()
    """How many content parts beside text it has, of each kind in alphabetical order."""
    capabilities: tuple[str, ...] = ()
    """What it needs, in alphabetical order."""
    has_tools: bool = False
    """It declares tools or functions, be it none."""
    marks_cache: bool = False
    """It may ask for text to be kept in the provider's cache."""

    @classmethod
    def of(cls, body: Mapping[str, Any], sla: SLA) -> Self:
        """Return the kind of a request with its job's limits."""
        return cls(_chosen_by(sla), *_traits(body, orjson.dumps(body)))

    @property
    def part_counts(self) -> Mapping[str, int]:
        """How many content parts beside text it has, by kind."""
        return dict(self.parts)

    def as_json(self) -> dict[str, Any]:
        """Return what it asks for, as JSON has it; what it does not is left out."""
        limits = ((name, getattr(self.sla, name)) for name in _LIMITS)
        traits = ((name, getattr(self, name)) for name in self.__slots__[1:])
        return {
            **{name: _plain(value) for name, value in limits if value is not None},
            **{name: value for name, value in traits if value},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the kind that `as_json` described."""
        limits = {name: read(value[name]) for name, read in _LIMITS.items() if name in value}
        return cls(
            SLA(**limits),
            value.get("model"),
            tuple((str(kind), int(count)) for kind, count in value.get("parts", ())),
            tuple(map(str, value.get("capabilities", ()))),
            bool(value.get("has_tools")),
            bool(value.get("marks_cache")),
        )


def _plain(limit: object) -> object:
    """Return a limit as JSON has it, exactly."""
    if isinstance(limit, datetime):
        return limit.isoformat()
    return str(limit) if isinstance(limit, Decimal) else limit


def _chosen_by(sla: SLA) -> SLA:
    return replace(sla, on_unavailable=None, validators=None)


def _traits(body: Mapping[str, Any], body_json: bytes) -> tuple[Any, ...]:
    """Return the fields of a kind that follow from the request, in order."""
    named = body.get("model")
    if named is not None and not isinstance(named, str):
        named = orjson.dumps(named).decode()  # it names no candidate; the message shows it
    parts, needed = part_counts(body), required_capabilities(body)
    return (
        named,
        tuple(sorted(parts.items())) if parts else (),
        tuple(sorted(map(str, needed))) if needed else (),
        has_tools(body),
        marks_cache(body_json),
    )


class _Kinds:
    """Numbers the kinds of requests as they come."""

    def __init__(self) -> None:
        self.found: dict[tuple[Any, ...], int] = {}
        self._slas: dict[SLA, int] = {}
        self._last: tuple[SLA, int] | None = None

    def number(self, job: Job, body_json: bytes) -> int:
        """Return the number of a job's kind."""
        if self._last is None or self._last[0] is not job.sla:  # most jobs share one record
            sla = _chosen_by(job.sla)
            self._last = job.sla, self._slas.setdefault(sla, len(self._slas))
        key = self._last[1], *_traits(job.body, body_json)
        return self.found.setdefault(key, len(self.found))

    def all(self) -> tuple[RequestKind, ...]:
        """Return the kinds in the order of their numbers."""
        slas = list(self._slas)
        return tuple(RequestKind(slas[sla], *traits) for sla, *traits in self.found)


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a model is chosen by, of some requests: all but what was predicted of them."""

    text_tokens: Float64[np.ndarray, " jobs"]
    """Expected prompt tokens of the text, template included."""
    bound_tokens: Float64[np.ndarray, " jobs"]
    """Upper bound of them, for any vocabulary."""
    limit_tokens: Float64[np.ndarray, " jobs"]
    """The request's own limit of completion tokens; NaN where it names none."""
    choices: Float64[np.ndarray, " jobs"]
    """Number of answers that it asks for."""
    kind: Int[np.ndarray, " jobs"]
    """Place in `kinds`."""
    kinds: tuple[RequestKind, ...]
    """All kinds that there are among them, and perhaps others."""
    open_prompt: Bool[np.ndarray, " jobs"] | None = None
    """Whether the prompt offers no options to choose from; None where nobody looked."""

    @classmethod
    def of(cls, some: Sequence[Job], *, reads_options: bool = False) -> Self:
        """Return the facts of some jobs' requests.

        Args:
            some: The jobs, in the order of the arrays.
            reads_options: Whether to look for options in their prompts.
        """
        kinds, rows = _Kinds(), np.empty((len(some), 5))
        for row, job in enumerate(some):
            body_json, limit = orjson.dumps(job.body), requested_completion_tokens(job.body)
            rows[row] = (
                estimate_text_tokens(job.body),
                bound_text_tokens(job.body, len(body_json)),
                np.nan if limit is None else limit,
                choice_count(job.body),
                kinds.number(job, body_json),
            )
        arrays: dict[str, Any] = dict(zip(_ARRAYS, rows.T.copy(), strict=True))
        opened = [is_open(prompt_text(job.body)) for job in some] if reads_options else None
        return cls(
            **{**arrays, "kind": arrays["kind"].astype(np.int32)},
            kinds=kinds.all(),
            open_prompt=None if opened is None else np.array(opened, np.bool_),
        )

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.kind)

    def rows(self, some: Int[np.ndarray, " some"]) -> "RequestFacts":
        """Return the facts of some of the requests, in the order given."""
        return replace(
            self,
            **{name: getattr(self, name)[some] for name in _ARRAYS},
            open_prompt=None if self.open_prompt is None else self.open_prompt[some],
        )

    @classmethod
    def joined(cls, pieces: Sequence["RequestFacts"]) -> "RequestFacts":
        """Return the facts of several slices as one."""
        if len(pieces) == 1:
            return pieces[0]
        numbers: dict[RequestKind, int] = {}
        kind = [
            np.array([numbers.setdefault(one, len(numbers)) for one in piece.kinds])[piece.kind]
            for piece in pieces
        ]
        opened = [piece.open_prompt for piece in pieces if piece.open_prompt is not None]
        arrays = {
            name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS
        }
        return cls(
            **{**arrays, "kind": np.concatenate(kind).astype(np.int32)},
            kinds=tuple(numbers),
            open_prompt=np.concatenate(opened) if len(opened) == len(pieces) else None,
        )


_ARRAYS = ("text_tokens", "bound_tokens", "limit_tokens", "choices", "kind")


_HALVES = np.dtype([("high", "<u8"), ("low", "<u8")])
"""Two halves of a digest of 128 bits: a billion different requests have no two alike by chance."""


@dataclass(frozen=True, slots=True)
class RequestDigests:
    """Digests of requests with their jobs' limits: those of the same are the same."""

    values: Shaped[np.ndarray, " jobs"]
    is_sample: Bool[np.ndarray, " jobs"]
    """Its answer is random, or it asks for several: another answer is another sample."""

    @classmethod
    def empty(cls, jobs: int) -> Self:
        """Return those of jobs to be filled in."""
        return cls(np.zeros(jobs, _HALVES), np.zeros(jobs, np.bool_))

    @classmethod
    def of(cls, some: Sequence[Job]) -> Self:
        """Return the digests of some jobs."""
        values = np.frombuffer(b"".join(map(_digest, some)), _HALVES)
        return cls(values, np.array([_is_sample(job.body) for job in some], np.bool_))

    def fill(self, rows: slice, found: "RequestDigests") -> None:
        """Set those of the jobs in some rows."""
        self.values[rows], self.is_sample[rows] = found.values, found.is_sample

    def rows(self, some: Int[np.ndarray, " some"]) -> Self:
        """Return those of some jobs, in the order given."""
        return type(self)(self.values[some], self.is_sample[some])

    @classmethod
    def joined(cls, pieces: Sequence["RequestDigests"]) -> Self:
        """Return the digests of several slices as one."""
        values = np.concatenate([piece.values for piece in pieces])
        return cls(values, np.concatenate([piece.is_sample for piece in pieces]))


def _digest(job: Job) -> bytes:
    # The limits count: an answer that is in time for one job may be late for another.
    sla = job.sla
    if sla.deadline is not None:  # each worker reads it in the time zone of its connection
        sla = replace(sla, deadline=sla.deadline.astimezone(UTC))
    asked = orjson.dumps(job.body, option=orjson.OPT_SORT_KEYS) + repr(sla).encode()
    return hashlib.blake2b(asked, digest_size=_HALVES.itemsize).digest()


def _is_sample(body: Mapping[str, Any]) -> bool:
    return not is_repeatable(body) or choice_count(body) > 1


FORMAT = 1
"""Of packed facts. Whoever changes what is packed, or what a field means, gives it a new number."""
_PACKED = np.dtype(
    [
        ("text_tokens", "<u4"),
        ("bound_tokens", "<u4"),
        ("limit_tokens", "<f8"),
        ("choices", "<u4"),
        ("kind", "<u4"),
        ("flags", "u1"),
    ]
)
_SAMPLE, _OPEN, _LOOKED = 1, 2, 4
"""Flags: another answer is another sample; the prompt offers no options; somebody looked."""


def pack(first_job: int, facts: RequestFacts, digests: RequestDigests) -> PackedFacts | None:
    """Return the facts of consecutive jobs as they are stored; None where they don't fit.

    Args:
        first_job: Number of the first job.
        facts: Of the jobs, in order.
        digests: Of the same jobs.
    """
    packed = np.zeros(len(facts), _PACKED)
    for name in _ARRAYS:
        packed[name] = getattr(facts, name)
    packed["flags"] = digests.is_sample * _SAMPLE
    if facts.open_prompt is not None:
        packed["flags"] |= (facts.open_prompt * _OPEN + _LOOKED).astype(np.uint8)
    fits = all(
        np.array_equal(packed[name], getattr(facts, name), equal_nan=True) for name in _ARRAYS
    )
    if not fits:
        return None
    kinds = orjson.dumps([kind.as_json() for kind in facts.kinds]).decode()
    columns = b"".join(np.ascontiguousarray(packed[name]).tobytes() for name in _PACKED.names or ())
    return PackedFacts(first_job, len(facts), FORMAT, columns, kinds, digests.values.tobytes())


def pack_jobs(some: Sequence[Job], *, reads_options: bool) -> PackedFacts | None:
    """Return the facts of consecutive jobs' requests as they are stored; None where there are none.

    Args:
        some: The jobs, in order.
        reads_options: Whether to look for options in their prompts.
    """
    if not some:
        return None
    facts = RequestFacts.of(some, reads_options=reads_options)
    return pack(some[0].job_no, facts, RequestDigests.of(some))


def unpack(stored: PackedFacts) -> tuple[RequestFacts, RequestDigests | None] | None:
    """Return what was packed, digests where they were read.

    None where it is of another format, or damaged.
    """
    found, kinds = _unpacked_arrays(stored), _unpacked_kinds(stored.kinds)
    if found is None or kinds is None or int(found["kind"].max(initial=0)) >= len(kinds):
        return None
    flags = found.pop("flags")
    facts = RequestFacts(
        **{name: values.astype(np.float64) for name, values in found.items() if name != "kind"},
        kind=found["kind"].astype(np.int32),
        kinds=kinds,
        open_prompt=(flags & _OPEN) > 0 if ((flags & _LOOKED) > 0).all() else None,
    )
    if stored.digests is None:
        return facts, None
    return facts, RequestDigests(np.frombuffer(stored.digests, _HALVES), (flags & _SAMPLE) > 0)


def _unpacked_arrays(stored: PackedFacts) -> dict[str, Any] | None:
    """Return the arrays by name; None where their lengths are not those of this format."""
    count, found, offset = stored.job_count, dict[str, Any](), 0
    if stored.format != FORMAT or len(stored.columns) != count * _PACKED.itemsize:
        return None
    if stored.digests is not None and len(stored.digests) != count * _HALVES.itemsize:
        return None
    for name in _PACKED.names or ():
        found[name] = np.frombuffer(stored.columns, _PACKED[name], count, offset)
        offset += found[name].nbytes
    return found


def _unpacked_kinds(text: str) -> tuple[RequestKind, ...] | None:
    try:
        return tuple(map(RequestKind.from_json, orjson.loads(text)))
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        return None
