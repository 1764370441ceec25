"""Letters and words: small tasks on strings, which tokenised models find harder than people."""

import re
from random import Random

from examples.questions.question import Question

_WORDS = (
    "mirror", "butter", "family", "orange", "travel", "bridge", "puzzle", "forest", "camera",
    "island", "pencil", "thunder", "kitchen", "journey", "blanket", "harvest", "library", "market",
    "ocean", "tiger", "violin", "carpet", "diamond", "feather",
)  # fmt: skip
_PLACES = ("first", "second", "third", "fourth")


def words(rng: Random, count: int) -> list[Question]:
    """Return string tasks, the kinds taken in turn."""
    kinds = (_length, _occurrences, _vowels, _backwards, _capitals, _letter, _alphabet, _longest)
    return [kinds[number % len(kinds)](rng) for number in range(count)]


def _length(rng: Random) -> Question:
    word = rng.choice(_WORDS)
    return Question("words", "numeric", str(len(word)), f'How many letters does "{word}" have?')


def _occurrences(rng: Random) -> Question:
    word = rng.choice(_WORDS)
    letter = rng.choice(word)
    text = f'How often does the letter {letter} appear in "{word}"?'
    return Question("words", "numeric", str(word.count(letter)), text)


def _vowels(rng: Random) -> Question:
    word = rng.choice([word for word in _WORDS if "y" not in word])
    count = len(re.findall("[aeiou]", word))
    return Question("words", "numeric", str(count), f'Count the vowels in "{word}".')


def _backwards(rng: Random) -> Question:
    word = rng.choice(_WORDS)
    return Question("words", "contains", word[::-1], f'Spell "{word}" backwards.')


def _capitals(rng: Random) -> Question:
    word = rng.choice(_WORDS)
    reference = rf"(?-i:\b{word.upper()}\b)"
    return Question("words", "regex", reference, f'Write "{word}" in capitals.')


def _letter(rng: Random) -> Question:
    word, place = rng.choice(_WORDS), rng.randrange(len(_PLACES))
    text = f'What is the {_PLACES[place]} letter of "{word}"?'
    return Question("words", "regex", lone_letter(word[place]), text)


def _alphabet(rng: Random) -> Question:
    chosen = rng.sample(_WORDS, 3)
    text = f"Which of these words is first in alphabetical order: {', '.join(chosen)}?"
    return Question("words", "contains", min(chosen), text)


def _longest(rng: Random) -> Question:
    longest = rng.choice([word for word in _WORDS if len(word) > 6])
    chosen = [*rng.sample([word for word in _WORDS if len(word) <= 6], 2), longest]
    rng.shuffle(chosen)
    text = f"Which of these words has the most letters: {', '.join(chosen)}?"
    return Question("words", "contains", longest, text)


def lone_letter(letter: str) -> str:
    """Return an expression for a letter that stands alone and is not part of a quoted word."""
    return rf"(?<!['\w]){letter}\b(?!')"
