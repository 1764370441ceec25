"""The commands of the pages, typed one after the other as a reader would."""

import csv
import importlib.util
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.settings import REPOSITORY
from tests.acceptance.batch import write_pool
from tests.acceptance.stack import BIN, LocalStack
from tests.fakes.openai_process import FakeServerProcess
from tests.warm_commands import warm_programs

CHECK = REPOSITORY / ".ci" / "check_docs.py"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>.*?) -->\n)?^ *```(?P<language>sh|python)\n(?P<body>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^ *(routoo|routoo-\w+|make) [a-z]", re.MULTILINE)
POOL = re.compile(r"^ *```yaml\n(?P<body> *models:\n.*?)^ *```", re.MULTILINE | re.DOTALL)

RUN = (
    *("docs/tutorial", "docs/producer", "docs/howto/own-endpoints", "docs/howto/budget"),
    *("docs/howto/watch", "docs/howto/upgrade", "docs/howto/scale-out", "docs/howto/harden"),
    "docs/howto/backup",
    # These learn, in the copy of the database that the page before them has restored.
    *("docs/howto/nightly", "docs/evaluation", "docs/howto/own-grader", "README"),
    *("docs/howto/own-data", "docs/howto/new-model", "docs/howto/from-nothing"),
)
"""The pages that are typed, in this order; `test_python_page.py` runs the blocks of `python.md`."""
LEARNS = re.compile(r"routoo (onboard|train|checkpoint|outcomes)")
"""Of blocks that would change how every later batch of the stack is predicted."""
JOBS = 30
"""Of the example's questions, so that they are soon scored."""
SLOW = "Think for long about"
COPY = "docs"
"""Name of the database into which a page restores its copy."""


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sums() -> list[dict[str, str]]:
    """Return questions with their answers."""
    drawn = random.Random(0)
    pairs = [(drawn.randrange(10, 90), drawn.randrange(10, 90)) for _ in range(JOBS)]
    return [
        {
            "item_id": f"q-{number}",
            "prompt": f"What is {one} + {other}? Question {number}.",
            "answer": str(one + other),
            "subject": "sums" if number % 2 else "letters",
        }
        for number, (one, other) in enumerate(pairs)
    ]


def demo() -> list[str]:
    """Return lines of the example's batch."""
    return (REPOSITORY / "examples" / "demo.jsonl").read_text().splitlines()[:JOBS]


def answers() -> dict[str, str]:
    """Return the right answers to the sums and to the example's questions, by their prompts."""
    lines = (REPOSITORY / "examples" / "demo.jsonl").read_text().splitlines()[:JOBS]
    asked = {
        row["custom_id"]: row["body"]["messages"][0]["content"] for row in map(json.loads, lines)
    }
    lines = (REPOSITORY / "examples" / "references.jsonl").read_text().splitlines()
    told = {row["custom_id"]: str(row["answer"]) for row in map(json.loads, lines)}
    known = {asked[name]: told[name] for name in asked if name in told}
    return known | {one["prompt"]: f"It is {one['answer']}." for one in sums()}


def script() -> dict[str, Any]:
    """Return what the fake models do: one knows little, all others know everything."""
    # So that a batch can be paused, and cancelled, before it is over.
    slow = {"kind": "slow_headers", "containing": SLOW, "delay_s": 1.5}
    right = answers()
    little = dict(list(right.items())[::3])
    return {
        "models": {
            "small": {"answers": little, "answer": "It is 1.", "faults": [slow]},
            "*": {"answers": right, "answer": "It is 1.", "faults": [slow]},
        }
    }


def write_inputs(folder: Path, page: str, base_url: str) -> None:
    """Write what a page takes for given, with a pool of the fake models."""
    examples = folder / "examples"
    examples.mkdir(parents=True)
    shutil.copy(REPOSITORY / "examples" / "references.jsonl", examples)
    (examples / "demo.jsonl").write_text("\n".join(demo()))
    write_pools(folder, page, base_url)
    # Each page's are its own: `run` goes on with a file that was run before.
    count, verb = (40, SLOW) if page.endswith("budget") else (8, f"Name for {page}")
    asked = [{"prompt": f"{verb} {number}?"} for number in range(count)]
    write_rows(folder / "prompts.jsonl", asked)
    for name in ("questions.jsonl", "graded.jsonl"):
        write_rows(folder / name, sums())
    write_rows(
        folder / "references.jsonl", [{"custom_id": f"row-{n}", "answer": "1"} for n in range(40)]
    )
    write_tables(folder)


def write_pools(folder: Path, page: str, base_url: str) -> None:
    """Write the page's own pool, at the fake models' address, or one of two models."""
    pool = json.loads(write_pool(folder / "pool.yaml", base_url).read_text())
    for model, price in zip(pool["models"], ("0.01", "0.1"), strict=True):
        model["price_usd_per_mtok"] = {"prompt": price, "completion": price}
    if page.endswith("new-model"):
        pool["models"].append(pool["models"][1] | {"name": "new"})
    for path in (folder / "pool.yaml", folder / "examples" / "pool.yaml"):
        path.write_text(json.dumps(pool))
    found = POOL.search((REPOSITORY / f"{page}.md").read_text())
    if found:
        text = re.sub(r'"https?://[^"]*"', f'"{base_url}"', textwrap.dedent(found["body"]))
        (folder / "pool.yaml").write_text(text.replace(", api_key_env: EXAMPLE_KEY", ""))


def write_tables(folder: Path) -> None:
    """Write a table of reviews, and a dataset's folder."""
    with (folder / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("review_id", "text"))
        writer.writerows((f"r-{number}", f"Review {number}, please") for number in range(5))
    (folder / "gsm8k" / "main").mkdir(parents=True)
    rows = [{"question": f"Name {n}.", "language": "English", "hint": ""} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "gsm8k/main/test-00000-of-00001.parquet")
    (folder / "open.sql").write_text("SELECT id AS custom_id, text AS prompt FROM mails")


class Reader:
    """Types pages' commands into a shell, each page's in a folder of its own.

    Args:
        stack: Where the commands work.
        base_url: Of the fake models.
        programs: Folders of our programs, and of those of the database's version.
        folder: An empty folder.
    """

    def __init__(
        self, stack: LocalStack, base_url: str, programs: tuple[Path, Path], folder: Path
    ) -> None:
        self._stack, self._base_url, self._programs = stack, base_url, programs
        self._folder = folder
        database_url = EmbeddedPostgres(stack.home).url
        self._copy_url = database_url.replace("/routoo?", f"/{COPY}?")
        assert self._copy_url != database_url
        self._own = {
            "postgresql://user@host/new": shlex.quote(self._copy_url),
            "postgresql://routoo:PASSWORD@db.internal:5432/routoo": shlex.quote(database_url),
            "amqp://routoo:PASSWORD@mq.internal:5672//": EmbeddedValkey(stack.home).url,
            "/shared/checkpoints/july": str(folder / "nightly" / "checkpoints" / "next"),
            "https://ops.example/": "http://127.0.0.1:1/",
            "routoo-producer run ": "routoo-producer run --yes ",  # no terminal to ask on
            "routoo train ": "routoo train --no-curve ",  # which takes as long as the fit
        }

    def folder_of(self, page: str) -> Path:
        return self._folder / Path(page).name

    def types(self, page: str) -> str:
        """Type a page's commands and return what they said."""
        folder = self.folder_of(page)
        write_inputs(folder, page, self._base_url)
        if page.endswith("new-model"):
            shutil.copytree(self.folder_of("own-data") / "checkpoint", folder / "checkpoint")
            shutil.copy(self.folder_of("own-data") / "outcomes.parquet", folder)
        done = subprocess.run(
            ["bash", "-eux", "-o", "pipefail", "-c", self._commands_of(page)],
            cwd=folder,
            env=self._stack.environ
            | {
                "PATH": ":".join(map(str, (*self._programs, BIN, os.environ["PATH"]))),
                "ROUTOO_POOL": str(folder / "pool.yaml"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self._remove_schedules()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def _remove_schedules(self) -> None:
        """Let nothing fire among other pages and tests, and free the names."""
        named = "SELECT name FROM schedules WHERE name IN ('nightly', 'mail', 'open')"
        for (name,) in self._stack.query(named):
            self._stack.command("routoo-producer", "schedule", "remove", name)

    def _commands_of(self, page: str) -> str:
        text = (REPOSITORY / f"{page}.md").read_text()
        blocks = [found for found in BLOCK.finditer(text) if not found["mark"]]
        assert blocks, page
        return "".join(map(self._typed, blocks))

    def _typed(self, block: re.Match[str]) -> str:
        """Return a block with the reader's own servers in it."""
        body = textwrap.dedent(block["body"])
        for example, own in self._own.items():
            body = body.replace(example, own)
        if block["language"] == "python":
            return f"python - <<'END'\n{body}END\n"
        if LEARNS.search(body):
            return f"(\nexport ROUTOO_DATABASE_URL='{self._copy_url}'\n{body})\n"
        return body


@pytest.fixture(scope="module")
def reader(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Someone with a stack, models, and an empty database to restore into."""
    with psycopg.connect(EmbeddedPostgres(stack.home).url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {COPY}")
        with FakeServerProcess(script()) as server, warm_programs() as programs:
            found = (programs, EmbeddedPostgres(stack.home).client("pg_restore").parent)
            yield Reader(stack, server.base_url, found, tmp_path_factory.mktemp("docs"))
        conn.execute(f"DROP DATABASE {COPY} WITH (FORCE)")


@pytest.mark.parametrize("page", RUN, ids=lambda page: Path(page).name)
def test_a_pages_commands_run_in_their_order(reader: Reader, page: str) -> None:
    said = reader.types(page)
    if page == "docs/tutorial":
        assert f"{JOBS} of {JOBS} answered" in said
        answers_file = reader.folder_of(page) / "answers.jsonl"
        assert len(answers_file.read_text().splitlines()) == JOBS


def test_every_page_with_commands_is_run() -> None:
    pages = {path.relative_to(REPOSITORY).with_suffix("").as_posix(): path for path in PAGES}
    pages = {page: BLOCK.finditer(path.read_text()) for page, path in pages.items()}
    shell = {
        page
        for page, blocks in pages.items()
        if any(found["language"] == "sh" and not found["mark"] for found in blocks)
    }
    assert shell == set(RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_stand_in_shell_blocks(page: Path) -> None:
    blocks = check_docs()._BLOCK.findall(page.read_text())
    assert {language for _, language, body in blocks if COMMAND.search(body)} <= {"sh", "text"}


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
