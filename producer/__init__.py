"""The producer: submits batches, follows them, and reads their results.

from producer import Client

with Client() as client:
    batch = client.plan(["What is the capital of Peru?"], budget_usd=0.01)
    print(batch.plan().expected_cost_usd)
    batch.submit()
    for result in batch.results():
        print(result.custom_id, result.model, result.answer)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.client.asynchronous import AsyncBatch, AsyncClient
    from producer.client.backend import BatchState, FrontierPoint, ModelShare, Plan, Result
    from producer.client.blocking import Batch, Client

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "Batch",
    "BatchState",
    "Client",
    "FrontierPoint",
    "ModelShare",
    "Plan",
    "Result",
]
_MODULES = {"AsyncBatch": "asynchronous", "AsyncClient": "asynchronous"} | dict.fromkeys(
    ("Batch", "Client"), "blocking"
)


def __getattr__(name: str) -> object:
    """Import the client when it is wanted: the commands' help pages do without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"producer.client.{_MODULES.get(name, 'backend')}")
    return getattr(module, name)
