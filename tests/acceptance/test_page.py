"""The page in a real browser, by clicking, on a real stack: from a file to its answers."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.batch import write_pool
from tests.acceptance.stack import BIN, LocalStack
from tests.browser import CHROMIUM, Tab, browser_tab
from tests.fakes.openai_process import FakeServerProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's chromium"),
]

REFUSING = {"faults": [{"kind": "status", "status": 400, "containing": "number 3"}]}


@contextmanager
def serving(stack: LocalStack, pool: Path) -> Iterator[str]:
    """Run `routoo-producer serve` and yield the URL that it prints."""
    command = [BIN / "routoo-producer", "serve", "--port", "0", "--pool", f"default={pool}"]
    with subprocess.Popen(command, env=stack.environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            assert process.wait(30) in {0, -signal.SIGTERM}


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser_tab(tmp_path / "profile") as found:
        yield found


async def test_a_file_is_planned_run_watched_and_its_failures_retried_by_clicking(
    stack: LocalStack, server: FakeServerProcess, tab: Tab, tmp_path: Path
) -> None:
    server.set_script({"models": {"*": REFUSING}})
    rows = [{"custom_id": f"row-{no}", "prompt": f"Name number {no}, please"} for no in range(12)]
    file = tmp_path / "numbers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with serving(stack, write_pool(tmp_path / "pool.json", server.base_url)) as url:
        await tab.open(url)
        assert await tab.evaluate("document.title") == "Batches \N{MIDDLE DOT} Routoo"
        await tab.click("New batch")
        await tab.until_shown("File of prompts")
        await tab.choose_file("#file", file)
        await tab.evaluate("document.querySelector('#budget').value = '1'")
        await tab.click("Plan")
        await tab.until_shown("Run this plan")
        assert server.log() == []  # nothing is called before somebody says so
        await tab.click("Run this plan")
        await tab.until_shown("completed")
        await tab.until_shown("Without an answer")
        server.set_script({"models": {"*": {}}})
        await tab.click("Retry these")
        await tab.until_gone("Without an answer")
        await tab.until_shown("12 of 12")
        await tab.until_shown("completed")
        await tab.click("All jobs")
        await tab.click("row-3")
        await tab.until_shown("Why this model")
    assert tab.complaints == []
