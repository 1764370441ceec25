"""`routoo collect` as its users run it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.acceptance.stack import BIN
from tests.fakes.openai_process import FakeServerProcess
from tests.warm_commands import warm_routoo

ANSWERS = {"2 + 2": "The answer is 4.", "capital of Peru": "It is Lima."}
ITEMS = [
    {"item_id": "sum", "prompt": "What is 2 + 2?", "answer": "4"},
    {"item_id": "city", "prompt": "Name the capital of Peru.", "answer": "Lima"},
    {"item_id": "letter", "prompt": "Which?\nA. this\nB. that", "answer": "B", "max_tokens": 8},
]


def write_inputs(folder: Path, base_url: str) -> list[str]:
    model = {
        "endpoint": {"base_url": base_url, "max_concurrency": 2},
        "price_usd_per_mtok": {"prompt": 1, "completion": 2},
        "context_window_tokens": 4096,
    }
    models = [{"name": name, **model} for name in ("small", "large")]
    (folder / "pool.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    lines = "".join(json.dumps(item) + "\n" for item in ITEMS)
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    names = ["--pool", "pool.yaml", "--items", "items.jsonl", "--out", "out.parquet"]
    return [str(BIN / "routoo"), "collect", *names]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return warm_routoo.run(command[1:], environ=environment, cwd=folder)


def script(**large: Any) -> dict[str, Any]:
    small = {"answers": ANSWERS, "answer": "A or B"}
    return {"models": {"small": small, "large": {"answers": ANSWERS, "answer": "**B**", **large}}}


def test_answers_are_graded_priced_and_written(tmp_path: Path) -> None:
    with FakeServerProcess(script()) as server:
        command = write_inputs(tmp_path, server.base_url)
        done = run([*command, "--json", "--keep-answers"], tmp_path)
        assert done.returncode == 0, done.stderr
        billed = server.log()
    summary = json.loads(done.stdout)
    said = pq.read_table(tmp_path / "out_answers.parquet").to_pylist()
    assert {(row["item_id"], row["model"], row["answer"]) for row in said} >= {
        ("sum", "small", "The answer is 4."),
        ("letter", "large", "**B**"),
    }
    assert {row["finish_reason"] for row in said} == {"stop"}
    assert [entry["model"] for entry in summary["models"]] == ["small", "large"]
    assert [entry["score"] for entry in summary["models"]] == [1, 1]
    assert [entry["ungraded"] for entry in summary["models"]] == [1, 0]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {(row["item_id"], row["model"]): row["score"] for row in table} == {
        ("sum", "small"): 1,
        ("sum", "large"): 1,
        ("city", "small"): 1,
        ("city", "large"): 1,
        ("letter", "small"): None,
        ("letter", "large"): 1,
    }
    cost = sum(row["prompt_tokens"] + 2 * row["completion_tokens"] for row in billed) / 1e6
    assert sum(row["cost_usd"] for row in table) == pytest.approx(cost)
    assert {row["answer"] for row in table} >= {"The answer is 4.", "It is Lima."}


def test_failures_are_listed_and_only_they_are_asked_again(tmp_path: Path) -> None:
    fault = {"kind": "status", "status": 400, "containing": "Peru"}
    with FakeServerProcess(script(faults=[fault])) as server:
        command = write_inputs(tmp_path, server.base_url)
        first = run(command, tmp_path)
        assert first.returncode == 5
        assert "failed: city, large" in first.stderr.replace("\n", " ")
        assert pq.read_table(tmp_path / "out.parquet").num_rows == 5
        server.set_script(script())
        server.clear_log()
        assert run(command, tmp_path).returncode == 0
        assert [row["prompt"] for row in server.log()] == [ITEMS[1]["prompt"]]
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 6


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fault = {"kind": "hang", "containing": "Which?"}
    with FakeServerProcess(script(faults=[fault])) as server:
        command = write_inputs(tmp_path, server.base_url)
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            journal = tmp_path / "out.parquet.journal.jsonl"
            while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate()
        assert process.returncode == 130
        assert "Run again" in shown
        assert "Traceback" not in shown
        assert not (tmp_path / "out.parquet").exists()
        server.set_script(script())
        server.clear_log()
        assert run(command, tmp_path).returncode == 0
        assert [row["model"] for row in server.log()] == ["large"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--models", "small,huge"], "huge"),
        (["--model", "small", "--model", "huge"], "huge"),
        (["--pool", "gone.yaml"], "gone.yaml"),
        (["--items", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_bad_input_is_a_message_and_exit_status_2(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    done = run([*write_inputs(tmp_path, "http://127.0.0.1:1/v1"), *arguments], tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_is_named_before_any_call(tmp_path: Path) -> None:
    command = write_inputs(tmp_path, "http://127.0.0.1:1/v1")
    pool = tmp_path / "pool.yaml"
    text = pool.read_text(encoding="utf-8").replace(
        '"max_concurrency": 2', '"max_concurrency": 2, "api_key_env": "NO_SUCH_KEY"'
    )
    pool.write_text(text, encoding="utf-8")
    done = run(command, tmp_path)
    assert done.returncode == 2
    assert "NO_SUCH_KEY" in done.stderr


def test_collecting_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['routoo', 'collect', '--help']\n"
        "from routoo.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_budget_is_kept_and_the_rest_is_named(tmp_path: Path) -> None:
    with FakeServerProcess(script()) as server:
        command = write_inputs(tmp_path, server.base_url)
        items = [{"item_id": f"q{n}", "prompt": "2 + 2", "answer": "4"} for n in range(40)]
        lines = "".join(json.dumps({**item, "max_tokens": 20}) + "\n" for item in items)
        (tmp_path / "items.jsonl").write_text(lines, encoding="utf-8")
        done = run([*command, "--json", "--budget-usd", "0.0004"], tmp_path)
        billed = server.log()
    assert done.returncode == 5, done.stderr
    assert "80 calls to make" in done.stderr
    assert "$0.0004" in done.stderr
    failed = json.loads(done.stdout)["failures"]
    assert {one["code"] for one in failed} == {"budget_exhausted"}
    tokens = [(one["prompt_tokens"], one["completion_tokens"]) for one in billed]
    assert 0 < sum(prompt + 2 * completion for prompt, completion in tokens) / 1e6 <= 0.0004


def test_items_without_a_reference_are_refused_unless_they_are_wanted(tmp_path: Path) -> None:
    with FakeServerProcess(script()) as server:
        command = write_inputs(tmp_path, server.base_url)
        (tmp_path / "items.jsonl").write_text('{"item_id": "a", "prompt": "x"}\n')
        refused = run(command, tmp_path)
        assert refused.returncode == 2
        assert "--ungraded" in refused.stderr
        assert server.log() == []
        assert run([*command, "--ungraded"], tmp_path).returncode == 0
