"""Writes logs to standard error, of workers and gateways: a line an event, as text or as JSON."""

import logging
import sys

import structlog
from structlog.types import Processor

from routoo.console.run import quiet_driver

_LIBRARIES = ("celery", "kombu", "amqp")
_BEAT = "celery.beat"
_AWAY = {"OSError", "ConnectionError", "TimeoutError", "OperationalError", "ResponseError"}
"""Names of the errors by which the libraries of the task queue tell that a server is away, or that
it refuses everything: Redis without room on its disk."""


def configure_logs(level: str, *, as_json: bool, role: str) -> None:
    """Send structlog's and the standard library's events through one pipeline to stderr.

    Args:
        level: Name of the lowest level shown, as in the standard library.
        as_json: One JSON object a line instead of text.
        role: Which kind of process logs; a field of every event.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _add_role(role),
    ]
    handler = _handler(shared, as_json=as_json)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Celery logs every message at INFO; our own events do so with the shard's name.
    for verbose in ("celery", "alembic"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    quiet_driver()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _handler(shared: list[Processor], *, as_json: bool) -> logging.Handler:
    """Return what writes to standard error, events of other libraries too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_shorten)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(as_json=as_json),
            ],
        )
    )
    return handler


def _shorten(record: logging.LogRecord) -> bool:
    """Leave the traceback out where a server was away: Celery goes on by itself."""
    is_library = record.name.startswith(_LIBRARIES)
    if record.exc_info and is_library and _is_away(record.exc_info[1]):
        record.exc_info = record.exc_text = None
        if record.name == _BEAT and isinstance(record.args, tuple):  # it writes its own stack
            record.msg, record.args = "the beat could not publish: %s", record.args[:1]
    return True


def _is_away(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, says that a server is away."""
    while error is not None:
        if _AWAY & {one.__name__ for one in type(error).__mro__}:
            return True
        error = error.__cause__ or error.__context__
    return False


def _renderers(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Plain: a traceback that shows the values of variables may show a key.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def _add_role(role: str) -> Processor:
    def name(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["role"] = role
        return event

    return name
