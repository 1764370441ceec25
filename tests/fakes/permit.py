"""A permit that is always there, for clients without a queue."""

from dataclasses import dataclass

from routoo.domain.pool import CandidateModel


@dataclass(slots=True)
class OpenPermit:
    """Starts at once."""

    model: CandidateModel
    tokens: int | None = None

    async def start(self) -> None:
        """Do not wait."""

    def used(self, tokens: int) -> None:
        self.tokens = tokens
