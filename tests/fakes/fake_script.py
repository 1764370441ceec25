"""What a fake endpoint does: answers, latencies and faults by model, all of it deterministic."""

import hashlib
import math
import random
from dataclasses import dataclass, field
from typing import Any

P99_DEVIATIONS = 2.326
"""Standard deviations from the median to the 99th percentile of a normal distribution."""

BILLED_KINDS = {
    "half_body",
    "wrong_json",
    "no_choices",
    "missing_usage",
    "slow_body",
    "slow_headers",
    "filtered",
    "patch",
}
"""Faults after the model has answered: the endpoint's log counts them as billed."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; without a condition, on every request."""

    kind: str
    """rate_limit, status, hang, reset, half_body, wrong_json, no_choices, missing_usage,
    slow_headers, slow_body, context_length, content_filter (refused), filtered (cut answer),
    patch (the answer with `json` merged over it), reply (`status`, `headers` and one of `json`,
    `text` and `base64` instead of the answer)."""
    first: int | None = None
    """Only the model's first N requests."""
    every: int | None = None
    """Only each N-th request of the model, counted from 1."""
    first_per_prompt: int | None = None
    """Only the first N requests with the same prompt: a retry may then succeed."""
    containing: str | None = None
    """Only prompts that hold this text."""
    status: int = 500
    """HTTP status of `status`; that of `reply`, where an error inside a success has 200."""
    retry_after: str | None = None
    """`Retry-After` of `rate_limit` and `status`: seconds, or an HTTP date."""
    delay_s: float = 3600.0
    """How long `hang`, `slow_headers` and `slow_body` take, in seconds."""
    message: str = "scripted fault"
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with `reply`."""
    json: Any = None
    """Body of `reply`; what `patch` merges over the answer, into objects key by key and into lists
    item by item."""
    text: str | None = None
    """Body of `reply`."""
    base64: str | None = None
    """Body of `reply`, any bytes."""
    repeat: int = 1
    """How often the body of `reply` is sent, one behind the other."""
    billed: bool | None = None
    """Whether the log counts it as billed; by kind where unset."""

    def strikes(self, request_no: int, prompt: str, prompt_no: int) -> bool:
        """Return whether this request is hit (numbers of the model and of its prompt, from 1)."""
        return (
            (self.first is None or request_no <= self.first)
            and (self.every is None or request_no % self.every == 0)
            and (self.first_per_prompt is None or prompt_no <= self.first_per_prompt)
            and (self.containing is None or self.containing in prompt)
        )

    @property
    def is_billed(self) -> bool:
        """Whether the endpoint's log counts a request that is hit as billed."""
        return self.kind in BILLED_KINDS if self.billed is None else self.billed


@dataclass(frozen=True)
class ModelScript:
    """How one model behaves."""

    answers: dict[str, str] = field(default_factory=dict)
    """Answer by a text that the prompt holds; the first that fits."""
    answer: str | None = None
    """Answer to every other prompt; a short text made from the prompt's hash where unset."""
    latency_s: Any = 0.0
    """Seconds: a number, {"low": a, "high": b} (uniform) or {"p50": a, "p99": b} (log-normal)."""
    completion_tokens: int | None = None
    """Billed for every answer, up to the request's limit; the answer's words where unset."""
    context_window_tokens: int | None = None
    """Longer prompts get the context-length error."""
    api_key: str | None = None
    """Required as bearer key, where set."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every answer."""
    limit_fields: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
    """Fields that limit its answers, the first that a request has; it ignores the others."""
    refuses: dict[str, Any] = field(default_factory=dict)
    """Fields that it answers with an error: with a message (status 400, as OpenAI words it), or
    with {"status": 422, "json": {...}}."""
    part_tokens: dict[str, int] = field(default_factory=dict)
    """Prompt tokens billed for a content part, by its type; parts of other types count as text."""
    patch: dict[str, Any] = field(default_factory=dict)
    """Merged over every answer, such as {"usage": {...}} or {"choices": [{"finish_reason": ...}]};
    the log bills by the usage that results."""
    window: dict[str, Any] = field(default_factory=dict)
    """{"calls": 10, "seconds": 12.0}: it answers so many calls in each window, which begins with a
    call, and refuses others with status 429; how long to wait stands in the body alone, where
    `says`, "try again in {wait_s}s" if unset, puts it."""
    faults: tuple[Fault, ...] = ()

    @staticmethod
    def parse(script: dict[str, Any]) -> "ModelScript":
        """Read a model's script as it stands in JSON."""
        faults = tuple(Fault(**fault) for fault in script.get("faults", ()))
        fields = {"limit_fields": tuple(script["limit_fields"])} if "limit_fields" in script else {}
        return ModelScript(**{**script, **fields, "faults": faults})

    def answer_to(self, model: str, prompt: str) -> str:
        """Return the model's answer: the same to the same prompt, always."""
        for text, answer in self.answers.items():
            if text in prompt:
                return answer
        if self.answer is not None:
            return self.answer
        return f"{model} says {hashlib.sha256(prompt.encode()).hexdigest()[:8]}"

    def latency_of(self, model: str, request_no: int) -> float:
        """Return how long the model takes for its n-th request, in seconds."""
        if not isinstance(self.latency_s, dict):
            return float(self.latency_s)
        rng = random.Random(f"{model}/{request_no}")
        if "low" in self.latency_s:
            return rng.uniform(self.latency_s["low"], self.latency_s["high"])
        median, p99 = self.latency_s["p50"], self.latency_s["p99"]
        return median * math.exp(rng.gauss(0, 1) * math.log(p99 / median) / P99_DEVIATIONS)
