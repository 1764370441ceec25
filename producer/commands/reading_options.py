"""Turns an option's text into its value, or into a message that names the option."""

from collections.abc import Callable
from typing import TypeVar

from producer.rows.problems import LimitError
from routoo.errors import InputError

Value = TypeVar("Value")


def read_option(option: str, read: Callable[[object], Value], value: str | None) -> Value | None:
    """Return what a reader makes of an option's text, None where the option was not given.

    Raises:
        InputError: The reader refused it.
    """
    if value is None:
        return None
    try:
        return read(value)
    except LimitError as error:
        problem = error.problem
        raise InputError(
            problem.what, value=problem.value, where=option, remedy=problem.remedy
        ) from None
