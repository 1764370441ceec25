"""The page docs/python.md, run block by block, as its reader would in a notebook."""

import re
from pathlib import Path

import pytest

from routoo.settings import REPOSITORY
from tests.acceptance.batch import write_pool
from tests.acceptance.stack import LocalStack
from tests.fakes.openai_process import FakeServerProcess

PAGE = REPOSITORY / "docs" / "python.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_runs_from_top_to_bottom(
    stack: LocalStack,
    checkpoint: Path,
    server: FakeServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pool(tmp_path / "pool.yaml", server.base_url)
    (tmp_path / "checkpoint").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    for name, value in stack.environ.items():
        monkeypatch.setenv(name, value)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(), 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)  # noqa: S102 - ours
    assert len(blocks()) > 5
    assert len(server.log()) == 24
    assert "starting the stack" not in capsys.readouterr().err  # workers lived
