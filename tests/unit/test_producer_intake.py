"""Properties of reading rows, and of what the producer loads."""

import importlib
import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.cli import COMMANDS
from producer.progress import Rate
from producer.rows import csv_rows, jsonl_rows
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck
from producer.rows.limits import LimitError, read_deadline
from producer.rows.report import ProblemReport
from producer.rows.seen_ids import SeenIds
from routoo.domain.job import SLA
from routoo.files import replacing
from tests.batch_factory import pool_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@given(st.lists(st.lists(st.integers(0, 300).map(str), max_size=40), max_size=20))
def test_repeats_are_found_like_a_dictionary_would(chunks: list[list[str]]) -> None:
    seen, first_lines, line = SeenIds(), dict[str, int](), 0
    for chunk in chunks:
        lines = list(range(line + 1, line + 1 + len(chunk)))
        found = seen.add(chunk, lines).tolist()
        expected = []
        for custom_id, number in zip(chunk, lines, strict=True):
            expected.append(first_lines.get(custom_id, 0))
            first_lines.setdefault(custom_id, number)
        assert found == expected
        line += len(chunk)


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(
            [b'{"prompt": "x"}', b'{"body": {}}', b'{"prompt": "\\ud800"}', b"[" * 2000]
        ),
    ),
    max_size=10,
)


@given(LINES)
def test_any_line_is_a_job_or_a_problem(lines: list[bytes]) -> None:
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    checked = InputCheck(check, ProblemReport("in"))
    data = b"\n".join(lines)
    jobs = [job for chunk in checked.jobs(jsonl_rows.read(io.BytesIO(data), "in")) for job in chunk]
    assert len(jobs) + checked.report.bad_rows == checked.row_count


@given(LINES)
def test_any_csv_row_is_a_job_or_a_problem(lines: list[bytes]) -> None:
    check = RowCheck(BodyCheck(pool_of("small")), SLA(), NOW)
    checked = InputCheck(check, ProblemReport("in"))
    data = b"\n".join([b"custom_id,prompt,max_tokens", *lines])
    jobs = [job for chunk in checked.jobs(csv_rows.read(io.BytesIO(data), "in")) for job in chunk]
    assert len(jobs) + checked.report.bad_rows == checked.row_count


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("2h", timedelta(hours=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5d", timedelta(hours=36)),
        ("2026-11-01T03:00:00+02:00", timedelta(hours=1)),
    ],
)
def test_a_deadline_is_an_instant_or_a_time_from_now(text: str, ahead: timedelta) -> None:
    assert read_deadline(text, NOW) == NOW + ahead


@pytest.mark.parametrize("text", ["", "2", "h", "2h later", "0s", "9e9d", "99999999999d", 7, None])
def test_anything_else_is_no_deadline(text: object) -> None:
    with pytest.raises(LimitError):
        read_deadline(text, NOW)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as stream:
        stream.write(b"whole")
    assert path.read_text() == "whole"
    assert [found.name for found in tmp_path.iterdir()] == ["out.jsonl"]


def test_the_time_left_follows_the_last_half_minute() -> None:
    rate = Rate()
    assert rate.eta_s(0.0, 0, 100) is None
    assert rate.eta_s(10.0, 10, 100) == 90.0
    assert rate.eta_s(100.0, 10, 100) is None
    assert rate.eta_s(110.0, 60, 100) == 8.0


def test_the_producer_loads_no_machine_learning() -> None:
    program = """
import importlib, pkgutil, sys, producer
for module in pkgutil.walk_packages(producer.__path__, "producer."):
    importlib.import_module(module.name)
heavy = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "xllamacpp"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


HELP_PAGES = """
import contextlib, io, sys
from typer.main import get_command
from producer.cli import COMMANDS, build_app
app = get_command(build_app())
for arguments in ([], *([name] for name in COMMANDS), ["eval", "run"], ["schedule", "add"]):
    with contextlib.redirect_stdout(io.StringIO()) as page:
        app.main([*arguments, "--help"], standalone_mode=False)
    assert "Usage" in page.getvalue(), arguments
"""


def test_help_pages_load_no_library_that_only_work_needs() -> None:
    program = (
        HELP_PAGES
        + """
heavy = {"psycopg", "sqlmodel", "numpy", "rich", "pydantic_settings", "pyarrow", "kombu", "celery"}
print(sorted(heavy & sys.modules.keys()))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_plain_command_loads_neither_arrow_nor_alembic_nor_kombu() -> None:
    program = """
import sys
import producer.commands.results, producer.commands.watch, producer.control, producer.progress
import producer.queue, producer.results.export, producer.screen.progress, producer.submit
print(sorted({"pyarrow", "alembic", "kombu", "celery"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_list_of_commands_names_each_with_its_summary() -> None:
    for target, _ in COMMANDS.values():
        module, _, name = target.partition(":")
        assert hasattr(importlib.import_module(f"producer.commands.{module}"), name)
