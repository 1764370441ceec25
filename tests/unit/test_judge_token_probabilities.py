"""The summary of a model's token probabilities: what it says, and how it is kept."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from routoo.domain.completion import (
    FIRST_TOKEN_FIGURES,
    TOKEN_FIGURES,
    RecordedAnswer,
    TokenProbabilities,
)
from routoo.domain.tables import read_answers
from routoo.evaluation.answer_log import write_answers
from routoo.judge.token_probabilities import (
    summarise_token_probabilities,
    token_features,
    token_probabilities_of,
    without_token_probabilities,
)

OLD = TokenProbabilities(-0.3, -0.9, -0.8, -0.5, -0.2, 1.5)
"""A summary as versions made it that knew six figures."""


def _token(text: str, value: float, *others: float) -> dict[str, Any]:
    top = [{"token": text, "logprob": value}]
    top += [{"token": f"?{number}", "logprob": other} for number, other in enumerate(others)]
    return {"token": text, "logprob": value, "top_logprobs": top}


PARIS = [
    _token("The", -1.2, -1.5),
    _token(" capital", -0.1, -4.0),
    _token(" of", 0.0, -9.0),
    _token(" France", -0.1, -4.0),
    _token(" is", -0.1, -4.0),
    _token(" Par", -0.9, -1.1),
    _token("is", -0.3, -3.0),
    _token(".", -0.2, -3.0),
    _token("", -0.4, -2.0),
]


def _paris(tokens: list[dict[str, Any]] = PARIS) -> TokenProbabilities:
    summary = summarise_token_probabilities("What is France's capital?", tokens)
    assert summary is not None
    return summary


def test_words_that_the_prompt_does_not_have_are_summarised_by_themselves() -> None:
    summary = _paris()
    assert summary.new_mean == pytest.approx((-0.9 - 0.3) / 2)
    assert summary.new_minimum == pytest.approx(-0.9)
    assert summary.new_margin == pytest.approx((0.2 + 2.7) / 2)
    assert summary.new_margin_minimum == pytest.approx(0.2)
    assert summary.since_new_mean == pytest.approx((-0.9 - 0.3 - 0.2) / 3)


def test_the_token_that_ends_an_answer_is_no_part_of_its_text() -> None:
    summary, cut = _paris(), _paris(PARIS[:-1])
    assert summary.end == pytest.approx(-0.4)
    assert math.isnan(cut.end)
    assert summary.total == cut.total == pytest.approx(-2.9)
    assert summary.text_mean == cut.text_mean == pytest.approx(-2.9 / 8)
    assert summary.mean == pytest.approx(-3.3 / 9)


def test_the_course_of_an_answer_is_summarised() -> None:
    summary = _paris()
    assert summary.worst_window == pytest.approx((-0.9 - 0.3 - 0.2) / 3)
    assert summary.uncertain_share == pytest.approx(2 / 8)
    assert 0 < summary.entropy_mean < summary.entropy_maximum


@pytest.mark.parametrize("options", [2, 5])
def test_the_entropy_of_even_chances_is_the_logarithm_of_their_number(options: int) -> None:
    even = -math.log(options)
    summary = _paris([_token("Paris", *[even] * options)])
    assert summary.entropy_maximum == pytest.approx(math.log(options), abs=1e-6)


def test_an_answer_that_says_nothing_new_has_no_figures_of_new_words() -> None:
    summary = _paris([_token("France", -0.5, -2.0)])
    assert summary.total == pytest.approx(-0.5)
    assert math.isnan(summary.new_mean)
    assert np.isfinite(token_features(summary)).all()


def test_token_probabilities_are_summarised() -> None:
    tokens = [_token("The answer is ", -0.1, -3.0), _token("B", -0.4, -1.2), _token(".", 0.0, -9.0)]
    summary = summarise_token_probabilities("Which?\nA. 1\nB. 2", tokens)
    assert summary is not None
    assert summary.minimum == pytest.approx(-0.4)
    assert summary.margin == pytest.approx(0.8)
    assert np.isfinite(token_features(summary)).all()


@pytest.mark.parametrize("tokens", [[], [{}], [{"token": "a", "logprob": None}]])
def test_tokens_without_probabilities_have_no_summary(tokens: list[dict[str, object]]) -> None:
    assert summarise_token_probabilities("p", tokens) is None


def test_a_margin_is_unknown_without_alternatives() -> None:
    summary = summarise_token_probabilities("p", [{"token": "a", "logprob": -0.5}])
    assert summary is not None
    assert math.isnan(summary.margin)
    assert math.isnan(summary.entropy_mean)
    assert np.isfinite(token_features(summary)).all()


def test_a_response_gives_its_summary_and_loses_the_long_list() -> None:
    tokens = [{"token": "4", "logprob": -0.1, "top_logprobs": []}, None]
    response = {"id": "x", "choices": [{"message": {}, "logprobs": {"content": tokens}}]}
    summary = token_probabilities_of("2 + 2?", response)
    assert summary is not None
    assert summary.mean == pytest.approx(-0.1)
    short = without_token_probabilities(response)
    assert short == {"id": "x", "choices": [{"message": {}, "logprobs": None}]}
    assert token_probabilities_of("2 + 2?", short) is None


@pytest.mark.parametrize(
    "response",
    [{}, {"choices": []}, {"choices": [None]}, {"choices": [{"logprobs": {"content": 3}}]}],
)
def test_a_response_without_probabilities_has_no_summary(response: dict[str, object]) -> None:
    assert token_probabilities_of("2 + 2?", response) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"token": None, "logprob": -0.5},
        {"logprob": -math.inf, "top_logprobs": 3},
        {"token": 7, "logprob": -1, "top_logprobs": [None, {"token": 7}, {"logprob": "x"}]},
        {"token": "\ud800", "logprob": 2.0, "top_logprobs": [{"token": "a", "logprob": 9}]},
        {"token": "", "logprob": -0.5},
    ],
)
def test_odd_tokens_are_summarised_as_far_as_they_go(odd: dict[str, Any]) -> None:
    for tokens in ([odd], [odd, *PARIS], [*PARIS, odd, odd]):
        features = token_features(_paris(tokens))
        assert np.isfinite(features).all()
        assert features.shape == token_features(None).shape


def test_no_more_alternatives_are_looked_at_than_providers_list() -> None:
    few, many = ([_token("Paris", -0.5, *[-6.0] * count)] for count in (19, 30_000))
    assert _paris(many).figures() == _paris(few).figures()


def test_features_that_old_judges_know_stay_in_their_places() -> None:
    old = token_features(OLD)
    assert old[:8] == pytest.approx([1, 1, *OLD.values()[:6]])
    assert not old[8:].any()
    assert len(FIRST_TOKEN_FIGURES) == 6


def test_a_table_with_the_first_figures_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    write_answers(path, [RecordedAnswer("a", "m", "Paris", "stop", OLD)])
    later = [f"logprob_{name}" for name in TOKEN_FIGURES[len(FIRST_TOKEN_FIGURES) :]]
    pq.write_table(pq.read_table(path).drop_columns(later), path)
    (answer,) = read_answers(path)
    assert answer.token_probabilities is not None
    assert answer.token_probabilities.values() == pytest.approx(OLD.values(), nan_ok=True)


def test_answers_are_read_back_with_their_figures(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    given = [RecordedAnswer("a", "m", "Paris", "stop", _paris()), RecordedAnswer("b", "m", "")]
    write_answers(path, given)
    first, second = read_answers(path)
    assert first.token_probabilities is not None
    assert first.token_probabilities.values() == pytest.approx(_paris().values())
    assert second.token_probabilities is None


def test_a_summary_outlives_json_and_older_ones_are_read() -> None:
    summary = _paris(PARIS[:-1])
    figures = summary.figures()
    assert figures["end"] is None
    again = TokenProbabilities.of_figures(figures)
    assert again is not None
    assert again.values() == pytest.approx(summary.values(), nan_ok=True)
    older = TokenProbabilities.of_figures(dict.fromkeys(FIRST_TOKEN_FIGURES, -1.0))
    assert older is not None
    assert older.margin == -1.0
    assert math.isnan(older.total)
    assert TokenProbabilities.of_figures(None) is None


def test_the_tag_by_which_a_model_ended_is_no_word_of_its_answer() -> None:
    told = [_token("It", -0.2, -2.0), _token(" is", -0.2, -2.0)]
    summary = summarise_token_probabilities("p", [*told, _token("<|im_end|>", -3.0, -4.0)])
    assert summary is not None
    assert summary.end == pytest.approx(-3.0)
    assert math.isnan(summary.new_mean)
    assert math.isnan(summary.since_new_mean)


def test_of_a_very_long_list_head_and_tail_are_summarised() -> None:
    tokens: list[Any] = [{"token": f"w{number} ", "logprob": -0.5} for number in range(30_000)]
    tokens[15_000]["logprob"] = -9.0
    body = {"choices": [{"logprobs": {"content": tokens}}]}
    summary = token_probabilities_of("p", body)
    ends = summarise_token_probabilities("p", tokens[:5_000] + tokens[-5_000:])
    assert summary is not None
    assert ends is not None
    assert summary.figures() == ends.figures()
    assert summary.minimum == -0.5
