"""Makes prompts of a table's columns: `Translate to {language}: {text}`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from producer.rows.formats import PLAIN_FIELDS, RawRow, id_text
from producer.rows.problems import ProblemKind, RowProblem
from routoo.errors import InputError

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_REMEDY = "Write {NAME} for a column, {{ and }} for braces that are meant as such"
_OPTIONAL = "?"
_NAMES_SHOWN = 10


class _FillError(ValueError):
    """A row can't fill a template; carries the problem."""

    def __init__(self, problem: RowProblem) -> None:
        self.problem = problem
        super().__init__(str(problem))


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places for columns.

    `{NAME}` stands for a row's value, which must be there and must not be empty; `{NAME?}` is left
    out where it isn't. `{{` and `}}` stand for braces.
    """

    parts: tuple[tuple[str, str | None], ...]
    """Pairs of a literal text and the column behind it; None where none follows."""

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a template.

        Args:
            text: The template.
            where: The option that it is from, for messages.

        Raises:
            InputError: A brace is open, or a place has no name; or it names no column at all.
        """
        parts: list[tuple[str, str | None]] = []
        literal, at = "", 0
        for mark in _PART.finditer(text):
            literal += text[at : mark.start()]
            at = mark.end()
            name = mark[1]
            if name is not None and name.strip().removesuffix(_OPTIONAL):
                parts.append((literal, name.strip()))
                literal = ""
            elif mark[0] in {"{{", "}}"}:
                literal += mark[0][0]
            else:
                what = "the template has a brace that belongs to no column"
                raise InputError(what, value=text[mark.start() :][:40], where=where, remedy=_REMEDY)
        parts.append((literal + text[at:], None))
        return cls(tuple(parts))

    @property
    def columns(self) -> Iterator[str]:
        """Names as they stand in the template, a mark of an optional one included."""
        return (name for _, name in self.parts if name is not None)

    def fill(self, fields: Mapping[str, Any]) -> str:
        """Return the text for a row.

        Raises:
            _FillError: A column is not there or has no value.
        """
        return "".join(
            text if name is None else text + _value(name, fields) for text, name in self.parts
        )


def _value(name: str, fields: Mapping[str, Any]) -> str:
    optional = name.endswith(_OPTIONAL) and name not in fields
    column = name.removesuffix(_OPTIONAL) if optional else name
    value = fields.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        if optional:
            return ""
        raise _FillError(_missing(column, fields))
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=_plain).decode()
    except orjson.JSONEncodeError:
        what, remedy = f"column {column!r} is neither text nor JSON", "Take it out of the template"
        raise _FillError(RowProblem(ProblemKind.WRONG_TYPE, what, remedy)) from None


def _plain(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        raise TypeError
    return str(value)  # dates, exact numbers


def _missing(column: str, fields: Mapping[str, Any]) -> RowProblem:
    what = f"the template's column {column!r} is empty in this row"
    if column not in fields:
        names = ", ".join(list(fields)[:_NAMES_SHOWN])
        what = f"the row has no value for {column!r}, which the template needs"
        what += f"; it has values for: {names}" if names else ""
    remedy = f"Fill it in, or write {{{column}?}} in the template where it may be empty"
    return RowProblem(ProblemKind.MISSING_FIELD, what, remedy)


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """What a row is made of, where its columns are somebody's own."""

    prompt: Template | None = None
    """Of the prompt; the column `prompt` where unset."""
    system: Template | None = None
    """Of the system message; the column `system` where unset."""
    id_column: str | None = None
    """Column of the custom_ids; `custom_id` or `item_id` where unset."""
    kept: frozenset[str] = frozenset()
    """Fields of a row that keep their meaning, such as limits."""

    @property
    def needed(self) -> frozenset[str]:
        """The columns without which a table is of no use."""
        found = set() if self.prompt is not None else {"prompt"}
        for template in filter(None, (self.prompt, self.system)):
            found |= {name for name in template.columns if not name.endswith(_OPTIONAL)}
        return frozenset(found | ({self.id_column} if self.id_column else set()))

    @property
    def read(self) -> frozenset[str]:
        """Every column that has a meaning."""
        optional = {
            name.removesuffix(_OPTIONAL)
            for template in filter(None, (self.prompt, self.system))
            for name in template.columns
        }
        return self.needed | optional | self.kept

    def apply(self, row: RawRow) -> RawRow:
        """Return a row with prompt, system message and custom_id, or with the problem."""
        fields = row.fields
        if not isinstance(fields, dict):
            return row
        made = {name: fields[name] for name in self.kept & fields.keys()}
        try:
            if self.prompt is not None:
                made["prompt"] = self.prompt.fill(fields)
            if self.system is not None:
                made["system"] = self.system.fill(fields)
            if self.id_column is not None:
                made["custom_id"] = _id(self.id_column, fields)
        except _FillError as error:
            return row._replace(fields=error.problem, compact=None)
        return row._replace(fields=made, compact=None)


def _id(column: str, fields: Mapping[str, Any]) -> str:
    value = fields.get(column)
    if value is None or value == "":
        remedy = "Fill it in, or name no column of ids: rows are then called row-1, row-2 and so on"
        what = f"the row has no value in the column of ids {column!r}"
        raise _FillError(RowProblem(ProblemKind.MISSING_FIELD, what, remedy))
    return id_text(value)


def filled(chunks: Iterator[list[RawRow]], template: RowTemplate | None) -> Iterator[list[RawRow]]:
    """Return rows with what a template makes of them; as they are without one."""
    if template is None:
        return chunks
    return ([template.apply(row) for row in chunk] for chunk in chunks)


def row_template(
    prompt: str | None, system: str | None, id_column: str | None, label: Callable[[str], str]
) -> RowTemplate | None:
    """Return what rows are made of, as options say; None where they say nothing.

    Args:
        prompt: Template of the prompt.
        system: Template of the system message.
        id_column: Column of the custom_ids.
        label: What messages call the options `template` and `system_template`.

    Raises:
        InputError: A template can't be read.
    """
    if prompt is None and system is None and id_column is None:
        return None
    return RowTemplate(
        None if prompt is None else Template.parse(prompt, label("template")),
        None if system is None else Template.parse(system, label("system_template")),
        id_column,
        PLAIN_FIELDS,
    )
