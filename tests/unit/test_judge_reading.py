"""How an answer is read: what it states, which option it chooses, whether its arithmetic holds."""

import hashlib
import re
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.judge.answer_features import (
    _LINE_START,
    _OFFER,
    _RESULT,
    _checked_equations,
    answer_features,
)
from routoo.judge.choice_features import choice_features
from routoo.judge.hashed_text import WIDTH, HashedTexts
from routoo.judge.reading import _NUMBER, _STATED, Form, read_answer

OPTIONS = "What is 2 + 3?\nA. 4\nB. 5\nC. 6"


@pytest.mark.parametrize(
    ("answer", "form", "final", "letter"),
    [
        ("Adding gives 5. The answer is (B).", Form.SENTENCE, "(B).", "B"),
        ("Answer: B", Form.SENTENCE, "B", "B"),
        ("B", Form.SHORT, "B", "B"),
        ("5", Form.SHORT, "5", "B"),
        ("so we get \\boxed{5}", Form.BOXED, "5", "B"),
        ("2 + 3 = 5\n#### 5", Form.MARKED, "5", "B"),
        ('{"reasoning": "2 + 3 = 5", "answer": "B"}', Form.JSON, "B", "B"),
        ('```json\n{"reasoning": "x", "answer": 5}\n```', Form.JSON, "5", "B"),
        ('{"reasoning": "cut off", "answer": "B', Form.BROKEN_JSON, "B", "B"),
        ("I " + "think about it " * 20, Form.NOWHERE, "", ""),
        ("", Form.NOWHERE, "", ""),
        ("The answer is (K).", Form.SENTENCE, "(K).", ""),
    ],
)
def test_the_final_statement_of_an_answer_is_found(
    answer: str, form: Form, final: str, letter: str
) -> None:
    reading = read_answer(OPTIONS, answer)
    assert (reading.form, reading.final, reading.letter) == (form, final, letter)


def test_the_last_statement_counts() -> None:
    reading = read_answer(OPTIONS, "The answer is A. No: the answer is B.")
    assert reading.letter == "B"


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("16 - 3 - 4 = 9 eggs", 1, 0),
        ("9 * $2 = $18 a day, so 18 * 7 = 120", 1, 1),
        ("2 \\times 3 = 6 and (1 + 2) * 4 = 12", 2, 0),
        ("10 / 3 = 3.33", 1, 0),
        ("x = 5", 0, 0),
        ("1 / 0 = 7", 0, 0),
        ("3 + 4 = 2 + 5", 0, 0),
    ],
)
def test_sums_in_an_answer_are_checked(text: str, right: int, wrong: int) -> None:
    assert _checked_equations(text)[:2] == (right, wrong)


@given(st.text(max_size=300), st.text(max_size=600), st.sampled_from([None, "stop", "length"]))
def test_any_answer_has_finite_features(prompt: str, answer: str, reason: str | None) -> None:
    features = answer_features(prompt, answer, reason, 100.0)
    assert np.isfinite(features).all()
    assert features.shape == answer_features("", "", None, 1.0).shape


@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=5), st.text(max_size=300))
def test_any_choice_has_finite_features(stem: str, options: list[str], answer: str) -> None:
    listed = "\n".join(f"{letter}. {one}" for letter, one in zip("ABCDE", options, strict=False))
    features = choice_features(read_answer(f"{stem}\n{listed}", f"{answer}\nThe answer is (B)."))
    assert np.isfinite(features).all()
    assert features.shape == choice_features(read_answer("", "")).shape


NUMBERS = "How much?\nA. 2.5\nB. 3\nC. 40000\nD. 2\nE. 3.5"


def _choice(letter: str, reasoning: str = "", prompt: str = NUMBERS) -> dict[str, float]:
    read = choice_features(read_answer(prompt, f"{reasoning} The answer is ({letter})."))
    places = {
        "last named": 1,
        "from middle": 5,
        "nearest": 9,
        "asked": 11,
        "nearer": 16,
        "made": 18,
    }
    places |= {"capitals": 23, "decimals": 24}
    return {name: float(read[place]) for name, place in places.items()}


def test_a_number_far_from_all_other_options_shows() -> None:
    assert _choice("C")["from middle"] == 1 > _choice("B")["from middle"] == 0
    assert _choice("C")["nearest"] == 1


def test_an_option_nearer_to_what_was_computed_than_the_chosen_one_shows() -> None:
    assert _choice("D", "1 + 1 = 2.")["nearer"] > 0 > _choice("E", "1 + 1 = 2.")["nearer"]


def test_the_last_option_that_was_named_before_the_choice_shows() -> None:
    reasoning = "Not (A), so option B it is."
    assert [_choice(letter, reasoning)["last named"] for letter in "AB"] == [0, 1]


def test_a_number_of_the_question_that_was_chosen_shows() -> None:
    prompt = NUMBERS.replace("much", "much are 3 more than 1")
    assert [_choice(letter, prompt=prompt)["asked"] for letter in "AB"] == [0, 1]


