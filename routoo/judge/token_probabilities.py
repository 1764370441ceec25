"""Summarises the log-probabilities of an answer's tokens, as OpenAI's `logprobs` lists them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from routoo.domain.completion import TOKEN_FIGURES, TokenProbabilities
from routoo.judge.reading import read_answer

_LEAST = -25.0
"""Lower log-probabilities, and -inf, count as this."""
_QUANTILES = (0.05, 0.25, 0.5)


def summarise_token_probabilities(
    prompt: str, tokens: Sequence[Mapping[str, Any]]
) -> TokenProbabilities | None:
    """Return a short summary; None where no token has a log-probability.

    The decisive token is the first one of the answer's final statement that has a letter or digit.

    Args:
        prompt: What was asked.
        tokens: `choices[0].logprobs.content`: of each token `token`, `logprob`, `top_logprobs`.
    """
    read = [(str(token.get("token", "")), _log_probability(token), token) for token in tokens]
    known = [(text, value, token) for text, value, token in read if value is not None]
    if not known:
        return None
    values = np.array([value for _, value, _ in known])
    decisive = _decisive(prompt, [text for text, _, _ in known])
    low, quarter, median = np.quantile(values, _QUANTILES)
    margin = _margin(known[decisive][1], known[decisive][2])
    figures = (values.mean(), values.min(), low, quarter, median, margin)
    return TokenProbabilities(*map(float, figures))


def token_probabilities_of(prompt: str, response: Mapping[str, Any]) -> TokenProbabilities | None:
    """Return the summary for the first choice of a response in OpenAI's form; None without any."""
    listed = _listed(response)
    tokens = listed.get("content") if listed is not None else None
    if not isinstance(tokens, list):
        return None
    return summarise_token_probabilities(
        prompt, [one for one in tokens if isinstance(one, Mapping)]
    )


def without_token_probabilities(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without its lists of token probabilities, which are long."""
    if _listed(response) is None:
        return response
    choices = [
        {**one, "logprobs": None} if isinstance(one, dict) and "logprobs" in one else one
        for one in response["choices"]
    ]
    return {**response, "choices": choices}


def _listed(response: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    listed = first.get("logprobs") if isinstance(first, Mapping) else None
    return listed if isinstance(listed, Mapping) else None


def token_features(
    summary: TokenProbabilities | None,
) -> Float32[np.ndarray, " features"]:
    """Return the summary as features of an answer; all 0 where there is none."""
    if summary is None:
        return np.zeros(len(TOKEN_FIGURES) + 2, np.float32)
    values = summary.values()
    has_margin = float(not math.isnan(summary.margin))
    return np.concatenate([[1.0, has_margin], np.nan_to_num(values)]).astype(np.float32)


def _decisive(prompt: str, texts: Sequence[str]) -> int:
    """Return the position of the token that decides the answer."""
    answer = "".join(texts)
    reading = read_answer(prompt, answer)
    start = answer.rfind(reading.final) if reading.final else 0
    at = 0
    for number, text in enumerate(texts):
        at += len(text)
        if at > start and any(map(str.isalnum, text)):
            return number
    return len(texts) - 1


def _log_probability(token: Mapping[str, Any]) -> float | None:
    value = token.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(min(max(value, _LEAST), 0.0))


def _margin(own: float, token: Mapping[str, Any]) -> float:
    """Return how far a token lies above the likeliest other one."""
    top = token.get("top_logprobs")
    listed = [one for one in top if isinstance(one, Mapping)] if isinstance(top, list) else []
    others = [_log_probability(one) for one in listed if one.get("token") != token.get("token")]
    known = [value for value in others if value is not None]
    return own - max(known) if known else math.nan
