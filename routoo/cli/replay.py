"""`routoo replay`: an endpoint that answers from recorded outcomes."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    outcomes: Annotated[list[Path], typer.Option(help="Outcomes table (Parquet); repeatable.")],
    items: Annotated[
        list[Path] | None,
        typer.Option(help="Items table: finds items by their text where a request names none."),
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
    recorded score and tokens, and cost nothing.

    Example:
        routoo replay --items mmlu_items.parquet --outcomes mmlu_outcomes.parquet --port 8080
    """
    # Arrow, aiohttp and the graders take a second to load: not for --help
    from routoo.cli.replaying import serve_recorded

    serve_recorded(
        outcomes, items or [], port, latency_scale=latency_scale, until_stdin_ends=until_stdin_ends
    )
