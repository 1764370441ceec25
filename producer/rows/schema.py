"""Names of the fields that an input row may have."""

LIMIT_FIELDS = frozenset(
    {
        "min_quality",
        "max_cost_usd",
        "max_latency_s",
        "deadline",
        "allowed_models",
        "denied_models",
    }
)
"""A row's own limits; each overrides the batch-wide one."""
PLAIN_FIELDS = LIMIT_FIELDS | {"prompt", "custom_id", "item_id", "max_tokens", "model"}
"""Fields of a plain row; `item_id` is read where there is no `custom_id`."""
REQUEST_FIELDS = LIMIT_FIELDS | {"custom_id", "method", "url", "body"}
"""Fields of an OpenAI Batch request, and the limits on top."""
CHAT_URL = "/v1/chat/completions"
PLAIN_URL = "/v1/completions"
"""The endpoints that requests may name: messages go to the first, a prompt to the second."""
ROUTED_NAMES = frozenset({"auto", "routoo"})
"""Values of `model` that leave the choice to Routoo, as no value does."""
LONGEST_CUSTOM_ID = 512
"""Characters: the database's index takes no more than 2,700 bytes."""
