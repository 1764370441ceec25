"""What `make run` submits, and the commands of its closing screen."""

import shlex
from pathlib import Path

import pytest

from examples import demo
from routoo.settings import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def commands(home: Path) -> list[str]:
    pool = EXAMPLES / "pool.yaml"
    return [*(demo._look(home) | demo._again(home) | demo._yours(home, pool)).values()]


def test_the_demonstration_asks_the_first_questions_of_the_batch() -> None:
    asked = (EXAMPLES / "demo.jsonl").read_text().splitlines()
    batch = (EXAMPLES / "batch.jsonl").read_text().splitlines()
    assert asked == batch[: len(asked)]
    assert 100 <= len(asked) <= 160  # the first run stays under 6 minutes on two cores


def test_the_closing_commands_need_no_activated_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROUTOO_HOME", "ROUTOO_DATABASE_URL", "ROUTOO_BROKER_URL", "ROUTOO_DEMO"):
        monkeypatch.delenv(name, raising=False)
    for command in commands(tmp_path):
        program = shlex.split(command)[0]
        assert program in {"make", "echo"} or Path(program).is_absolute(), command


def test_the_closing_commands_name_what_another_shell_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTOO_HOME", "relative")
    monkeypatch.setenv("ROUTOO_DEMO", "small")
    home = tmp_path / "a home"
    for command in commands(home):
        words = shlex.split(command)
        if words[0] != "echo":
            assert f"ROUTOO_HOME={home}" in words, command
        assert ("ROUTOO_DEMO=small" in words) == ("make" in words), command
