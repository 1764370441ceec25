"""The features of an answer: counts and checks of its text, made without a model.

They are general: how sure the answer sounds, whether its arithmetic holds, whether what it states
follows from what it computed, and how its choice stands among the options that were offered.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float32

from routoo.judge.reading import AnswerReading, Form, number_in, numbers_in, read_answer

_WORD = re.compile(r"[^\W\d_]{3,}")
_SENTENCE = re.compile(r"[.!?](?:\s|$)")
_TOKEN = re.compile(r"\d+\.?\d*|\.\d+|[-+*/()]")
_OFFER = re.compile(r"[Oo(](?:(?<=\()[A-P]\)|(?<!\()(?<!\w.)ptions?\b)")
_CUE_WORD = re.compile(r"[a-z']+")
_LINE_START = re.compile(r"^#|^[^\S\n]*[-*]\s", re.MULTILINE)
_CUES: tuple[tuple[str, str], ...] = (
    ("however but although", ""),
    ("", "none of|not listed|not among|not in the|not match|no option|not given|no answer"),
    ("closest nearest", "best answer|best option|best choice|best match"),
    ("approximately approximate approx about", "\u2248"),
    ("round rounded rounding rounds", ""),
    ("assume assuming assumed assumes assumption suppose", "let's say"),
    ("mistake error typo incorrect wrong correction incorrectly", ""),
    ("wait reconsider recheck re", "let's re|check again"),
    ("seems seem appears appear probably perhaps possibly possible", ""),
    ("might could may", ""),
    ("likely most generally typically usually often", ""),
    ("must clearly obviously only always never", ""),
    ("therefore thus hence so", ""),
    ("options option choices choice", ""),
    ("insufficient unclear ambiguous", "not enough|more information|be determined|not provided"),
    ("impossible contradiction contradicts contradictory invalid", "no solution"),
    ("sorry unable cannot can't", "as an ai|i can't|i cannot"),
    ("not isn't doesn't don't wasn't aren't", ""),
    ("false true", ""),
    ("wikipedia according refer", ""),
    ("formula equation theorem law rule", ""),
    ("step first second next finally then", ""),
    ("calculate calculated calculation compute computed substitute substituting solve solving", ""),
    ("if case cases when", ""),
    ("?", ""),
    ("=", ""),
    ("frac sqrt $ ^", ""),
    ("``` def return loop function list string", ""),
    ("** # - *", ""),
    ("we let", ""),
    ("different unlike while whereas", ""),
    ("each every all total", ""),
    ("per % percent half twice times", ""),
    ("because since due", ""),
    ("i my me", ""),
)
_CUE_OF_WORD = {word: n for n, (words, _) in enumerate(_CUES) for word in words.split()}
_SIGNS_COUNTED = ("?", "=", "%", "$", "^", "```", "**")
"""These are counted wherever they stand; "#", "-" and "*" where they begin a line."""
_PHRASES = (
    *((phrase, n) for n, (_, some) in enumerate(_CUES) for phrase in some.split("|") if phrase),
    *((sign, _CUE_OF_WORD[sign]) for sign in _SIGNS_COUNTED),
)
_LATE_CUES = 10  # so many are looked for at the end of the answer too
_LATE_PHRASES = tuple(one for one in _PHRASES if one[1] < _LATE_CUES)
_FINISH_REASONS = ("length", "content_filter")
_SAME = 0.011
"""Numbers that differ by less than this share count as equal: answers round."""
_TAIL, _LONG_TAIL, _EDGE = 8, 400, 160
_EQUATION_CHARACTERS, _ENDING_CHARACTERS = 80, 40
_SHORTEST_SUM, _MOST_EQUATIONS = 3, 60  # of tokens, two numbers and a sign; of sums
_TINY = 1e-9
_log = math.log1p


def answer_features(
    prompt: str, answer: str, finish_reason: str | None, expected_tokens: float
) -> Float32[np.ndarray, " features"]:
    """Return the features of one answer.

    Args:
        prompt: What was asked.
        answer: The answer's text.
        finish_reason: Why the answer ended, as the provider says it; None where not known.
        expected_tokens: Length that was expected of it, in tokens.
    """
    reading = read_answer(prompt, answer)
    return features_of(reading, finish_reason, len(answer), expected_tokens)


def features_of(
    reading: AnswerReading, finish_reason: str | None, characters: int, expected_tokens: float
) -> Float32[np.ndarray, " features"]:
    """Return the features of an answer that was read."""
    words = _words(reading.text)
    of_options = [set(_words(option)) for option in reading.options.values()]
    values = [
        *_lengths(reading, words, characters, expected_tokens),
        *_ending(reading, finish_reason),
        *_final(reading),
        *_choice(reading, of_options),
        *_options(reading, of_options),
        *_numbers(reading),
        *_cues(reading),
        *_overlap(reading, words),
    ]
    return np.asarray(values, np.float32)


def _lengths(
    reading: AnswerReading, words: Sequence[str], characters: int, expected_tokens: float
) -> list[float]:
    text, raw = reading.text, reading.text.encode(errors="replace")
    sentences = len(_SENTENCE.findall(text)) + 1
    return [
        _log(characters),
        _log(characters) - _log(4 * expected_tokens),
        _log(characters) - _log(len(reading.prompt)),
        _log(len(reading.prompt)),
        _log(len(words)),
        _log(sentences),
        len(words) / sentences / 20,
        len(set(words)) / max(len(words), 1),
        len(zlib.compress(raw, 1)) / (len(raw) + 11),
        _log(text.count("\n")),
    ]


def _ending(reading: AnswerReading, finish_reason: str | None) -> list[float]:
    text = reading.text.rstrip()
    tail = text[-_ENDING_CHARACTERS:]
    return [
        *(float(finish_reason == reason) for reason in _FINISH_REASONS),
        float(bool(text)),
        float(text.endswith((".", "!", "}", ")", "]", "```", "$"))),
        float(text.count("{") - text.count("}") > 0),
        float(text.count("(") - text.count(")") > 0),
        float(text.count("```") % 2),
        float(len(tail) == _ENDING_CHARACTERS and text.count(tail) > 1),
    ]


def _final(reading: AnswerReading) -> list[float]:
    final, reasoning = reading.final, reading.reasoning
    number = number_in(final)
    near = [number is not None and _near(number, other) for other in reading.numbers]
    stripped = final.strip(" .")
    return [
        *(float(reading.form == form) for form in Form),
        _log(len(reading.statements)),
        float(len({statement.strip(" .*") for statement in reading.statements}) > 1),
        _log(len(final)),
        _log(len(final.split())),
        *_magnitude(number),
        float(any(near[-1:])),
        float(any(near[-3:])),
        float(any(near)),
        _log(sum(near)),
        float(number is not None and number in reading.prompt_numbers),
        float(bool(final) and stripped in reasoning),
        float(bool(final) and stripped in reading.prompt),
        *(float(final.strip().startswith(sign)) for sign in ("[", "(", "{", "'", "-")),
        float(final.strip() in {"True", "False", "None"}),
        _log(final.count(",")),
        _log(sum(map(str.isdigit, final))),
        _log(sum(map(str.isalpha, final))),
    ]


def _magnitude(number: float | None) -> list[float]:
    if number is None or not math.isfinite(number):
        return [0.0] * 6
    whole = float(number == round(number))
    size = min(_log(abs(number)), 30.0)
    round_ten = float(whole and number % 10 == 0)
    return [1.0, whole, float(number < 0), size, round_ten, float(abs(number) <= 1)]


def _choice(reading: AnswerReading, words: Sequence[set[str]]) -> list[float]:
    """Return whether the option that was chosen is what the reasoning arrived at."""
    options, letter, tail = reading.options, reading.letter, reading.numbers
    last = tail[-3:]
    offers = _log(len(_OFFER.findall(reading.reasoning)))
    if not options:
        return [*[0.0] * 7, _gap((), ()), *[0.0] * 6, offers]
    chosen, text = options.get(letter, ""), reading.text.lower()
    own, others = numbers_in(chosen), [v for k, v in options.items() if k != letter]
    late = set(_words(reading.reasoning[-_LONG_TAIL:]))
    shares = [len(part & late) / max(len(part), 1) for part in words]
    covers = dict(zip(options, shares, strict=True))
    cover = covers.pop(letter, 0.0)
    best = max(covers.values(), default=0.0)
    reached = sum(any(_near(x, y) for x in numbers_in(o) for y in last) for o in others if last)
    near = [any(_near(x, y) for x in own for y in tail[-last:]) for last in (_TAIL, 2)]
    return [
        float(bool(options)),
        float(bool(letter)),
        float(bool(own)),
        float(any(x in tail[-_TAIL:] for x in own)),
        *map(float, near),
        float(bool(own) and all(any(_near(x, y) for y in tail) for x in own)),
        _gap(own, tail),
        _log(reached),
        cover,
        best,
        cover - best,
        float(bool(chosen) and chosen.lower().strip(" .") in text),
        _log(sum(bool(o) and o.lower().strip(" .") in text for o in others)),
        offers,
    ]


def _gap(own: Sequence[float], tail: Sequence[float]) -> float:
    """Return how far the last number computed is from the option's, as a logarithm."""
    if not own or not tail:
        return -1.0
    last = [abs(x - y) / max(abs(x), abs(y), _TINY) for x in own for y in tail[-3:]]
    return min(_log(100 * min(last)), 6.0)


