"""`routoo replay`: serve recorded outcomes as a model endpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routoo.cli.options import OutcomesOption

if TYPE_CHECKING:
    from routoo.evaluation.replay import Replay

_HOST = "127.0.0.1"


def replay(
    outcomes: OutcomesOption,
    items: Annotated[
        list[Path] | None,
        typer.Option(help="Items table: finds items by their text where a request names none."),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers table: its texts are served instead of scores."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    latency_scale: Annotated[
        float, typer.Option(min=0, help="Part of the recorded latency that a call takes.")
    ] = 0.0,
    *,
    until_stdin_ends: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Answer chat requests from recorded outcomes, on this machine only, until Ctrl-C.

    Prints the base URL once it answers: name it in a pool file's endpoints. Answers carry the
    recorded text (--answers) or score, and the recorded tokens, and cost nothing.

    Example:
        routoo replay --items mmlu_items.parquet --outcomes mmlu_outcomes.parquet --port 8080
    """
    import asyncio
    import contextlib
    import threading

    from routoo.domain.tables import read_answers, read_items, read_outcomes
    from routoo.evaluation.replay import Replay

    recorded, rows = read_outcomes(*outcomes), read_items(*(items or []))
    said = read_answers(*(answers or []))
    server = Replay(recorded, rows, said, latency_scale=latency_scale)
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, port))


async def _serve(server: "Replay", port: int) -> None:
    import asyncio
    import signal

    from aiohttp import web

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, port, backlog=1024).start()
        typer.echo(f"http://{_HOST}:{runner.addresses[0][1]}/v1")
        await stopping.wait()
    finally:
        await runner.cleanup()


def _end_with_stdin() -> None:
    """End this process when the one that started it is gone, however that ended."""
    import os
    import signal

    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
