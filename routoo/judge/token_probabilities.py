"""Summarises the log-probabilities of an answer's tokens, as OpenAI's `logprobs` lists them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from routoo.domain.completion import FIRST_TOKEN_FIGURES, TOKEN_FIGURES, TokenProbabilities
from routoo.judge.reading import read_answer

_LEAST = -25.0
"""Lower log-probabilities, and -inf, count as this."""
_QUANTILES = (0.05, 0.25, 0.5)
_WINDOW = 3
_MOST_TOKENS = 10_000
"""A longer answer is summarised by as many tokens of its head and tail: an endpoint may list a
million, and they are read in the event loop."""
_MOST_LISTED = 20
"""Tokens that are looked at of those listed for a place."""
_UNLISTED = 50.0
"""The tokens that are not listed count as so many, each as likely as the others."""
_EVEN = math.log(0.5)
_TINY = 1e-9
_END = re.compile(r"(?:<[^<>\s]*>)?")
"""The text of a token that ends an answer, where an endpoint lists it: none, or a tag's."""
_WORD = re.compile(r"\d+|[^\W\d_]+")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an the this that these those it its i you your he she we they my our there here of in on"
        " at to for from by with as into and or but if so than then not no yes is are was were be"
        " been am has have had do does did can could will would should may might which who whom"
        " what when where how why answer output result option correct following called known"
    )
)
"""Words that a sentence is built of, in English; other languages' count as words that say more."""


def summarise_token_probabilities(
    prompt: str, tokens: Sequence[Mapping[str, Any]]
) -> TokenProbabilities | None:
    """Return a short summary; None where no token has a log-probability.

    The decisive token is the first one of the answer's final statement that has a letter or digit.

    Args:
        prompt: What was asked.
        tokens: `choices[0].logprobs.content`: of each token `token`, `logprob`, `top_logprobs`.
    """
    read = _Tokens.read(tokens)
    if read is None:
        return None
    reading = read_answer(prompt, "".join(read.texts))
    margin = float(read.margin[_decisive(reading.final, read.texts)])
    new = _of_new_words(reading.prompt, read)
    return TokenProbabilities(**_spread(read), margin=margin, **_course(read), **new)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens whose log-probability is known."""

    texts: Sequence[str]
    value: Float64[np.ndarray, " tokens"]
    """Log-probabilities."""
    margin: Float64[np.ndarray, " tokens"]
    """How far each lies above the likeliest other one; NaN where none is listed."""
    entropy: Float64[np.ndarray, " tokens"]
    """Of what might have stood there, in nats; NaN where nothing else is listed."""

    @classmethod
    def read(cls, tokens: Sequence[Mapping[str, Any]]) -> "_Tokens | None":
        """Return them; None where there are none."""
        known = [(token, own) for token in tokens if (own := _log_probability(token)) is not None]
        if not known:
            return None
        listed = [[own, *_others(token)] for token, own in known]
        value = np.array([own for _, own in known])
        margin = [own - max(others) if others else math.nan for own, *others in listed]
        texts = [str(token.get("token", "")) for token, _ in known]
        return cls(texts, value, np.array(margin), _entropy(listed))

    @property
    def has_end(self) -> bool:
        """Whether the last one is the token by which the model ended."""
        return len(self.texts) > 1 and _END.fullmatch(self.texts[-1]) is not None


def _spread(read: _Tokens) -> dict[str, float]:
    low, quarter, median = np.quantile(read.value, _QUANTILES)
    return {
        "mean": float(read.value.mean()),
        "minimum": float(read.value.min()),
        "quantile_05": float(low),
        "quantile_25": float(quarter),
        "median": float(median),
    }


def _course(read: _Tokens) -> dict[str, float]:
    """Return figures of all tokens: how sure the model was along its answer, and of its end."""
    body = slice(0, -1) if read.has_end else slice(None)
    text = read.value[body]
    windows = np.convolve(text, np.ones(_WINDOW), "valid") if len(text) > _WINDOW else [text.sum()]
    return {
        "total": float(text.sum()),
        "text_mean": float(text.mean()),
        "worst_window": float(min(windows)) / min(_WINDOW, len(text)),
        "uncertain_share": float((text < _EVEN).mean()),
        "entropy_mean": float(read.entropy[body].mean()),
        "entropy_maximum": float(read.entropy[body].max()),
        "end": float(read.value[-1]) if read.has_end else math.nan,
    }


def _of_new_words(prompt: str, read: _Tokens) -> dict[str, float]:
    """Return figures of the tokens that say what the prompt doesn't; none where there are none."""
    text = slice(0, -1) if read.has_end else slice(None)
    new = _says_new(prompt, read.texts[text])
    if not new.any():
        return {}
    value, margin = read.value[text][new], read.margin[text][new]
    after = read.value[text][int(new.argmax()) :]
    return {
        "new_mean": float(value.mean()),
        "new_minimum": float(value.min()),
        "new_margin": float(margin.mean()),
        "new_margin_minimum": float(margin.min()),
        "since_new_mean": float(after.mean()),
    }


