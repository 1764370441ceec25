"""The commands of the tutorial, typed one after the other as its reader would.

The commands of all other pages are read, not run, by `.ci/check_docs.py`.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from routoo.settings import REPOSITORY
from tests.acceptance.batch import write_pool
from tests.acceptance.stack import BIN, LocalStack
from tests.fakes.openai_process import FakeServerProcess

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>.*?) -->\n)?^```sh\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL
)


def write_example(folder: Path, base_url: str) -> None:
    """Write the example's files with a pool of the fake models, at prices of the same size."""
    examples = folder / "examples"
    examples.mkdir()
    for name in ("demo.jsonl", "references.jsonl"):
        shutil.copy(REPOSITORY / "examples" / name, examples)
    pool = json.loads(write_pool(examples / "pool.yaml", base_url).read_text())
    for model, price in zip(pool["models"], ("0.01", "0.1"), strict=True):
        model["price_usd_per_mtok"] = {"prompt": price, "completion": price}
    (examples / "pool.yaml").write_text(json.dumps(pool))


def test_the_tutorial_runs_from_top_to_bottom(stack: LocalStack, tmp_path: Path) -> None:
    environ = stack.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    page = (REPOSITORY / "docs" / "tutorial.md").read_text()
    bodies = [found["body"] for found in BLOCK.finditer(page) if not found["mark"]]
    with FakeServerProcess({"models": {"*": {}}}) as server:
        write_example(tmp_path, server.base_url)
        done = subprocess.run(
            ["bash", "-eux", "-o", "pipefail", "-c", "".join(bodies)],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(bodies) > 5
    assert "150 of 150 answered" in done.stderr + done.stdout
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    marks = [found["mark"] for found in BLOCK.finditer(page.read_text())]
    for mark in marks:
        assert mark is None or re.fullmatch(r"not run: .{10,}", mark)


def test_a_command_with_a_wrong_option_or_value_is_found(tmp_path: Path) -> None:
    path = REPOSITORY / ".ci" / "check_docs.py"
    spec = importlib.util.spec_from_file_location("check_docs", path)
    assert spec is not None
    assert spec.loader is not None
    check_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_docs)
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n"
        "routoo-producer eval list --limit ten\n"
        "FOO=1 routoo-producer plan rows.jsonl --budget 10 | head\n"
        "routoo-producer frobnicate\n"
        "```\n"
        "`routoo-worker doctor --cal`, `routoo-worker doctor --call`\n"
    )
    found = [problem.rpartition(": ")[2] for problem in check_docs.problems_of(page)]
    assert len(found) == 4, found
