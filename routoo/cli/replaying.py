"""Serving recorded outcomes on this machine."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from routoo.domain.tables import read_items, read_outcomes
from routoo.evaluation.replay import Replay

_HOST = "127.0.0.1"


def serve_recorded(
    outcomes: Sequence[Path],
    items: Sequence[Path],
    port: int,
    *,
    latency_scale: float,
    until_stdin_ends: bool,
) -> None:
    """Answer chat requests until interrupted.

    Args:
        outcomes: Outcomes tables to answer from.
        items: Items tables; find items by their text.
        port: Port on the loopback interface; 0 takes a free one.
        latency_scale: Part of the recorded latency that a call takes.
        until_stdin_ends: Stop when standard input ends, too.

    Raises:
        InputError: A table can't be read.
    """
    server = Replay(read_outcomes(*outcomes), read_items(*items), latency_scale=latency_scale)
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, port))


async def _serve(server: Replay, port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, port, backlog=1024).start()
        bound = runner.addresses[0][1]
        sys.stdout.write(f"http://{_HOST}:{bound}/v1\n")
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await runner.cleanup()


def _end_with_stdin() -> None:
    """Stop when whoever started this process is gone, however it ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
