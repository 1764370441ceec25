"""What a command says beside its output, on standard error."""

import sys

from producer.rows.report import ProblemReport


def note(text: str) -> None:
    """Say something that is no part of the output."""
    # Paths and names may hold bytes that the terminal's encoding has no sign for.
    encoding = sys.stderr.encoding or "utf-8"
    printable = text.encode(encoding, errors="backslashreplace").decode(encoding)
    sys.stderr.write(f"{printable}\n")


def print_problems(report: ProblemReport) -> None:
    """List what is wrong with an input."""
    for line in report.lines():
        note(line)
