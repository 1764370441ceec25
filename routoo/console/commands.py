"""Makes command groups whose commands are imported only when they run or show their own help.

A program lists its commands with a summary each, and the list appears without importing any:

    app = CommandGroup("Fit and measure predictors.")
    app.add_lazy("train", "routoo.cli.train:train", "Fit a predictor from outcome tables.")

Options that several commands share are the fields of a record, which `with_options` gives them.
"""

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand
from typer.main import get_command, get_group

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose help page is plain text: panels of options, then the examples.

    The section "Example:" or "Examples:" of the function's docstring is printed last, line by line
    as it stands. Options with a `rich_help_panel` form a section of that title.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        text, *examples = re.split(r"\n\nExamples?:\n", self.help or "")
        self.help = text
        # Whole: typer would cut a summary at 45 characters in a group's list.
        self.short_help = self.short_help or text.partition("\n\n")[0].replace("\n", " ")
        if examples and not self.epilog:
            lines = [line for line in inspect.cleandoc(examples[0]).splitlines() if line.strip()]
            # \b keeps the lines of a paragraph as they are.
            self.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and each panel of options as a section of its own."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = _help_record(param, ctx)
            if record is not None:
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                title = getattr(param, "rich_help_panel", None) or kind
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line: NAME must be given, [NAME] may be."""
        return [_REQUIRED.sub(r"\1", piece) for piece in super().collect_usage_pieces(ctx)]


_REQUIRED = re.compile(r"\{(.*)\}")
_TYPE = re.compile(r" <(?:list\[)?([^\[\]>]+)\]?>")
_EXTRAS = re.compile(r"  \[([^\[\]]*)\]$")
_RANGE = re.compile(r"(?:(\S+)<=)?x(?:<=(\S+)|>=(\S+))?$")
_PLACEHOLDERS = {"str": "TEXT", "Path": "PATH", "path": "PATH", "int": "N", "float": "X"}


def _help_record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """Return a parameter's name and help in one style, whatever its type.

    typer writes `--size <int range>` and `[default: 1; x>=0]`; here it is `--size N` and
    `(default: 1, at least 0)`.
    """
    record = param.get_help_record(ctx)
    if record is None:
        return None
    name, text = record
    if param.param_type_name == "argument":
        return _TYPE.sub("", name), _EXTRAS.sub(_plain_extras, text)
    return _TYPE.sub(_placeholder, name), _EXTRAS.sub(_plain_extras, text)


def _placeholder(kind: re.Match[str]) -> str:
    name = kind[1].removesuffix(" range")
    return f" {_PLACEHOLDERS.get(name, name)}"


def _plain_extras(extras: re.Match[str]) -> str:
    return f" ({', '.join(_plain_range(extra) for extra in extras[1].split('; '))})"


def _plain_range(extra: str) -> str:
    found = _RANGE.fullmatch(extra)
    if found is None:
        return extra
    low, high = found[1] or found[3], found[2]
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}"


class CommandGroup(typer.Typer):
    """A group of commands without boxes and traces of local variables.

    Args:
        description: Help text of the group.
        settings: Other settings of `typer.Typer`.
    """

    def __init__(self, description: str, **settings: Any) -> None:
        super().__init__(
            help=description,
            no_args_is_help=True,
            rich_markup_mode=None,  # boxes break commands that people copy; rich loads slowly
            pretty_exceptions_enable=False,  # it would print local variables, secrets too
            **settings,
        )
        # Without a callback typer would make a lone command the program itself.
        self.callback()(_group_options)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Return a decorator that adds a function as a command, as `typer.Typer.command` does."""
        return super().command(name, **{"cls": Command, **settings})

    def add_lazy(self, name: str, target: str, summary: str) -> None:
        """Add a command or group that is imported when it is run or its own help is shown.

        Args:
            name: As it is typed.
            target: `package.module:attribute` of the function, or of a group's `CommandGroup`.
            summary: Its line in the list of commands.
        """
        unloaded = type("Unloaded", (_Unloaded,), {"target": target})
        self.command(name, cls=unloaded, short_help=summary)(_do_nothing)


class _Unloaded(TyperCommand):
    """Stands for a command in its group's list, and gives way to it when it is named."""

    target = ""

    def make_context(self, info_name: str | None, *args: Any, **settings: Any) -> Any:
        """Import the command and return its context: from here on only the command is used."""
        return _load(self.target).make_context(info_name, *args, **settings)


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(cls=Command)(found)
    return get_command(alone)


def _show_version(ctx: typer.Context, *, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        typer.echo(f"{ctx.find_root().info_name} {version('routoo')}")
        raise typer.Exit


def _group_options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that every group has; each acts by itself."""


def _do_nothing() -> None:
    pass


def with_options(
    record: type, *, into: str = "options", without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a record's fields to a command's options.

    typer reads options from a function's signature and knows no records. So the decorated command
    has the fields as parameters of its own, and the function receives them as one record.

    Args:
        record: A dataclass whose fields are annotated as typer wants parameters to be.
        into: The function's parameter that receives the record.
        without: Fields that are no options of this command, and keep their defaults.
    """
    hints = get_type_hints(record, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(record)
        if field.name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [part for part in signature.parameters.values() if part.name != into]
        before = [part for part in own if part.kind is not inspect.Parameter.KEYWORD_ONLY]
        after = [part for part in own if part.kind is inspect.Parameter.KEYWORD_ONLY]

        @functools.wraps(command)
        def flat(*args: Any, **values: Any) -> None:
            options = record(**{part.name: values.pop(part.name) for part in shared})
            command(*args, **{into: options}, **values)

        parameters = [*before, *shared, *after]
        flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        flat.__annotations__ = {part.name: part.annotation for part in parameters}
        return flat

    return decorate
