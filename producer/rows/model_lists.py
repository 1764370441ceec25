"""Reads lists of candidate models from what a row or an option says."""

from collections.abc import Collection

from producer.rows.problems import Kind, LimitError, Problem

_NAMES_SHOWN = 10


def read_models(name: str, value: object, known: Collection[str]) -> tuple[str, ...] | None:
    """Return names of candidate models, None where the list says nothing.

    Args:
        name: What the list is called in messages.
        value: A list of texts, or one text with commas, as CSV and options have it.
        known: Names in the pool.

    Raises:
        LimitError: It is no such list, or names a model that is not in the pool.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        what, remedy = f"{name} is no list of models", 'Write ["a", "b"], or in CSV a,b in quotes'
        raise LimitError(Problem(Kind.WRONG_TYPE, what, remedy, value))
    models = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for model in models:
        if model not in known:
            what = f"{name} has a model that is not in the pool"
            remedy = f"Name some of {', '.join(list(known)[:_NAMES_SHOWN])}"
            raise LimitError(Problem(Kind.UNKNOWN_MODEL, what, remedy, model))
    return models or None
