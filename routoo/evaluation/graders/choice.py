r"""Grades multiple choice: finds the letter in an answer, as models really write it.

The letter is looked for in this order, and the first step that finds one decides:

1. a final statement: `\boxed{C}`, "final answer: C";
2. a statement: "the answer is (C)", "Answer: C", "option C", "C is correct";
3. a letter at the start of the answer, set off by a mark: "C. Paris", "(C) Paris", "**C**";
4. any other capital letter that stands alone and is no article, pronoun or part of a name.

Where a step finds several different letters, or one that the answer denies ("not C"), the answer
is ambiguous. A lower-case letter counts only where it is the whole answer or is marked as a
choice. An answer without a letter may still name one option by its text, where the options are
known; else it is ungraded. An empty answer is wrong.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from routoo.evaluation.graders.grade import (
    Grade,
    first_and_last,
    normalise,
    readable,
    right_or_wrong,
    ungraded,
)

_MOST_JOINED = 16

_LETTER = r"(?P<letter>[A-P])(?![\w+#]|'\w)"
# Every repetition has a bound: a model's endless babble must not cost endless time.
_GAP = r"\s{0,4}"
_OPEN = r"[\s(\[{*_\"'`:]{0,8}"
_CLOSE = r"[)\]}*_\"'`.]{0,6}"
_LEAD = r"(?:option|choice|letter|alternative)?"
_AND = re.compile(
    rf"{_CLOSE}{_GAP}(?:,|/|&|\bor\b|\band\b){{1,3}}{_GAP}{_LEAD}{_OPEN}{_LETTER}{_CLOSE}"
)

_FINAL = (
    re.compile(rf"\\boxed{_GAP}\{{{_GAP}(?:\\text(?:bf)?{_GAP}\{{)?{_OPEN}{_LETTER}"),
    re.compile(
        rf"(?i:\bfinal\s(?:answer|choice)\b[*_\"]{{0,4}}{_GAP}(?:is|:|=|-)?)"
        rf"{_OPEN}(?i:{_LEAD}){_OPEN}{_LETTER}"
    ),
)
_STATED = (
    re.compile(
        rf"(?i:\b(?:answer|choice|option|letter|response|alternative)\b[*_\"]{{0,4}}"
        rf"{_GAP}(?:would be|must be|should be|is|:|=|-|→)?"
        rf"(?:\s+(?:clearly|definitely|therefore|thus|likely|option|choice|letter)){{0,3}})"
        rf"{_OPEN}{_LETTER}"
    ),
    re.compile(
        rf"{_LETTER}{_CLOSE}\s(?i:is|would be|seems)\s(?i:the\s)?"
        rf"(?i:most\s)?(?i:correct|right|best|true|accurate|answer)"
    ),
    re.compile(rf"(?i:\b(?:choose|select|pick|chose|go with|say))\s{_OPEN}{_LETTER}"),
)
_LEADING = re.compile(rf"\A{_OPEN}{_LETTER}(?:[)\].:*_\"'`]|{_GAP}[-=]|{_GAP}\n|{_GAP}\Z)")
_MARKED = re.compile(rf"(?:(?<=\()|(?<=\[)|(?<=\*\*)|(?m:^){_GAP}){_LETTER}[)\].:*]")
_ALONE = re.compile(rf"(?<![\w'.+-]){_LETTER}")
_NOT = (
    r"(?i:\b(?:not|isn't|never|neither|nor|except|rather than|than|instead of|eliminate|exclude)\b)"
)
_WRONG = r"(?i:(?:is|are|seems)(?:n't|\s+not|\s+wrong|\s+incorrect|\s+false))"
_DENIED = re.compile(
    rf"{_NOT}{_OPEN}(?i:{_LEAD}){_OPEN}{_LETTER}"
    rf"|{_LETTER.replace('letter', 'other')}{_CLOSE}\s{_WRONG}"
)
_LOWER = re.compile(
    r"\A\W{0,8}(?:answer\s?(?:is|:|=)?\s?)?\W{0,8}([a-p])\W{0,8}\Z"
    r"|\A\(?([a-p])\)\s|\A([a-p])\.\s+\S"
)
_VERBS_AFTER_LETTER = {"is", "because", "since", "as", "would", "was", "seems", "and", "or"}
_NAMES_BEFORE_LETTER = re.compile(
    r"\b(?:vitamin|hepatitis|plan|type|group|class|grade|vessel|point|part|figure|model|person|"
    r"statement|section|title|schedule|appendix|phase|case)\s\Z",
    re.IGNORECASE,
)


def grade_choice(answer: str, reference: str, options: Mapping[str, Any]) -> Grade:
    """Grade a multiple-choice answer.

    Args:
        answer: What the model wrote.
        reference: The right letter, A to P.
        options: `choices`, the options' texts by letter: an answer without a letter that holds
            the text of exactly one of them chooses it.
    """
    wanted = reference.strip().strip("().").upper()
    text = first_and_last(readable(unicodedata.normalize("NFKC", answer)))
    if not text:
        return right_or_wrong(right=False, detail="the answer is empty")
    letters, how = chosen_letters(text)
    if not letters:
        letters, how = _named_choices(text, options.get("choices", {})), "by its text"
    if not letters:
        return ungraded("no letter found in the answer")
    if len(letters) > 1:
        return ungraded(f"several letters {how}: {', '.join(sorted(letters))}")
    letter = next(iter(letters))
    return right_or_wrong(right=letter == wanted, detail=f"{letter} {how}, reference {wanted}")


def _named_choices(text: str, choices: Mapping[str, str]) -> set[str]:
    said = f" {normalise(text)} "
    texts = {letter: normalise(choice) for letter, choice in choices.items()}
    named = {letter: text for letter, text in texts.items() if text and f" {text} " in said}
    # "dark red" names "dark red" and not "red" as well.
    return {
        letter
        for letter, text in named.items()
        if not any(text != other and f" {text} " in f" {other} " for other in named.values())
    }


def chosen_letters(text: str) -> tuple[set[str], str]:
    """Return the letters that an answer chooses, one if it is clear, and how they were found."""
    for patterns, how in ((_FINAL, "as final answer"), (_STATED, "as stated answer")):
        letters = _stated(text, patterns)
        if letters:
            return letters, how
    lower = _LOWER.search(text)
    if lower:
        return {next(filter(None, lower.groups())).upper()}, "as lone letter"
    leading = _LEADING.search(text)
    if leading:
        listed = {match["letter"] for match in _MARKED.finditer(text)}
        return {leading["letter"], *listed, *_joined(text, leading.end("letter"))}, "at the start"
    return set(_alone(text)), "in the text"


def _stated(text: str, patterns: tuple[re.Pattern[str], ...]) -> set[str]:
    denied = _denied_spans(text)
    found: set[str] = set()
    for pattern in patterns:
        for match in pattern.finditer(text):
            start = match.start("letter")
            if start in denied or _is_word(text, start):
                continue
            found |= {match["letter"], *_joined(text, match.end("letter"))}
    return found


def _joined(text: str, end: int) -> Iterator[str]:
    """Yield letters that "or", "and" or a comma join to the one that ends at `end`."""
    for _ in range(_MOST_JOINED):
        match = _AND.match(text, end)
        if match is None or _is_word(text, match.start("letter")):
            return
        yield match["letter"]
        end = match.end("letter")


def _alone(text: str) -> Iterator[str]:
    denied = _denied_spans(text)
    for match in _ALONE.finditer(text):
        start = match.start("letter")
        named = _NAMES_BEFORE_LETTER.search(text[max(0, start - 12) : start])
        if start not in denied and not named and not _is_word(text, start):
            yield match["letter"]


def _denied_spans(text: str) -> set[int]:
    starts: set[int] = set()
    for match in _DENIED.finditer(text):
        starts.add(match.start("letter" if match["letter"] else "other"))
    return starts


def _is_word(text: str, start: int) -> bool:
    """Whether an A or an I is the article or the pronoun rather than a choice."""
    if text[start] not in "AI":
        return False
    following = re.match(r" +([a-z]+)", text[start + 1 : start + 12])
    return following is not None and (text[start] == "I" or following[1] not in _VERBS_AFTER_LETTER)