def _options(reading: AnswerReading, words: Sequence[set[str]]) -> list[float]:
    """Return how the chosen option stands among the others."""
    options, letter = reading.options, reading.letter
    count = len(options)
    if not letter:
        return [float(count), *([0.0] * 12)]
    chosen, texts = options[letter], list(options.values())
    position = list(options).index(letter)
    lengths = [len(text) for text in texts]
    likeness = _likeness(words)
    numbers = [number_in(text) for text in texts]
    ordered = sorted(number for number in numbers if number is not None)
    own = numbers[position]
    rank = ordered.index(own) / max(len(ordered) - 1, 1) if own is not None else -1.0
    return [
        float(count),
        float(position),
        position / max(count - 1, 1),
        _log(len(chosen)),
        len(chosen) / max(sum(lengths) / count, 1.0),
        sum(length < len(chosen) for length in lengths) / count,
        likeness[position],
        sum(value < likeness[position] for value in likeness) / count,
        rank,
        float(rank in {0.0, 1.0}),
        float(bool(re.search(r"\b(?:none|all|both|neither)\b", chosen, re.IGNORECASE))),
        sum(number is not None for number in numbers) / count,
        float(len(set(texts)) < count),
    ]


def _likeness(options: Sequence[set[str]]) -> list[float]:
    """Return the share of its words that each option has in common with another, on average."""
    shares = [[1.0 if words else 0.0] * len(options) for words in options]
    for (at, words), (place, others) in combinations(enumerate(options), 2):
        common = len(words & others)
        share = common / max(len(words) + len(others) - common, 1)
        shares[at][place] = shares[place][at] = share
    rest = max(len(options) - 1, 1)
    return [(sum(row) - row[place]) / rest for place, row in enumerate(shares)]


