"""Gives a command options from a record, which several commands share, as one argument."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def with_options(record: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a record's fields to a command's options.

    typer reads options from a function's signature and knows no records. So the decorated command
    has the fields as parameters of its own, and the function receives them as one record, its
    parameter `options`.

    Args:
        record: A dataclass whose fields are annotated as typer wants parameters to be.
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
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [part for part in signature.parameters.values() if part.name != "options"]
        before = [part for part in own if part.kind is not inspect.Parameter.KEYWORD_ONLY]
        after = [part for part in own if part.kind is inspect.Parameter.KEYWORD_ONLY]

        @functools.wraps(command)
        def flat(*args: Any, **values: Any) -> None:
            options = record(**{part.name: values.pop(part.name) for part in shared})
            command(*args, options=options, **values)

        parameters = [*before, *shared, *after]
        flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        flat.__annotations__ = {part.name: part.annotation for part in parameters}
        return flat

    return decorate
