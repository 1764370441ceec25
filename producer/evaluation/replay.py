"""Runs a replay server for as long as a command needs it."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from routoo.domain.pool import Pool
from routoo.errors import InputError

_CALLS_AT_ONCE = 128
_END_S = 10.0


@contextmanager
def replay_server(pool: Pool, outcomes: Sequence[Path], latency_scale: float) -> Iterator[Pool]:
    """Serve recorded outcomes, and yield the pool with its endpoints replaced by that server.

    The server ends with the block, and by itself when this process is gone.

    Raises:
        InputError: The outcomes can't be read; the server has said why.
    """
    command = [sys.executable, "-P", "-m", "routoo.cli.main", "replay", "--until-stdin-ends"]
    for path in outcomes:
        command += ["--outcomes", str(path)]
    command += ["--latency-scale", str(latency_scale)]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            base_url = server.stdout.readline().strip() if server.stdout else ""
            if not base_url:
                raise InputError(
                    "the recorded outcomes can't be replayed",
                    where=", ".join(map(str, outcomes)),
                    remedy="Mend what is said above",
                )
            yield replayed_pool(pool, base_url)
        finally:
            server.terminate()
            server.wait(_END_S)


def replayed_pool(pool: Pool, base_url: str) -> Pool:
    """Return the pool with every endpoint replaced by a replay server."""
    return Pool.model_validate(
        {
            "models": [
                model.model_dump(mode="json")
                | {"endpoint": {"base_url": base_url, "max_concurrency": _CALLS_AT_ONCE}}
                for model in pool.models
            ]
        }
    )
