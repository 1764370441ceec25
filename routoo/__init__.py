"""Routoo, the batch LLM router.

Give it prompts and limits; it predicts how well every candidate model of a pool would answer each
prompt, picks the models that give the most quality within the limits, calls them, and leaves one
result a job in PostgreSQL. After "Routoo: Learning to Route to Large Language Models Effectively"
(arXiv 2401.13979).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routoo.domain.model_prior import GENERAL_CHECKPOINT
    from routoo.router import Choice, Choices, Limits, Router

__all__ = ["GENERAL_CHECKPOINT", "Choice", "Choices", "Limits", "Router"]


def __getattr__(name: str) -> object:
    """Import the router when it is wanted: with torch, it takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "routoo.domain.model_prior" if name == "GENERAL_CHECKPOINT" else "routoo.router"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
