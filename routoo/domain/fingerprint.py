"""Whether two prompts are the same question: a hash that small differences of form don't change."""

import hashlib
import re
import unicodedata

_NOT_WORDS = re.compile(r"[\W_]+")


def text_sha256(prompt: str) -> str:
    """Return a hash of a prompt's words: case, punctuation, space and typography don't matter.

    A prompt without any word is hashed as it stands.
    """
    words = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", prompt).casefold()).strip()
    return hashlib.sha256((words or prompt).encode("utf-8", errors="surrogatepass")).hexdigest()
