"""Keeps a job's answers that are paid and not, or not yet, its result."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from routoo.domain.completion import KeptAnswer
from routoo.pipeline.dispatch.fallback import Candidate


@dataclass(slots=True)
class KeptAnswers:
    """The kept answers of one job, and how they break its rules."""

    answers: list[KeptAnswer] = field(default_factory=list)
    """In the order of their calls."""
    undecided: KeptAnswer | None = None
    """The one that came last, until it is decided about."""
    _faults: dict[int, str] = field(default_factory=dict)
    """By the number of the call."""

    def add(self, kept: KeptAnswer) -> None:
        """Keep an answer until it is decided about."""
        self.answers.append(kept)
        self.undecided = kept

    def forget_decisions(self) -> None:
        """Go back to where no answer was decided about."""
        self._faults, self.undecided = {}, None

    def note_fault(self, kept: KeptAnswer, fault: str) -> None:
        """Record how an answer breaks a rule."""
        self._faults[kept.attempt.attempt_no] = fault

    def fault_of(self, kept: KeptAnswer) -> str | None:
        """Return how an answer breaks a rule, None where it is not known to."""
        return self._faults.get(kept.attempt.attempt_no)

    def faults_of(self, model: str) -> int:
        """Return how many answers of a model break a rule."""
        return sum(
            one.attempt.model == model and self.fault_of(one) is not None for one in self.answers
        )

    @property
    def has_good(self) -> bool:
        """Whether an answer could be the result: it keeps the rules."""
        return any(self.fault_of(one) is None for one in self.answers)

    def judged_before(self, kept: KeptAnswer) -> KeptAnswer | None:
        """Return the earlier good answer of another probe; None without any."""
        for one in self.answers:
            if one is kept:
                break
            if one.attempt.probe and self.fault_of(one) is None:
                return one if one.attempt.model != kept.attempt.model else None
        return None

    def best(self, candidates: Sequence[Candidate]) -> KeptAnswer | None:
        """Return the answer that is the result if no better one comes; None without any.

        One that keeps the rules comes first, then one that says something, then that of the model
        of which most is expected.
        """
        quality = {one.model.name: one.expected_quality or 0.0 for one in candidates}
        return max(
            self.answers,
            key=lambda kept: (
                self.fault_of(kept) is None,
                bool(kept.completion.answer.strip()),
                quality.get(kept.attempt.model, 0.0),
                kept.attempt.attempt_no,
            ),
            default=None,
        )
