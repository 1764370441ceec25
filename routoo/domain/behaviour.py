"""Records what endpoints were found to do beyond their pool, and adapts models to it.

An endpoint may refuse the field that limits its answers, or bill more than a call's bound. Either
is found by a call, and holds for all later ones: of other jobs, batches and dispatchers too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from routoo.domain.completion import Usage
from routoo.domain.endpoint import Endpoint, LimitField
from routoo.domain.pool import BATCH_SUFFIX, CandidateModel, Pool
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens, prompt_text

_MOST_CACHED = 1_000
_NEXT_FIELD = {
    LimitField.MAX_TOKENS: LimitField.MAX_COMPLETION_TOKENS,
    LimitField.MAX_COMPLETION_TOKENS: LimitField.NONE,
}
"""What is tried where a field is refused."""


@dataclass(frozen=True, slots=True)
class EndpointBehaviour:
    """What an endpoint was found to do."""

    limit_field: LimitField | None = None
    """Field that it reads, by its refusals of others; None where it refused none."""
    extra_prompt_tokens: int = 0
    """Most prompt tokens that it billed beyond a call's bound."""
    extra_completion_tokens: int = 0
    """Most completion tokens that it billed beyond a call's bound."""

    def merged(self, other: "EndpointBehaviour") -> Self:
        """Return what holds if both were found."""
        fields = list(LimitField)
        found = [one for one in (self.limit_field, other.limit_field) if one is not None]
        return type(self)(
            max(found, key=fields.index, default=None),
            max(self.extra_prompt_tokens, other.extra_prompt_tokens),
            max(self.extra_completion_tokens, other.extra_completion_tokens),
        )

    def applied(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that says so too; a field that its pool names stays."""
        changed = endpoint.model_copy(
            update={
                "completion_limit_field": endpoint.completion_limit_field or self.limit_field,
                "extra_prompt_tokens": max(endpoint.extra_prompt_tokens, self.extra_prompt_tokens),
                "extra_completion_tokens": max(
                    endpoint.extra_completion_tokens, self.extra_completion_tokens
                ),
            }
        )
        return endpoint if changed == endpoint else changed


def _is_surely_within(usage: Usage, body: Mapping[str, Any], model: CandidateModel) -> bool:
    """Return whether counting characters shows it: that is quick, and nearly always enough."""
    return usage.prompt_tokens <= len(prompt_text(body)) and (
        usage.completion_tokens <= bound_completion_tokens(body, model)
    )


def behaviour_key(model: CandidateModel) -> str:
    """Return the name under which the behaviour of a model's first endpoint is kept.

    It is the endpoint's key: a batch channel at the same address behaves alike.
    """
    return model.endpoint_key.removesuffix(BATCH_SUFFIX)


class KnownBehaviour:
    """What a process knows of endpoints; shared by all that call them.

    Attributes:
        unsaved: What was found here and is not in the store yet, by the endpoint's key.
    """

    def __init__(self) -> None:
        self._known: dict[str, EndpointBehaviour] = {}
        self.unsaved: dict[str, EndpointBehaviour] = {}
        self._applied: dict[CandidateModel, CandidateModel] = {}

    def of(self, model: CandidateModel) -> EndpointBehaviour:
        """Return what is known of a model's first endpoint."""
        return self._known.get(behaviour_key(model), EndpointBehaviour())

    def apply(self, model: CandidateModel) -> CandidateModel:
        """Return a model whose endpoints say what is known of them.

        It is the same object until something new is known, so that a caller can tell by `is`.
        """
        if not self._known:
            return model
        found = self._applied.get(model)
        if found is None:
            if len(self._applied) >= _MOST_CACHED:
                self._applied.clear()
            found = self._applied[model] = self._apply(model)
            self._applied.setdefault(found, found)
        return found

    def _apply(self, model: CandidateModel) -> CandidateModel:
        first, *more = (
            self.of(model.at(one)).applied(one) for one in (model.endpoint, *model.endpoints)
        )
        if (first, *more) == (model.endpoint, *model.endpoints):
            return model
        return model.model_copy(update={"endpoint": first, "endpoints": tuple(more)})

    def note_refusal(self, model: CandidateModel) -> None:
        """Record that a model's first endpoint refused the field that limits its answers.

        Where the pool names the field that it reads, the pool is to be mended, and nothing is
        recorded.
        """
        field = model.endpoint.completion_limit_field
        if field is None or field is self.of(model).limit_field:
            found = _NEXT_FIELD.get(field or LimitField.MAX_TOKENS)
            self._note(model, EndpointBehaviour(limit_field=found))

    def note_usage(self, model: CandidateModel, body: Mapping[str, Any], usage: Usage) -> bool:
        """Compare what a call was billed with its bound; record what went beyond it.

        What is billed can't raise the bound by more than the context window: one absurd count must
        not keep an endpoint from all later calls.

        Args:
            model: The model as it was asked, with the endpoint that was called as its first.
            body: The request.
            usage: What was billed.

        Returns:
            Whether it was beyond the bound.
        """
        if usage.estimated:
            return False
        most, endpoint = model.context_window_tokens, model.endpoint
        if _is_surely_within(usage, body, model):
            return False
        prompt = usage.prompt_tokens - bound_prompt_tokens(body, model)
        completion = usage.completion_tokens - bound_completion_tokens(body, model)
        if prompt <= 0 and completion <= 0:
            return False
        found = EndpointBehaviour(
            None,
            min(most, endpoint.extra_prompt_tokens + max(0, prompt)),
            min(most, endpoint.extra_completion_tokens + max(0, completion)),
        )
        self._note(model, found)
        return True

    def _note(self, model: CandidateModel, found: EndpointBehaviour) -> None:
        key = behaviour_key(model)
        if self._learn(key, found):
            self.unsaved[key] = self._known[key]

    def update(self, stored: Mapping[str, EndpointBehaviour]) -> None:
        """Take in what others found, by the endpoints' keys."""
        for key, found in stored.items():
            self._learn(key, found)

    def saved(self, stored: Mapping[str, EndpointBehaviour]) -> None:
        """Forget that something was unsaved, now that this much is in the store."""
        for key, found in stored.items():
            if self.unsaved.get(key) == found:
                del self.unsaved[key]

    def _learn(self, key: str, found: EndpointBehaviour) -> bool:
        """Merge into what is known; return whether that changed it."""
        known = self._known.get(key, EndpointBehaviour())
        merged = known.merged(found)
        if merged == known:
            return False
        self._known[key] = merged
        self._applied.clear()
        return True


@dataclass(frozen=True, slots=True)
class FoundBehaviour:
    """What an endpoint of a model of a pool was found to do; its text says so to people."""

    model: str
    base_url: str
    behaviour: EndpointBehaviour

    def __str__(self) -> str:
        one, says = self.behaviour, []
        extras = {"prompt": one.extra_prompt_tokens, "completion": one.extra_completion_tokens}
        billed = " and ".join(f"{extra:,} {kind}" for kind, extra in extras.items() if extra)
        if billed:
            says.append(
                f"billed up to {billed} tokens beyond the bound of a call, "
                "and calls now reserve as much"
            )
        if one.limit_field is LimitField.NONE:
            says.append(
                "takes no limit of its answers: calls reserve the pool's max_completion_tokens"
            )
        elif one.limit_field is not None:
            says.append(f"takes its limit from {one.limit_field}")
        return f"{self.model} at {self.base_url.partition('?')[0]}: {'; '.join(says)}"


def found_in(pool: Pool, stored: Mapping[str, EndpointBehaviour]) -> tuple[FoundBehaviour, ...]:
    """Return what is known of a pool's endpoints; those that do as expected are left out."""
    return tuple(
        FoundBehaviour(model.name, endpoint.base_url, stored[key])
        for model in pool.models
        for endpoint in (model.all_endpoints if stored else ())
        if (key := behaviour_key(model.at(endpoint))) in stored
    )


def pool_as_found(pool: Pool, stored: Mapping[str, EndpointBehaviour]) -> Pool:
    """Return a pool whose endpoints say what is known of them."""
    known = KnownBehaviour()
    known.update(stored)
    return pool.model_copy(update={"models": tuple(map(known.apply, pool.models))})