def _numbers(reading: AnswerReading) -> list[float]:
    asked, said = reading.prompt_numbers, reading.numbers
    known = set(said)
    used = sum(value in known for value in set(asked))
    right, wrong, last = _checked_equations(reading.text)
    final = number_in(reading.final)
    return [
        _log(len(said)),
        _log(len(asked)),
        used / max(len(set(asked)), 1),
        len(known - set(asked)) / max(len(known), 1),
        _log(right),
        _log(wrong),
        wrong / max(right + wrong, 1),
        float(final is not None and last is not None and _near(final, last)),
        float(sum(value != round(value) for value in said[-_TAIL:])) / _TAIL,
    ]


def _checked_equations(text: str) -> tuple[int, int, float | None]:
    """Count the sums in an answer that hold and that don't; also return the last one's value."""
    for sign, instead in _SIGNS:
        text = text.replace(sign, instead)
    parts = text.split("=")[-_MOST_EQUATIONS:]
    right = wrong = 0
    last = None
    for before, after in pairwise(parts):
        value, stated = _evaluated(before), _stated(after)
        if value is None or stated is None:
            continue
        last = stated
        close = _near(value, stated) or abs(value - stated) <= _SAME
        right, wrong = right + close, wrong + (not close)
    return right, wrong, last


def _stated(after: str) -> float | None:
    """Return the number behind an equals sign; None where more of a sum follows it."""
    found = _RESULT.match(after)
    return None if found is None else number_in(found[0])


