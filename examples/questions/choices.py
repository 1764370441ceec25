"""Multiple choice made of the facts: the wrong options are other answers to the same pattern."""

from collections.abc import Mapping, Sequence
from random import Random

from examples.questions.question import Question

_LETTERS = "ABCD"

_TABLES: Mapping[str, Mapping[str, str]] = {
    "Which language family or group does {} belong to?": {
        "Italian": "Romance", "Swedish": "Germanic", "Czech": "Slavic", "Welsh": "Celtic",
    },
    "What kind of animal is a {}?": {
        "frog": "amphibian", "salmon": "fish", "crocodile": "reptile", "wolf": "mammal",
        "eagle": "bird", "ant": "insect",
    },
    "What is {} in Python?": {
        "3.5": "float", "True": "bool", "[1, 2]": "list", "{1, 2}": "set", "'a'": "str",
        "(1, 2)": "tuple",
    },
    "What does the Unix command {} do?": {
        "cp": "copy files", "rm": "remove files", "mv": "move files", "cat": "print files",
        "cd": "change the directory", "kill": "signal a process",
    },
    'Which part of speech is the word "{}"?': {
        "happy": "adjective", "slowly": "adverb", "under": "preposition", "teacher": "noun",
        "and": "conjunction",
    },
    "For what is {} known?": {
        "Chopin": "piano music", "Plato": "philosophy", "Euclid": "geometry", "Pelé": "football",
        "Marie Antoinette": "being queen of France", "Usain Bolt": "sprinting",
    },
    "What does a {} study?": {
        "botanist": "plants", "geologist": "rocks", "astronomer": "stars", "linguist": "languages",
        "entomologist": "insects", "cardiologist": "the heart",
    },
    "On which continent is {}?": {
        "Vietnam": "Asia", "Nigeria": "Africa", "Uruguay": "South America", "Belgium": "Europe",
        "Mexico": "North America",
    },
}  # fmt: skip


def choices(rng: Random) -> list[Question]:
    """Return one question for every entry of the tables."""
    return [
        _question(pattern.replace("{}", subject, 1), answer, sorted(set(table.values())), rng)
        for pattern, table in _TABLES.items()
        for subject, answer in table.items()
    ]


def _question(text: str, answer: str, answers: Sequence[str], rng: Random) -> Question:
    wrong = rng.sample([other for other in answers if other != answer], len(_LETTERS) - 1)
    options = [answer, *wrong]
    rng.shuffle(options)
    listed = "\n".join(
        f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True)
    )
    return Question("choice", "choice", _LETTERS[options.index(answer)], f"{text}\n{listed}")
