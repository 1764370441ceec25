"""Submits, controls, plans, retries and watches batches.

The functions for a batch's own row are used as `batches.get`, `batches.lock` and so on.
"""

from routoo.store.batches.records import (
    BatchRecord,
    NewBatch,
    create,
    find,
    finish_if_done,
    get,
    list_recent,
    lock,
    mark_failed,
    names_like,
    save_plan,
    seal,
    skip_scoring,
    status,
    with_key_prefix,
)

__all__ = [
    "BatchRecord",
    "NewBatch",
    "create",
    "find",
    "finish_if_done",
    "get",
    "list_recent",
    "lock",
    "mark_failed",
    "names_like",
    "save_plan",
    "seal",
    "skip_scoring",
    "status",
    "with_key_prefix",
]
