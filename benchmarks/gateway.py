"""Measures the gateway: single calls beside litellm's proxy, a batch beside the CLI, an upload.

`calls` sends one request after the other, ten of a kind in turn: straight to a stand-in endpoint,
through the gateway with a named model, through the gateway routed (MiniLM on the CPU), and, with
--litellm, through litellm's proxy, all in one run. A call's overhead is its time less the median
time of the straight ones. The processor time of each server is read too, since other work on the
machine adds to times and not to it.

`batch` has the same rows submitted, answered and written to a file by the commands, and then
uploaded, created, answered and downloaded through the gateway: the same workers, endpoint and
database. In place of the score stage, which is the same for both and takes minutes, it gives the
jobs neutral predictions.

`upload` sends a file and reads the most memory that the gateway's process had.
"""

import argparse
import asyncio
import json
import re
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import openai
import psycopg
from figures import Figure, show
from servers import BIN, MODELS, Stack, memory_mb, wait_until

from routoo.store import batches
from routoo.store.database import Database

SMALL = MODELS[0]
PROMPT = "A train leaves at 9:40 and arrives at 12:05. How long does the journey take?"
_WARM_UP = 5
_IN_A_ROW = 10
"""Calls of one kind before those of the next: a server's other work falls on all alike."""


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name, ExitStack() as exits:
        folder = Path(name)
        folder.chmod(0o755)
        latency_s = 0.0 if options.what == "calls" else 0.05
        bench = Stack(folder, options.database_url, latency_s, exits)
        measure = {"calls": _calls, "batch": _batch, "upload": _upload}[options.what]
        show(measure(bench, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("calls", "batch", "upload"))
    parser.add_argument("--database-url", help="empty database; default: an embedded server")
    parser.add_argument("--calls", type=int, default=300, help="of each kind")
    parser.add_argument("--litellm", help="program `litellm` of an environment with litellm[proxy]")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--mb", type=int, default=200, help="size of the upload")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _gateway(bench: Stack) -> tuple[str, str, int]:
    """Start a gateway; return its base URL, a key for it, and its process id."""
    process = bench.start(BIN / "routoo-producer", "serve", "--port", "0", log="serve.log")
    log = bench.folder / "serve.log"
    found = wait_until(lambda: re.search(r"http://[\d.]+:\d+", log.read_text()), log)
    url = "" if found is None else found[0]
    return f"{url}/v1", bench.command("routoo-producer", "key", "add", "bench"), process.pid


# Single calls.


def _calls(bench: Stack, options: argparse.Namespace) -> Iterator[Figure]:
    gateway, key, gateway_pid = _gateway(bench)
    targets = {
        "straight": (bench.endpoint, key, SMALL),
        "named": (gateway, key, SMALL),
        "routed": (gateway, key, "routoo/auto"),
    }
    pids = {"named": gateway_pid, "routed": gateway_pid}
    if options.litellm:
        url, process = _litellm(bench, options.litellm)
        targets["litellm"] = (url, "sk-bench", SMALL)
        pids["litellm"] = process
    times = asyncio.run(_measure_calls(targets, pids, options.calls))
    yield from _call_figures(times)


def _litellm(bench: Stack, program: str) -> tuple[str, int]:
    """Start litellm's proxy in front of the same endpoint; return its base URL and process id."""
    config = bench.folder / "litellm.yaml"
    model = {"model": f"openai/{SMALL}", "api_base": bench.endpoint, "api_key": "none"}
    told = {
        "model_list": [{"model_name": SMALL, "litellm_params": model}],
        "general_settings": {"master_key": "sk-bench"},
    }
    config.write_text(json.dumps(told))
    port = _free_port()
    process = bench.start(
        program, "--config", config, "--port", str(port), "--host", "127.0.0.1", log="litellm.log"
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(f"{url}/health/liveliness"), bench.folder / "litellm.log")
    return f"{url}/v1", process.pid


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a URL of ours
            return True
    except OSError:
        return False


async def _measure_calls(
    targets: Mapping[str, tuple[str, str, str]], pids: Mapping[str, int], count: int
) -> dict[str, dict[str, list[float]]]:
    """Return, for each target, the times and the processor times of its calls, in seconds."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"wall": [], "cpu": [], "predict": []} for name in targets
    }
    async with aiohttp.ClientSession() as session:
        for target in targets.values():
            for _ in range(_WARM_UP):
                await _call(session, *target)
        for _ in range(-(-count // _IN_A_ROW)):
            for name, target in targets.items():
                before_s = _cpu_s(pids.get(name))
                for _ in range(_IN_A_ROW):
                    began_s = time.perf_counter()
                    found[name]["predict"].append(await _call(session, *target))
                    found[name]["wall"].append(time.perf_counter() - began_s)
                cpu_s = _cpu_s(pids.get(name)) - before_s
                found[name]["cpu"].append(cpu_s / _IN_A_ROW)
    return found


async def _call(session: aiohttp.ClientSession, url: str, key: str, model: str) -> float:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64}
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
        text = await answer.text()
        assert answer.ok, text
        assert json.loads(text)["choices"], text
        return float(answer.headers.get("x-routoo-predict-ms", 0)) / 1000


def _cpu_s(pid: int | None) -> float:
    """Return what a process and its threads have computed so far, in seconds."""
    if pid is None:
        return 0.0
    # In nanoseconds, of each thread: /proc/PID/stat counts in ticks of 10 ms.
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _call_figures(times: Mapping[str, Mapping[str, list[float]]]) -> Iterator[Figure]:
    straight_s = statistics.median(times["straight"]["wall"])
    yield Figure("straight_call_p50", straight_s * 1000, "ms")
    overhead_ms, cpu_ms = {}, {}
    for name in sorted(times.keys() - {"straight"}):
        overhead_ms[name] = (statistics.median(times[name]["wall"]) - straight_s) * 1000
        cpu_ms[name] = statistics.mean(times[name]["cpu"]) * 1000
    for metric, values in (("overhead_p50", overhead_ms), ("cpu", cpu_ms)):
        for name, value in values.items():
            beside = values.get("litellm") if name == "named" else None
            ratio = None if beside is None else value / beside
            yield Figure(f"{name}_{metric}", value, "ms", beside, ratio)
    predict_s = statistics.median(times["routed"]["predict"])
    yield Figure("predictor_p50", predict_s * 1000, "ms")
    rest_s = statistics.median(
        wall - predict
        for wall, predict in zip(times["routed"]["wall"], times["routed"]["predict"], strict=True)
    )
    yield Figure("routed_without_predictor_p50", (rest_s - straight_s) * 1000, "ms")


# A batch.


def _batch(bench: Stack, options: argparse.Namespace) -> Iterator[Figure]:
    rows = bench.folder / "rows.jsonl"
    with rows.open("w") as stream:
        for number in range(options.rows):
            stream.write(json.dumps(_request(number)) + "\n")
    for role in ("dispatcher", "beat"):
        log = f"{role}.log"
        bench.start(BIN / "routoo-worker", role, "--json-logs", log=log)
        wait_until(
            lambda log=log: "worker.ready" in (bench.folder / log).read_text(), bench.folder / log
        )
    gateway = _gateway(bench)
    cli_s = _by_commands(bench, rows)
    gateway_s = _by_gateway(bench, rows, *gateway[:2])
    for step in cli_s:
        ours, reference = gateway_s[step], cli_s[step]
        yield Figure(f"batch_{step}", ours, "s", reference, ours / reference)


def _request(number: int) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"{number}: {PROMPT}"}], "max_tokens": 64}
    return {
        "custom_id": f"row-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


def _by_commands(bench: Stack, rows: Path) -> dict[str, float]:
    began_s = time.perf_counter()
    batch_id = bench.command("routoo-producer", "submit", rows, "--name", "cli")
    submitted_s = time.perf_counter()
    _finish(bench, UUID(batch_id))
    ended_s = time.perf_counter()
    bench.command("routoo-producer", "results", batch_id, "--out", bench.folder / "cli.jsonl")
    return _steps(began_s, submitted_s, ended_s, time.perf_counter())


def _by_gateway(bench: Stack, rows: Path, url: str, key: str) -> dict[str, float]:
    client = openai.OpenAI(base_url=url, api_key=key)
    began_s = time.perf_counter()
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while batch.status == "validating":
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "in_progress", batch
    submitted_s = time.perf_counter()
    _finish(bench, UUID(batch.id.removeprefix("batch_")))
    ended_s = time.perf_counter()
    batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == batch.request_counts.total
    client.files.content(batch.output_file_id or "").write_to_file(bench.folder / "gateway.jsonl")
    return _steps(began_s, submitted_s, ended_s, time.perf_counter())


def _steps(
    began_s: float, submitted_s: float, ended_s: float, written_s: float
) -> dict[str, float]:
    return {
        "submitted": submitted_s - began_s,
        "answered": ended_s - submitted_s,
        "written": written_s - ended_s,
        "in_all": written_s - began_s,
    }


def _finish(bench: Stack, batch_id: UUID) -> None:
    """Give the jobs neutral predictions, and wait until they are answered."""

    async def skip() -> None:
        async with Database(bench.database_url) as db, db.transaction() as conn:
            await batches.skip_scoring(conn, batch_id, len(MODELS), 20)

    asyncio.run(skip())
    with psycopg.connect(bench.database_url, autocommit=True) as conn:
        query = "SELECT status FROM batches WHERE id = %s"
        while (row := conn.execute(query, [batch_id]).fetchone()) == ("in_progress",):
            time.sleep(0.1)
    assert row == ("completed",), row


# An upload.


def _upload(bench: Stack, options: argparse.Namespace) -> Iterator[Figure]:
    url, key, pid = _gateway(bench)
    path = bench.folder / "large.jsonl"
    line = json.dumps(_request(0) | {"custom_id": str(uuid4())}).encode()
    with path.open("wb") as stream:
        number = 0
        while stream.tell() < options.mb * 1_000_000:
            stream.write(line[:-1] + b', "n": %d}\n' % number)
            number += 1
    before_mb = memory_mb(pid, peak=True)
    began_s = time.perf_counter()
    client = openai.OpenAI(base_url=url, api_key=key)
    with path.open("rb") as rows:
        file = client.files.create(file=rows, purpose="batch")
    yield Figure("upload", time.perf_counter() - began_s, "s")
    assert file.bytes == path.stat().st_size
    with client.files.with_streaming_response.content(file.id) as answer:
        size = sum(len(piece) for piece in answer.iter_bytes())
    assert size == file.bytes
    yield Figure("upload_memory_before", before_mb, "MB")
    yield Figure("upload_memory_peak", memory_mb(pid, peak=True), "MB")


if __name__ == "__main__":
    main()
