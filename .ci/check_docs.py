"""Check that the commands, options, links and paths of the documentation are right.

Reads every shell block of README.md, docs/ and the folders' README.md, and lets each of our
commands read its arguments as if it were typed: unknown commands and options, missing arguments
and values of the wrong kind are problems. Nothing is run: `tests/acceptance/test_docs.py` runs
the blocks. One that can't run on a test machine says why: `<!-- not run: REASON -->` before it.
"""

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / ".ci" / "site")]

from reference_commands import PROGRAMS  # noqa: E402 - the folder is no package

GENERATED = ROOT / "docs" / "reference"
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")
"""A command within a sentence, which may leave out its arguments."""
_NOT_OURS = frozenset({".git", ".venv", "shared"})
_PROGRAM = re.compile("|".join(PROGRAMS))
_SHELL = frozenset({"", "sh", "bash", "console"})
_FOLDERS = "routoo|producer|worker|tests|benchmarks|docker|examples|migrations"
_PATH = re.compile(
    r"`([\w.-]+(?:/[\w.-]+)*(?:\.(?:py|toml|yaml|html|css|md)|/)"
    rf"|(?:{_FOLDERS})/[\w./-]+)`(?! \(new\))"
)
"""A file or a folder of the repository; one that a change adds is marked as new."""
_FOREIGN = re.compile(r"NAME|pool\.yaml|^\.|\.env$|^site-packages|^routoo/auto$")
"""Paths of the reader's own, and the name of a model."""
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def main() -> int:
    """Print every problem; return 1 if there is one."""
    pages = [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("*/README.md")),
    ]
    problems = [problem for page in pages for problem in problems_of(page)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(pages)} pages checked, {len(problems)} problems")
    return 1 if problems else 0


def problems_of(page: Path) -> list[str]:
    """Return what is wrong with a page's commands and links."""
    text = page.read_text(encoding="utf-8")
    found = []
    inline = [f"{code} ..." for code in _INLINE.findall(_BLOCK.sub("", text))]
    for line in shell_lines(text) + inline:
        found += [f"{page.name}: {line}: {what}" for what in _check(line)]
    for target in _LINK.findall(text):
        path = (page.parent / target).resolve()
        if not path.exists() and not path.is_relative_to(GENERATED):  # MkDocs checks those
            found.append(f"{page.name}: link to {target}, which does not exist")
    return found + [f"{page.name}: {path} does not exist" for path in unknown_paths(text)]


def unknown_paths(text: str) -> list[str]:
    """Return the files and folders that a page names and the repository doesn't have.

    A path may leave out its beginning, as `formats/openai.py`.
    """
    named = dict.fromkeys(_PATH.findall(_BLOCK.sub("", text)))
    return [path for path in named if not (_FOREIGN.search(path) or _is_known(path.rstrip("/")))]


def _is_known(path: str) -> bool:
    return any(known == path or known.endswith(f"/{path}") for known in _known_paths())


@cache
def _known_paths() -> frozenset[str]:
    """Return the paths of all files and folders, from the repository's root."""
    kept = (one for one in ROOT.iterdir() if one.name not in _NOT_OURS)
    below = (path for one in kept for path in (one, *one.rglob("*")))
    return frozenset(path.relative_to(ROOT).as_posix() for path in below)


def shell_lines(text: str) -> list[str]:
    """Return the commands of a page's shell blocks, one a line, as they are typed."""
    blocks = [body for _, language, body in _BLOCK.findall(text) if language in _SHELL]
    lines = [line.strip() for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line]


def _check(line: str) -> list[str]:
    line = re.sub(r"(^|\s)#\s.*", "", line)
    line = re.sub(r"^docker compose .* producer ", "routoo-producer ", line)
    try:
        commands = list(_commands(line))
    except ValueError as error:
        return [f"a shell can't read this: {error}"] if _PROGRAM.match(line) else []
    return [problem for words in commands for problem in _check_command(words)]


def _commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, without variables and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if set(token) <= set("<>"):
            next(tokens, None)
        elif set(token) <= set(";|&"):
            yield words
            words = []
        elif words or not re.match(r"[A-Z_]+=", token):
            words.append(token)
    yield words


def _check_command(words: list[str]) -> list[str]:
    if not words:
        return []
    name = words[0].removeprefix(".venv/bin/")
    if name == "make":
        return _check_make(words[1:])
    return _parse(name, words[1:]) if name in PROGRAMS else []


def _check_make(words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    targets = [word for word in words if "=" not in word]
    return [f"no make target {target}" for target in targets if target not in known]


def _parse(name: str, words: list[str]) -> list[str]:
    """Return why a command can't read its arguments; words that stand for the reader's will do."""
    command, parent, words = _find(name, words)
    if _is_group(command):
        return [f"no subcommand {words[0]}"] if words and not words[0].startswith("-") else []
    if "..." in words:
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        return [f"no option {option}" for option in sorted(given - known - {"--help"})]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            command.make_context(command.name, list(words), parent=parent)
    except typer.Exit:  # of --help
        return []
    except typer.TyperException as error:
        return [error.format_message()]
    return []


def _find(name: str, words: list[str]) -> tuple[Any, Any, list[str]]:
    """Return the command that words name, the context of its group, and its arguments."""
    command, context = _program(name), None
    while True:
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        command = context.command  # one that is imported late gives way to the command itself
        found = command.get_command(context, words[0]) if _is_group(command) and words else None
        if found is None:
            return command, context.parent, words
        name, command, words = words[0], found, words[1:]


def _is_group(command: object) -> bool:
    return isinstance(command, TyperGroup)


@cache
def _program(name: str) -> Any:  # noqa: ANN401 - the class is typer's own
    return get_group(PROGRAMS[name])


if __name__ == "__main__":
    os.environ.setdefault("ROUTOO_HOME", "/nonexistent")  # nothing is read of the user's
    sys.exit(main())
