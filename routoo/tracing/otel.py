"""Makes spans with OpenTelemetry: ids that follow from a batch's, and a share of the calls."""

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TypedDict
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

CALL = "call"
"""Name of the spans of calls, of which a share is kept."""
_SCOPE = "routoo"
_EXPORT_TIMEOUT_S = 5.0
"""Longest wait for the collector; a program that ends waits for it once."""
_NS = 1_000_000_000
_started: list[TracerProvider] = []
"""The provider that `started` made, if any: ambient, as logging is."""


class Parent(TypedDict):
    """What a span of a batch is put under."""

    context: Context | None
    links: Sequence[Link]


@contextmanager
def started(service: str, call_share: float, processor: SpanProcessor | None) -> Iterator[None]:
    """Trace while the block runs; `routoo.tracing.tracing` says how."""
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named), id_generator=BatchIds())
    provider.sampler = CallSampler(provider.sampler, call_share)
    exporter = processor or BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_TIMEOUT_S))
    provider.add_span_processor(exporter)
    _started.append(provider)
    try:
        yield
    finally:
        _started.remove(provider)
        provider.shutdown()


def tracer() -> trace.Tracer:
    """Return the tracer of the provider that was started here, else of the program's own."""
    return _started[-1].get_tracer(_SCOPE) if _started else trace.get_tracer(_SCOPE)


def batch_trace_ids(batch_id: UUID) -> tuple[int, int]:
    """Return the ids of a batch's trace and of the span that holds all others.

    Hashed, since samplers decide by the lower half of a trace's id, which in a UUID isn't random.
    """
    digest = hashlib.sha256(b"routoo batch " + batch_id.bytes).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def parent(batch_id: UUID | None) -> Parent | None:
    """Return where a span belongs: below the one at work, if it is of the batch, else the batch.

    A span of something else, such as a program's own request, is linked. None stands for a part of
    what is at work, where nothing is that is traced.
    """
    current = trace.get_current_span().get_span_context()
    if batch_id is None:
        return Parent(context=None, links=()) if current.is_valid else None
    trace_id, root_id = batch_trace_ids(batch_id)
    if current.trace_id == trace_id:
        return Parent(context=None, links=())
    is_sampled = _is_sampled(trace_id)
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    root = trace.SpanContext(trace_id, root_id, is_remote=True, trace_flags=flags)
    context = trace.set_span_in_context(trace.NonRecordingSpan(root), Context())
    return Parent(context=context, links=[Link(current)] if current.is_valid else ())


def _is_sampled(trace_id: int) -> bool:
    """Return what the sampler decides about a batch; the same in every process."""
    sampler = _started[-1].sampler if _started else None
    if sampler is None:
        return True
    decision = sampler.should_sample(Context(), trace_id, "batch").decision
    return decision is Decision.RECORD_AND_SAMPLE


def write_root(batch_id: UUID, created_at: datetime, attributes: Mapping[str, str | int]) -> None:
    """Write the span that holds all others, from a batch's creation until now."""
    reset = _wanted_ids.set(batch_trace_ids(batch_id))
    try:
        root = tracer().start_span(
            "batch",
            context=Context(),
            attributes=dict(attributes),
            start_time=int(created_at.timestamp() * _NS),
        )
    finally:
        _wanted_ids.reset(reset)
    root.end()


def mark_failed(made: Span, kind: str) -> None:
    """Mark a span as failed, with a code or a class of errors."""
    made.set_status(Status(StatusCode.ERROR, kind))
    made.set_attribute("error.type", kind)


_wanted_ids: ContextVar[tuple[int, int] | None] = ContextVar("wanted_ids", default=None)
"""Ids of a trace and a span that the next span gets."""


class BatchIds(RandomIdGenerator):
    """Gives the root of a batch's trace the ids that follow from the batch's; others are random."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        wanted = _wanted_ids.get()
        return super().generate_trace_id() if wanted is None else wanted[0]

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        wanted = _wanted_ids.get()
        return super().generate_span_id() if wanted is None else wanted[1]


class CallSampler(Sampler):
    """Keeps a share of the spans of calls, and of the others what another sampler keeps.

    Args:
        sampler: Decides about all other spans.
        share: Of the spans of calls, 0 to 1.
    """

    def __init__(self, sampler: Sampler, share: float) -> None:
        self._sampler, self._share = sampler, share

    def should_sample(  # noqa: PLR0913, PLR0917 - OpenTelemetry's own signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about a span that begins."""
        if name == CALL and random.random() >= self._share:  # noqa: S311 - no secret
            return SamplingResult(Decision.DROP)
        return self._sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """Return what it does, for people."""
        return f"calls {self._share:g}, others {self._sampler.get_description()}"
