"""Standard output loses nothing."""

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from routoo.console.output import buffer_standard_output, console, messages, report_table
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
