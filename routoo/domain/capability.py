"""What a request needs of a model beside a plain answer."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """Abilities that not every model or endpoint has, images aside: those have a price."""

    JSON_MODE = "json_mode"
    """`response_format` of type `json_object`."""
    JSON_SCHEMA = "json_schema"
    """`response_format` of type `json_schema`."""
    TOOLS = "tools"
    """`tools`, or the older `functions`."""


_FORMATS = {"json_object": Capability.JSON_MODE, "json_schema": Capability.JSON_SCHEMA}


def required_capabilities(body: Mapping[str, Any]) -> frozenset[Capability]:
    """Return what a model must be capable of to serve a chat-completion request."""
    return frozenset(_required(body))


def _required(body: Mapping[str, Any]) -> Iterator[Capability]:
    if body.get("tools") or body.get("functions"):
        yield Capability.TOOLS
    wanted = body.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") in _FORMATS:
        yield _FORMATS[wanted["type"]]
