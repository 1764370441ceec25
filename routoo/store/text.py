"""Text of foreign origin, made fit for a PostgreSQL text column."""

from typing import overload

from routoo.domain.prompt import unicode_text


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
def storable(text: str | None) -> str | None:
    """Replace what the database's UTF-8 can't hold (NUL, lone surrogates) by U+FFFD."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return unicode_text(text.replace("\0", "\ufffd"))
