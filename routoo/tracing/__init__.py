"""Traces batches with OpenTelemetry, from submission to result; where it is off it costs nothing.

A batch is one trace. Its ids follow from the batch's id, which every message and every row names,
so whoever works on a part of it knows the trace without being told: a message that is lost and
published again, or a worker that takes a dead one's shard over, loses no span. Spans hold counts,
names of models and kinds of errors, never prompts, answers, URLs or messages of errors.

The extra `otel` brings the libraries. They are imported when tracing starts, and their own
variables say where spans go (`OTEL_EXPORTER_OTLP_ENDPOINT`) and how many (`OTEL_TRACES_SAMPLER`).
A program that has set OpenTelemetry up by itself gets the spans without more ado.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from routoo.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

Value = str | int | float | bool
"""What an attribute of a span may be."""
_SDK = "opentelemetry.sdk.trace"


@contextmanager
def tracing(
    service: str,
    *,
    is_wanted: bool,
    call_share: float = 1.0,
    processor: "SpanProcessor | None" = None,
) -> Iterator[None]:
    """Send spans while the block runs, and those that wait when it ends.

    Args:
        service: Name of the program, where OTEL_SERVICE_NAME names none.
        is_wanted: Whether to trace at all.
        call_share: Share of the calls to models that get a span of their own.
        processor: What takes the spans; an exporter by OTLP over HTTP where unset.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if not is_wanted:
        yield
        return
    try:
        otel = importlib.import_module("routoo.tracing.otel")
    except ImportError as error:
        raise ConfigError(
            "traces are wanted, and OpenTelemetry is not installed",
            where="ROUTOO_TRACES",
            remedy='Install it with `pip install "routoo[otel]"`, or unset the variable',
        ) from error
    with otel.started(service, call_share, processor):
        yield


@contextmanager
def span(name: str, batch_id: UUID | None = None, **attributes: Value) -> Iterator["Span | None"]:
    """Trace a part of the work on a batch while the block runs; an error marks it as failed.

    Args:
        name: What is done.
        batch_id: The batch; left out for a part of what is traced already.
        attributes: What is known beforehand, as `note` takes it.

    Yields:
        The span; None where nothing is traced.
    """
    if _SDK not in sys.modules:
        yield None
        return
    from routoo.tracing import otel  # OpenTelemetry is there only where it is used

    parent = otel.parent(batch_id)
    if parent is None:
        yield None
        return
    with otel.tracer().start_as_current_span(
        name,
        attributes=_named({"batch_id": str(batch_id)} | attributes if batch_id else attributes),
        record_exception=False,  # its message may quote a prompt
        set_status_on_exception=False,
        **parent,
    ) as made:
        try:
            yield made
        except BaseException as error:
            otel.mark_failed(made, type(error).__name__)
            raise


def note(made: "Span | None", *, failure: str | None = None, **attributes: Value | None) -> None:
    """Add to a span what has become known.

    Args:
        made: The span; None where nothing is traced.
        failure: Marks it as failed: a code or a class of errors, and no message.
        attributes: By name, `shard` as `routoo.shard`; those that are None are left out.
    """
    if made is None or not made.is_recording():
        return
    made.set_attributes(
        _named({key: value for key, value in attributes.items() if value is not None})
    )
    if failure is not None:
        from routoo.tracing import otel  # it made the span

        otel.mark_failed(made, failure)


def trace_batch(batch_id: UUID, created_at: datetime, *, jobs: int, status: str) -> None:
    """Write the span that holds all others of a batch, once it is over."""
    if _SDK in sys.modules:
        from routoo.tracing import otel  # as above

        facts = _named({"batch_id": str(batch_id), "jobs": jobs, "status": status})
        otel.write_root(batch_id, created_at, facts)


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"routoo.{key}": value for key, value in attributes.items()}
