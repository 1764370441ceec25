"""The commands of some pages, typed one after the other as a reader would; others are parsed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from routoo.settings import REPOSITORY
from tests.acceptance.batch import write_pool
from tests.acceptance.stack import BIN, LocalStack
from tests.fakes.openai_process import FakeServerProcess

CHECK = REPOSITORY / ".ci" / "check_docs.py"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>.*?) -->\n)?^ *```sh\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL
)


PAGES_RUN = ("tutorial", "howto/own-endpoints", "howto/budget")
"""Those whose commands are typed one after the other; they take what earlier ones made."""


JOBS = 30
"""Of the example's questions, so that they are soon scored."""
SLOW = "Think for long about"


def write_inputs(folder: Path, base_url: str) -> None:
    """Write what the pages take for given, with a pool of the fake models."""
    examples = folder / "examples"
    examples.mkdir()
    shutil.copy(REPOSITORY / "examples" / "references.jsonl", examples)
    questions = (REPOSITORY / "examples" / "demo.jsonl").read_text().splitlines()[:JOBS]
    (examples / "demo.jsonl").write_text("\n".join(questions))
    pool = json.loads(write_pool(folder / "pool.yaml", base_url).read_text())
    for model, price in zip(pool["models"], ("0.01", "0.1"), strict=True):
        model["price_usd_per_mtok"] = {"prompt": price, "completion": price}
    for path in (folder / "pool.yaml", examples / "pool.yaml"):
        path.write_text(json.dumps(pool))
    prompts = [{"prompt": f"{SLOW} {number}?"} for number in range(40)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))


def commands_of(page: str) -> str:
    text = textwrap.dedent((REPOSITORY / "docs" / f"{page}.md").read_text())
    blocks = [found for found in BLOCK.finditer(text) if not found["mark"]]
    assert blocks, page
    return "".join(textwrap.dedent(found["body"]) for found in blocks)


def test_the_pages_commands_run_in_their_order(stack: LocalStack, tmp_path: Path) -> None:
    # So that a batch can be paused, and cancelled, before it is over.
    slow = {"kind": "slow_headers", "containing": SLOW, "delay_s": 1.5}
    with FakeServerProcess({"models": {"*": {"faults": [slow]}}}) as server:
        write_inputs(tmp_path, server.base_url)
        done = subprocess.run(
            ["bash", "-eux", "-o", "pipefail", "-c", "".join(map(commands_of, PAGES_RUN))],
            cwd=tmp_path,
            env=stack.environ
            | {"PATH": f"{BIN}:{os.environ['PATH']}", "ROUTOO_POOL": str(tmp_path / "pool.yaml")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{JOBS} of {JOBS} answered" in done.stderr + done.stdout
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == JOBS


def test_every_command_of_the_docs_can_be_typed_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_docs().main() == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    marks = [found["mark"] for found in BLOCK.finditer(page.read_text())]
    for mark in marks:
        assert mark is None or re.fullmatch(r"not run: .{10,}", mark)


def check_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_command_with_a_wrong_option_or_value_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n"
        "routoo-producer eval list --limit ten\n"
        "FOO=1 routoo-producer plan rows.jsonl --budget 10 | head\n"
        "routoo-producer frobnicate\n"
        "```\n"
        "`routoo-worker doctor --cal`, `routoo-worker doctor --call`\n"
    )
    found = [problem.rpartition(": ")[2] for problem in check_docs().problems_of(page)]
    assert len(found) == 4, found
