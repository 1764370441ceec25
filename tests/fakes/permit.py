"""A permit that is always there, for clients without a queue."""

from dataclasses import dataclass

from routoo.domain.pool import CandidateModel


@dataclass(slots=True)
class OpenPermit:
    """Starts at once."""

    model: CandidateModel
    tokens: int | None = None

    @property
    def starts_soon(self) -> bool:
        return True

    async def start(self) -> None:
        """Do not wait."""

    def used(self, tokens: int) -> None:
        self.tokens = tokens