def test_numbers_that_others_are_made_of_and_how_they_are_written_show() -> None:
    prompt = "Which?\nA. 8\nB. 4\nC. Two\nD. 1.25"
    made = [_choice(letter, "8", prompt)["made"] for letter in "ABD"]
    assert made == pytest.approx([np.log(2), np.log(2), 0])
    assert [_choice(letter, prompt=prompt)["capitals"] for letter in "AC"] == [0.75, 0.25]
    assert [_choice(letter, prompt=prompt)["decimals"] for letter in "AD"] == [0.75, 0.25]


@given(st.from_regex(r"[-0-9+*/=(). ,$%eE]{0,80}", fullmatch=True))
def test_arithmetic_of_any_kind_is_read_without_an_error(text: str) -> None:
    _checked_equations(text)
    answer_features(text, text, None, 10.0)


PIECES = (
    "the answer is ",
    "ANSWER: ",
    "\u017folution would be ",
    "result=",
    "x",
    "a",
    " ",
    "\n",
    "-",
    "--",
    "+",
    "#",
    "5",
    "1,234.5e-7",
    ".",
    "(",
    "(B)",
    "O",
    "ptions",
    "option",
    "Options",
    "_",
    "\u0663",
    "\ud800",
)
PLAIN = {
    _NUMBER: re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?"),
    _OFFER: re.compile(r"\b[Oo]ptions?\b|\([A-P]\)"),
    _STATED: re.compile(
        r"(?:answer|result|output|solution|choice)\s*(?:is|are|would be|should be|:|=)+"
        r"(?:\s*[:=])?\s*(?=([^\n]{1,160}))",
        re.IGNORECASE,
    ),
    _RESULT: re.compile(r"\s*-?\d*\.?\d+(?!\d*\.?\d*\s*[-+*/^(])"),
}
"""The patterns as one would write them, which are searched for more slowly."""


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_fast_patterns_find_what_the_plain_ones_do(text: str) -> None:
    for fast, plain in PLAIN.items():
        found, wanted = ([(m.span(), m.groups()) for m in p.finditer(text)] for p in (fast, plain))
        assert found == wanted
    plain = re.compile(r"^#|^\s*[-*]\s", re.MULTILINE)  # begins with the empty lines before
    assert len(_LINE_START.findall(text)) == len(plain.findall(text))


@pytest.mark.timeout(60)  # a model that repeats itself must not keep a worker for minutes
@pytest.mark.parametrize("part", ["1", "1,", "1.", "\n", " ", "-", "= 1", "(", "answer is "])
def test_an_answer_of_one_part_again_and_again_is_read(part: str) -> None:
    answer = "x = " + (part * 8000)[:7900] + " + 2"
    assert np.isfinite(answer_features(OPTIONS, answer, "length", 100.0)).all()


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_words_are_hashed_alone_and_with_the_word_before(text: str) -> None:
    words = [
        word.encode(errors="replace") for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())
    ]
    pairs = [before + b" " + word for before, word in zip([b"", *words], words, strict=False)]
    counts = Counter(zlib.crc32(part) % WIDTH for part in [*words, *pairs])
    hashed = HashedTexts.of([text])
    assert hashed.bucket.tolist() == sorted(counts)
    value = np.log1p([counts[bucket] for bucket in hashed.bucket.tolist()])
    length = max(float(np.sqrt(value @ value)), 1e-9)
    assert np.allclose(hashed.value, value / length, rtol=1e-6)


@pytest.mark.parametrize("part", ["It is so. ", "a", " ", "x" * 13 + " ", "x" * 14 + " ", "7"])
def test_of_a_long_text_the_first_words_count(part: str) -> None:
    text = part * (40_000 // len(part)) + "end"
    words = re.findall(r"[^\W\d_]+|\d|[^\w\s]", text.lower())[:1200]
    found, wanted = HashedTexts.of([text]), HashedTexts.of([" ".join(words)])
    assert found.bucket.tolist() == wanted.bucket.tolist()
    assert found.value.tolist() == wanted.value.tolist()


RECORDED = (
    (
        "What is 2 + 3? Give the number.",
        "2 + 3 = 6, wait, let's recheck: 2 + 3 = 5.\n- So **5**\n#### 5",
    ),
    (
        "Which animal barks?\nA. the black cat\nB. the big dog\nC. the fish 12\nD. none of these",
        "However, cats don't bark; of the options (A) to (D) a dog might. The answer is (B).",
    ),
    ("Return JSON", '```json\n{"reasoning": "12 * $3 = $36, -4.5e2", "answer": "36"}\n```'),
)


def test_the_features_that_checkpoints_were_trained_with_stay_as_they_are() -> None:
    found = np.stack([answer_features(*pair, "stop", 100.0) for pair in RECORDED])
    kept = np.delete(found, 8, axis=1)  # how well zlib compresses depends on its version
    digest = hashlib.sha256((np.round(kept, 3) + 0.0).tobytes()).hexdigest()
    assert digest.startswith("cc777d06f3850c43")
    chosen = np.stack([choice_features(read_answer(*pair)) for pair in RECORDED])
    digest = hashlib.sha256((np.round(chosen, 3) + 0.0).tobytes()).hexdigest()
    assert digest.startswith("186debe67a880316")