def _says_new(prompt: str, texts: Sequence[str]) -> Bool[np.ndarray, " tokens"]:
    """Return which tokens are part of a word or number that is no function word of the prompt's."""
    known = _FUNCTION_WORDS.union(_WORD.findall(prompt.lower()))
    ends = np.cumsum([len(text) for text in texts])
    new = np.zeros(len(texts), np.bool_)
    for word in _WORD.finditer("".join(texts)):
        if word[0].lower() not in known:
            first, last = np.searchsorted(ends, (word.start(), word.end() - 1), side="right")
            new[first : last + 1] = True
    return new


def token_probabilities_of(prompt: str, response: Mapping[str, Any]) -> TokenProbabilities | None:
    """Return the summary for the first choice of a response in OpenAI's form; None without any."""
    listed = _listed(response)
    tokens = listed.get("content") if listed is not None else None
    if not isinstance(tokens, list):
        return None
    if len(tokens) > _MOST_TOKENS:
        tokens = tokens[: _MOST_TOKENS // 2] + tokens[-_MOST_TOKENS // 2 :]
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
    """Return the summary as features of an answer; all 0 where there is none.

    Checkpoints know features by their place: new ones come last.
    """
    count = len(TOKEN_FIGURES)
    if summary is None:
        return np.zeros(count + 3, np.float32)
    values = summary.values()
    known = np.nan_to_num(values)
    has_margin, has_course = (not math.isnan(one) for one in (summary.margin, summary.total))
    first = len(FIRST_TOKEN_FIGURES)
    parts = [[1.0, has_margin], known[:first], [has_course], known[first:]]
    return np.concatenate(parts).astype(np.float32)


def _decisive(final: str, texts: Sequence[str]) -> int:
    """Return the position of the token that decides the answer, given its final statement."""
    start = "".join(texts).rfind(final) if final else 0
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


def _others(token: Mapping[str, Any]) -> list[float]:
    """Return the log-probabilities of the other tokens that are listed for a place."""
    own, top = token.get("token"), token.get("top_logprobs")
    return [
        value
        for one in (top[:_MOST_LISTED] if isinstance(top, list) else ())
        if isinstance(one, dict) and one.get("token") != own
        if (value := _log_probability(one)) is not None
    ]


def _entropy(listed: Sequence[Sequence[float]]) -> Float64[np.ndarray, " tokens"]:
    """Return the entropy of each place in nats; NaN where no other token is listed.

    Args:
        listed: Log-probabilities, of the token that stands there and of others.
    """
    width = max(map(len, listed))
    value = np.array([[*one, *[_LEAST] * (width - len(one))] for one in listed])
    chance = np.exp(value)
    rest = np.maximum(1 - chance.sum(axis=1), _TINY)
    entropy = -(chance * value).sum(axis=1) - rest * np.log(rest / _UNLISTED)
    alone = np.array([len(one) == 1 for one in listed])
    return np.asarray(np.where(alone, np.nan, entropy))
