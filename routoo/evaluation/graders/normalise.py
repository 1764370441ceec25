"""Text as graders compare it: what a reader would not call a difference is gone."""

import re
import unicodedata

from routoo.evaluation.graders.grade import readable

_ARTICLES = {"a", "an", "the"}


def normalise(text: str) -> str:
    """Return text without case, punctuation, articles, markup and superfluous space.

    Unicode is folded by NFKC. Kept are decimal points, fractions and signs of numbers, and the
    marks in names such as `C#`, `C++` and `snake_case`; thousands separators go.
    """
    text = unicodedata.normalize("NFKC", readable(text)).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|\Z))", "", text)
    text = re.sub(r"(?<=\w)'(?=\w)", "", text)
    # A minus sign is one only before a number and after nothing that it could join to that number.
    text = re.sub(r"(?<![\w)\]])-(?=[.\d])", " \x00", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", "\x01", text)
    text = re.sub(r"(?<=\d)/(?=\d)", "\x02", text)
    text = re.sub(r"(?<=\w)#", "\x03", text)
    text = re.sub(r"(?<=\w)_(?=\w)", "\x04", text)
    text = "".join(" " if _is_mark(character) else character for character in text)
    text = text.translate({0: "-", 1: ".", 2: "/", 3: "#", 4: "_"})
    words = text.split()
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(kept or words)


def _is_mark(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("P") or category in {"Sk", "Sc"} or character == "\\"


def alternatives(reference: str) -> list[str]:
    """Return the accepted answers that a reference lists, separated by `|`, normalised."""
    parts = [normalise(part) for part in reference.split("|")]
    return [part for part in parts if part] or [normalise(reference)]
