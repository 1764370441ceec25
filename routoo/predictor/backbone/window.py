"""What a backbone sees of a prompt: clean text of bounded length, cut to a window of tokens."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

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
    """Return a hash of a text as it is, not normalised; lone surrogates have one too."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Window:
    """The most tokens a backbone sees of one prompt."""

    tokens: int
    """Longest sequence, special tokens included."""
    prefix: tuple[int, ...] = ()
    """Special tokens before the text."""
    suffix: tuple[int, ...] = ()
    """Special tokens after the text."""

    @property
    def room(self) -> int:
        """Most tokens of a prompt."""
        return self.tokens - len(self.prefix) - len(self.suffix)

    def enclose(self, ids: Sequence[int]) -> tuple[list[int], bool]:
        """Wrap a prompt's tokens in the special ones; where too long, keep its head and tail.

        The question of a long prompt is at its beginning or, after a document, at its end: half of
        the room goes to each.

        Args:
            ids: Tokens of the text alone.

        Returns:
            The sequence, never empty for a backbone with special tokens, and whether it was cut.
        """
        room = self.room
        if len(ids) <= room:
            return [*self.prefix, *ids, *self.suffix], False
        head = room // 2
        return [*self.prefix, *ids[:head], *ids[head - room :], *self.suffix], True
