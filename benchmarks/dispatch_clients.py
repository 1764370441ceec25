"""Runs one of the clients that dispatch.py compares, in a process of its own on one core.

`python dispatch_clients.py CLIENT '{"base_url": ..., "calls": ..., "concurrency": ...}'` prints one
JSON object: seconds taken, CPU seconds, and the latency of every call in seconds.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any

from dispatch_call import BODY, Taken

WARM_UP_CALLS = 20


async def run_aiohttp(request: dict[str, Any]) -> Taken:
    """Send, parse, drop: the least that a client can do."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    url = f"{request['base_url']}/chat/completions"
    sent = {"model": "bench", **BODY}

    async with aiohttp.ClientSession(connector=connector) as session:

        async def call() -> None:
            async with session.post(url, json=sent) as response:
                assert response.status == 200
                await response.json()

        return await _share_out(call, request)


async def run_litellm(request: dict[str, Any]) -> Taken:
    """The peer's router with one deployment, retries off."""
    import litellm

    litellm.suppress_debug_info = True
    deployment = {
        "model_name": "bench",
        "litellm_params": {
            "model": "openai/bench",
            "api_base": request["base_url"],
            "api_key": "none",
        },
    }
    router = litellm.Router(model_list=[deployment], num_retries=0)

    async def call() -> None:
        answer = await router.acompletion(model="bench", **BODY)
        assert answer.choices

    return await _share_out(call, request)


async def run_routoo(request: dict[str, Any]) -> Taken:
    """Dispatch a prepared batch's shards as a worker does, four at a time."""
    from dispatch_batch import dispatch_all

    return await dispatch_all(
        request["database_url"], request["batch_id"], request["shards"], limited=request["limited"]
    )


async def _share_out(call: Callable[[], Awaitable[None]], request: dict[str, Any]) -> Taken:
    await asyncio.gather(*(call() for _ in range(WARM_UP_CALLS)))
    turns, taken = iter(range(request["calls"])), Taken()

    async def work(turns: Iterator[int]) -> None:
        for _ in turns:
            started = time.perf_counter()
            await call()
            taken.latencies_s.append(time.perf_counter() - started)

    taken.start()
    await asyncio.gather(*(work(turns) for _ in range(request["concurrency"])))
    taken.stop()
    return taken


def main() -> None:
    """Run one client and print what it took."""
    os.sched_setaffinity(0, {0})
    client, request = sys.argv[1], json.loads(sys.argv[2])
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    clients = {
        "aiohttp": run_aiohttp,
        "litellm": run_litellm,
        "routoo": run_routoo,
        "routoo_unlimited": run_routoo,
        "routoo_probed": run_routoo,
    }
    print(json.dumps(asdict(run(clients[client](request)))))


if __name__ == "__main__":
    main()
