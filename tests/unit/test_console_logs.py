"""What logs show of errors of the task queue's libraries."""

import io
import logging
from collections.abc import Iterator

import pytest
import structlog
from amqp.exceptions import ConnectionForced, PreconditionFailed
from celery.beat import SchedulingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from routoo.console import logs


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """What a handler with our filter writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs._shorten)
    names = ("celery.beat", "kombu.message", "routoo")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield stream
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("gone"),
        ConnectionForced("shutdown"),
        RedisConnectionError("loading"),
        ResponseError("MISCONF No space left on device"),
    ],
)
def test_a_server_that_is_away_takes_one_line(shown: io.StringIO, error: Exception) -> None:
    try:
        raise error
    except type(error):
        logging.getLogger("kombu.message").critical("Couldn't ack %r", 7, exc_info=True)
        failed = SchedulingError("no task sent")
        failed.__cause__ = error
        arguments = ("Message Error: %s\n%s", failed, ["a stack"])
        logging.getLogger("celery.beat").log(logging.ERROR, *arguments, exc_info=failed)
    lines = shown.getvalue().splitlines()
    assert lines == ["Couldn't ack 7", "the beat could not publish: no task sent"]


def test_a_bug_keeps_its_traceback(shown: io.StringIO) -> None:
    for name, error in (("kombu.message", PreconditionFailed("no")), ("routoo", OSError("no"))):
        try:
            raise error
        except type(error):
            logging.getLogger(name).exception("it failed")
    assert shown.getvalue().count("Traceback") == 2


def test_a_traceback_shows_no_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure_logs("INFO", as_json=False, role="scorer")
        key = "a-key-that-nobody-may-see"
        try:
            int(key)
        except ValueError as error:
            error.args = ("no number",)
            logging.getLogger("routoo").exception("it failed")
    finally:
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
        structlog.reset_defaults()
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert key not in shown
