"""Check that the commands, options and files that the documentation names exist.

Reads every fenced block of README.md and docs/*.md, takes the lines that start with one of our
commands, and asks that command's --help for each subcommand and option named.
"""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("routoo", "routoo-producer", "routoo-worker")


def main() -> int:
    """Print every problem; return 1 if there is one."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/README.md"))]
    problems = [problem for page in pages for problem in _problems(page)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(pages)} pages checked, {len(problems)} problems")
    return 1 if problems else 0


def _problems(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found += [f"{page.name}: {line.strip()}: {what}" for what in _check(line)]
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        if not (page.parent / target).exists():
            found.append(f"{page.name}: link to {target}, which does not exist")
    return found


def _check(line: str) -> list[str]:
    line = re.sub(r"^\s*(\$ |[A-Z_]+=\S+ )*", "", line).split(" #")[0].split(" | ")[0]
    line = line.removeprefix(".venv/bin/")
    if line.startswith("make "):
        targets = [word for word in line.split()[1:] if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
        return [f"no make target {target}" for target in targets if target not in known]
    words = line.split(maxsplit=1)
    if not words or words[0] not in PROGRAMS:
        return []
    return _check_command(shlex.split(line))


def _check_command(words: list[str]) -> list[str]:
    command, rest = words[:1], words[1:]
    while rest and rest[0] in _subcommands(tuple(command)):
        command.append(rest.pop(0))
    help_text = _help(tuple(command))
    if help_text is None:
        return [f"{' '.join(command)} --help fails"]
    if len(command) == 1 and rest and not rest[0].startswith("-"):
        return [f"no subcommand {rest[0]}"]
    options = [word.split("=")[0] for word in rest if word.startswith("--") and word != "--help"]
    return [f"no option {o}" for o in options if not re.search(rf"{o}\b", help_text)]


def _subcommands(command: tuple[str, ...]) -> set[str]:
    text = _help(command) or ""
    return set(re.findall(r"^[\s│|]+([a-z][a-z0-9-]+)\s{2,}", text, re.MULTILINE))


@cache
def _help(command: tuple[str, ...]) -> str | None:
    program = ROOT / ".venv" / "bin" / command[0]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    run = subprocess.run(
        [program, *command[1:], "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return run.stdout if run.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
