"""Scripts for OpenAI's API against a real stack: they change the base URL and the key, no more."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from tests.acceptance.batch import write_pool
from tests.acceptance.stack import BIN, LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

LITELLM_PYTHON = os.environ.get("ROUTOO_TEST_LITELLM_PYTHON")
"""Of an environment that has litellm."""


@pytest.fixture
def base_url(stack: LocalStack, server: FakeServerProcess, tmp_path: Path) -> Iterator[str]:
    pool = write_pool(tmp_path / "pool.yaml", server.base_url)
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "routoo-producer", "serve", "--port", "0", "--pool", f"both={pool}"],
            env=stack.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    said = tmp_path / "serve.log"
    try:
        until(lambda: "/v1" in said.read_text(), "the gateway says where it is")
        found = re.search(r"http://\S+/v1", said.read_text())
        assert found is not None
        yield found[0]
    finally:
        process.terminate()
        assert process.wait(60) == 0, said.read_text()


@pytest.fixture
def key(stack: LocalStack, tmp_path: Path) -> str:
    """A key of its own, with a limit that the test's batches stay below."""
    arguments = ("key", "add", tmp_path.name, "--usd-per-day", "1")
    return stack.command("routoo-producer", *arguments)


def write_requests(path: Path, count: int) -> Path:
    rows = (
        {
            "custom_id": f"job-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "routoo/auto",
                "messages": [{"role": "user", "content": f"Name number {number}, please"}],
                "max_tokens": 20,
            },
        }
        for number in range(count)
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_script_runs_a_batch_to_its_end(
    stack: LocalStack, base_url: str, key: str, tmp_path: Path
) -> None:
    with openai.OpenAI(base_url=base_url, api_key=key) as client:
        with write_requests(tmp_path / "rows.jsonl", 25).open("rb") as rows:
            file = client.files.create(file=rows, purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"budget_usd": "0.01", "pool": "both", "run": tmp_path.name},
        )
        ends_s = time.monotonic() + 120
        while batch.status in {"validating", "in_progress"}:
            assert time.monotonic() < ends_s, batch
            time.sleep(0.2)
            batch = client.batches.retrieve(batch.id)

        assert (batch.status, batch.error_file_id) == ("completed", None)
        assert batch.request_counts is not None
        assert batch.request_counts.completed == batch.request_counts.total == 25
        lines = client.files.content(batch.output_file_id or "").text.splitlines()
        answers = {row["custom_id"]: row["response"] for row in map(json.loads, lines)}
        assert sorted(answers) == sorted(f"job-{number}" for number in range(25))
        assert all(one["status_code"] == 200 and one["body"]["choices"] for one in answers.values())
        money = "SELECT l.spent_usd, k.spent_usd, k.reserved_usd FROM ledgers l JOIN key_ledgers k"
        spent, of_key, reserved = stack.query(
            f"{money} USING (key_id) WHERE batch_id = %s", batch.id.removeprefix("batch_")
        )[0]
        assert 0 < spent == of_key
        assert reserved == 0


def test_an_asynchronous_script_asks_and_streams(base_url: str, key: str) -> None:
    async def talk() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
            asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "Name one"}]}
            answer = await client.chat.completions.create(**asked)
            stream = await client.chat.completions.create(**asked, stream=True)
            return answer, [chunk async for chunk in stream]

    answer, chunks = asyncio.run(talk())

    assert answer.model in {"small", "large"}
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == answer.choices[0].message.content


@pytest.mark.skipif(
    not (LITELLM_PYTHON or find_spec("litellm")),
    reason="set ROUTOO_TEST_LITELLM_PYTHON, or install litellm by the extra of this name",
)
def test_a_script_of_litellm_asks_and_runs_a_batch(base_url: str, key: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_LITELLM)
    rows = write_requests(tmp_path / "rows.jsonl", 5)
    done = subprocess.run(
        [LITELLM_PYTHON or sys.executable, script, base_url, key, rows],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    asked, streamed, counted = done.stdout.split()[-3:]
    assert asked in {"small", "large"}
    assert (streamed, counted) == ("streamed", "5")


_LITELLM = """
import sys, time
import litellm

base_url, key, rows = sys.argv[1:]
told = {"api_base": base_url, "api_key": key}
asked = {"model": "openai/routoo/auto", "messages": [{"role": "user", "content": "Name one"}]}
answer = litellm.completion(**asked, **told)
chunks = list(litellm.completion(**asked, **told, stream=True))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert text == answer.choices[0].message.content, (text, answer)
provider = {"custom_llm_provider": "openai", **told}
file = litellm.create_file(file=open(rows, "rb"), purpose="batch", **provider)
batch = litellm.create_batch(
    completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **provider
)
while batch.status in {"validating", "in_progress"}:
    time.sleep(0.3)
    batch = litellm.retrieve_batch(batch_id=batch.id, **provider)
lines = litellm.file_content(file_id=batch.output_file_id, **provider).text.splitlines()
print(answer.model, "streamed", len(lines))
"""


def test_a_host_that_others_reach_needs_a_key(tmp_path: Path, database_url: str) -> None:
    environ = {"ROUTOO_DATABASE_URL": database_url, "ROUTOO_HOME": str(tmp_path)}
    command = [BIN / "routoo-producer", "serve", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 2
    assert "there is no key yet" in done.stderr
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM api_keys").fetchone() == (0,)
