"""Standard output loses nothing, and tables fit the screen: what is narrowed and left out."""

import io
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from routoo.console.output import (
    FittedTable,
    TableColumn,
    buffer_standard_output,
    console,
    messages,
    report_table,
)
from routoo.files import replacing

AT_MOST = 65_536


class ShortPipe(io.RawIOBase):
    """Takes a part of a long write, as a full pipe does when a signal comes in between."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)[:AT_MOST]
        self.taken += part
        return len(part)


def unbuffered(pipe: ShortPipe) -> Any:
    return io.TextIOWrapper(pipe, encoding="utf-8", write_through=True)  # type: ignore[type-var]


def test_an_unbuffered_standard_output_loses_what_a_pipe_does_not_take() -> None:
    pipe = ShortPipe()
    unbuffered(pipe).write("x" * (3 * AT_MOST))
    assert len(pipe.taken) < 3 * AT_MOST  # Python's own behaviour: why the module exists


def test_texts_and_bytes_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = ShortPipe()
    monkeypatch.setattr(sys, "stdout", unbuffered(pipe))
    buffer_standard_output()
    sys.stdout.write("x" * (3 * AT_MOST) + "\n")
    with replacing(None) as stream:
        stream.write(b"y" * (3 * AT_MOST))
    assert pipe.taken == b"x" * (3 * AT_MOST) + b"\n" + b"y" * (3 * AT_MOST)


def test_a_worker_without_a_buffer_is_told_of_sigterm() -> None:
    program = """if True:
        import os, signal, sys
        from celery import signals
        from celery.apps.worker import install_worker_term_handler
        from routoo.console.output import buffer_standard_output

        class Worker:
            hostname = "me"

        buffer_standard_output()
        signals.worker_shutting_down.connect(lambda **_: print("told"), weak=False)
        install_worker_term_handler(Worker())
        os.kill(os.getpid(), signal.SIGTERM)
    """
    ended = subprocess.run(
        [sys.executable, "-u", "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "told" in ended.stdout


def test_a_buffered_standard_output_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    buffered = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", buffered)
    buffer_standard_output()
    assert sys.stdout is buffered


def test_a_pipe_is_wide() -> None:
    assert console().width > 120


def test_a_name_too_long_for_its_cell_goes_on_in_the_next_line() -> None:
    name = "mixtral-8x7b-instruct-v0.1"
    table = report_table("model", "AUC", "quality")
    table.add_row(name, "0.754", "0.820 [0.811 to 0.829]")
    screen = Console(width=40, file=io.StringIO(), legacy_windows=False)
    screen.print(table)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    cells = (line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert "".join(cells) == name


def test_names_and_answers_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = report_table("model")
    table.add_row("tuned[b]:key:[/]")
    console().print(table)
    messages().print("no such model: tuned[b]:key:")
    seen = capsys.readouterr()
    assert "tuned[b]:key:[/]" in seen.out
    assert "tuned[b]:key:" in seen.err


def results(*, answer: str = "The capital of Portugal is Lisbon.") -> FittedTable:
    table = FittedTable(
        TableColumn(title="custom_id", least=10),
        TableColumn(title="status"),
        TableColumn(title="model", least=20),
        TableColumn(title="answer", least=24),
        TableColumn(title="graded", rank=1, right=True),
        TableColumn(title="cost", rank=2, right=True),
        TableColumn(title="latency", rank=3, right=True),
    )
    model = "qwen2.5-coder-1.5b-instruct"
    cells = ("geography-00001", "succeeded", model, answer, "1.00", "$0.00000123", "0.10 s")
    table.add_row(*cells)
    return table


def shown(table: FittedTable, width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, markup=False)
    screen.print(table)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_wide_screen_shows_every_column_whole() -> None:
    header, row = shown(results(), 200)
    assert header.split() == ["custom_id", "status", "model", "answer", "graded", "cost", "latency"]
    assert "qwen2.5-coder-1.5b-instruct  The capital of Portugal is Lisbon.  " in row


def test_a_narrow_screen_keeps_the_answer_and_names_what_it_leaves_out() -> None:
    header, row, note = shown(results(), 80)
    assert header.split() == ["custom_id", "status", "model", "answer", "graded"]
    assert "The capital of Portugal" in row
    assert note == "for a wider screen or --json: cost, latency"


def test_a_narrow_screen_folds_what_may_be_folded() -> None:
    table = FittedTable(TableColumn(title="why", least=10, fold=True), TableColumn(title="status"))
    table.add_row("the endpoint was away", "completed")
    lines = shown(table, 24)
    assert all("…" not in line for line in lines)
    assert "completed" in lines[1]


def test_a_column_that_says_nothing_goes_first() -> None:
    table = FittedTable(
        TableColumn(title="answer"),
        *(TableColumn(title=t, rank=r) for t, r in (("graded", 1), ("cost", 2))),
    )
    table.add_row("yes", "-", "$1")
    assert list(table.widths(14)) == [0, 2]


@given(
    st.integers(40, 300),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(1, 8)), min_size=1),
)
def test_columns_fit_the_screen_or_only_those_that_must_stay_are_left(
    screen: int, columns: list[tuple[int, int, int]]
) -> None:
    table = FittedTable(
        *(TableColumn(title="x", rank=rank, least=least) for _, rank, least in columns)
    )
    table.add_row(*("y" * natural for natural, _, _ in columns))
    widths = table.widths(screen)
    needed = sum(widths.values()) + 2 * (len(widths) - 1)
    staying = {no for no, (_, rank, _) in enumerate(columns) if rank == 0}
    assert needed <= screen or set(widths) == staying
    assert staying <= set(widths)
    assert list(widths) == sorted(widths)
