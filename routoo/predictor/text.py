"""What a prompt becomes before it is scored: text that every tokenizer takes, not too long."""

import hashlib
import re

MAX_CHARACTERS = 16_384
"""Longer prompts are cut to their head and tail of half this many characters before tokenising.

Far more than any window of the backbones in use, so it bounds time without changing a score that
the window would not have cut as well.
"""

_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(prompt: str) -> str:
    """Return the prompt with lone surrogates replaced: they have no UTF-8 form to tokenise."""
    return _SURROGATE.sub(_REPLACEMENT, prompt)


def bounded(prompt: str) -> tuple[str, bool]:
    """Return the prompt, and whether it had to be cut to head and tail.

    The two parts are joined by a line break, so that no word arises that was not there.
    """
    if len(prompt) <= MAX_CHARACTERS:
        return prompt, False
    half = MAX_CHARACTERS // 2
    return f"{prompt[:half]}\n{prompt[-half:]}", True


def string_sha256(text: str) -> str:
    """Return a hash of a text, lone surrogates and all."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
