"""PostgreSQL's COPY text format, built a block at a time.

Source: PostgreSQL documentation, COPY, "Text Format".
"""

from collections.abc import Sequence

NULL = r"\N"


def escaped(value: str) -> str:
    r"""Return a value with backslash, tab, newline and carriage return escaped."""
    # Four scans in C cost less than one translation table, and most values have none of the four.
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    return value


def field(value: object) -> str:
    r"""Return a number, instant or text as a field, None as `\N`."""
    return NULL if value is None else escaped(str(value))


def array(values: Sequence[str] | None) -> str | None:
    """Return texts as an array literal, not yet escaped as a field; None stays None.

    Source: PostgreSQL documentation, Arrays, "Array Input and Output Syntax".
    """
    if values is None:
        return None
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"