def _evaluated(before: str) -> float | None:
    """Return the value of the sum of plain numbers that a text ends with; None without one."""
    before = before[-_EQUATION_CHARACTERS:]
    plain = before[len(before.rstrip(_SUM_CHARACTERS)) :].replace(" ", "")
    tokens = _TOKEN.findall(plain)
    if len(tokens) < _SHORTEST_SUM or "".join(tokens) != plain:
        return None
    try:
        value, rest = _sum(tokens)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError):
        return None
    return None if rest else value


_SIGNS = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\u00d7", "*"),
    (" x ", "*"),
    ("\u00b7", "*"),
    ("\u00f7", "/"),
    ("\u2212", "-"),
    ("%", ""),
    ("$", ""),
    (",", ""),
)
_SUM_CHARACTERS = "0123456789.+-*/() "
_RESULT = re.compile(r"\s*-?(?:\d*\.\d+|\d+)(?!\d*\.?\d*\s*[-+*/^(])")
"""A number in one way alone: a pattern that could divide its digits anywhere would try all ways."""


def _sum(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _product(tokens)
    while rest and rest[0] in "+-":
        sign, (other, rest) = rest[0], _product(rest[1:])
        value = value + other if sign == "+" else value - other
    return value, rest


def _product(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _factor(tokens)
    while rest and rest[0] in "*/":
        sign, (other, rest) = rest[0], _factor(rest[1:])
        value = value * other if sign == "*" else value / other
    return value, rest


def _factor(tokens: list[str]) -> tuple[float, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head == "-":
        value, rest = _factor(rest)
        return -value, rest
    if head != "(":
        return float(head), rest
    value, rest = _sum(rest)
    if rest[0] != ")":
        raise ValueError(head)
    return value, rest[1:]


def _cues(reading: AnswerReading) -> list[float]:
    text = reading.text.lower()
    counts = _cue_counts(text, _PHRASES)
    counts[_CUE_OF_WORD["#"]] += len(_LINE_START.findall(text))
    late = counts if len(text) <= _EDGE else _cue_counts(text[-_EDGE:], _LATE_PHRASES)
    return [*map(_log, counts), *(float(count > 0) for count in late[:_LATE_CUES])]


def _cue_counts(text: str, phrases: Sequence[tuple[str, int]]) -> list[int]:
    counts = [0] * len(_CUES)
    words = Counter(_CUE_WORD.findall(text))
    for word in words.keys() & _CUE_OF_WORD.keys():
        counts[_CUE_OF_WORD[word]] += words[word]
    for phrase, number in phrases:
        counts[number] += text.count(phrase)
    return counts


def _overlap(reading: AnswerReading, words: Sequence[str]) -> list[float]:
    asked, said = set(_words(reading.prompt)), set(words)
    shared = len(asked & said)
    return [shared / max(len(asked), 1), shared / max(len(said), 1)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(abs(one), abs(other), _TINY)
