"""Text that UTF-8 can hold."""


def unicode_text(text: str) -> str:
    """Return a text with pairs of surrogates joined and lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
