"""Tells by an error's words that an endpoint doesn't take the field that limits its answers."""

import re

_STATUSES = {400, 404, 405, 422, 500, 501}
"""Statuses of such errors: of providers, and of servers that hand the field on as an argument."""
_FIELD = r"max_(?:completion_)?tokens\b"
_NOUNS = r"(?:\W+(?:request|param(?:eter)?|argument|keyword|field|name|property|key|supplied)s?)*"
_UNKNOWN = r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|extraneous|deprecated|removed)"
_NOT_TAKEN = (
    r"(?:not|no longer)\W+(?:(?:currently|yet)\W+)?(?:supported|permitted|allowed|accepted|known)"
)
_REFUSALS = {
    "unsupported parameter: the field": rf"{_UNKNOWN}{_NOUNS}\W+{_FIELD}",
    "the field is not supported": (
        rf"{_FIELD}{_NOUNS}\W+(?:(?:is|are|was|were|has been)\W+)?(?:{_UNKNOWN}|{_NOT_TAKEN})"
    ),
    "does not support parameters: others, the field": (
        rf"(?:not|n't)\W+(?:support|accept|know)(?:\W+the)?{_NOUNS}\W+(?:\w+\W+){{0,5}}?{_FIELD}"
    ),
    "use the other instead": rf"\buse\W+{_FIELD}\W+instead",
    "pydantic 2": rf"extra_forbidden\W+loc\W+(?:body\W+)?{_FIELD}",
    "pydantic 1": rf"loc\W+(?:body\W+)?{_FIELD}\W+msg\W+extra\W+(?:inputs|fields)",
}
_REFUSAL = re.compile("|".join(_REFUSALS.values()), re.IGNORECASE)
_MOST_CHARACTERS = 4_000


def is_limit_field_refused(status: int, message: str) -> bool:
    """Return whether an error says that the field is not known, rather than that its value is bad.

    Args:
        status: HTTP status.
        message: The error's message, or its body where that is no text.
    """
    return status in _STATUSES and _REFUSAL.search(message[:_MOST_CHARACTERS]) is not None
