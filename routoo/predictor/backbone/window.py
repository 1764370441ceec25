"""Token windows and micro-batches: how prompts are packed for the backbone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """The most tokens a backbone sees of one prompt."""

    tokens: int
    """Longest sequence, special tokens included."""
    prefix: tuple[int, ...] = ()
    """Special tokens before the text."""
    suffix: tuple[int, ...] = ()
    """Special tokens after the text."""

    @property
    def room(self) -> int:
        """Most tokens of a prompt."""
        return self.tokens - len(self.prefix) - len(self.suffix)

    def fit(self, ids: Sequence[int]) -> tuple[list[int], bool]:
        """Wrap a prompt's tokens in the special ones; where too long, keep its head and tail.

        The question of a long prompt stands at its beginning or, after a document, at its end:
        half of the room goes to each.

        Args:
            ids: Tokens of the text alone.

        Returns:
            The sequence, never empty for a backbone with special tokens, and whether it was cut.
        """
        room = self.room
        if len(ids) <= room:
            return [*self.prefix, *ids, *self.suffix], False
        head = room // 2
        return [*self.prefix, *ids[:head], *ids[head - room :], *self.suffix], True


def micro_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Pack sequences of similar length into batches of at most `token_budget` padded tokens.

    Args:
        lengths: Tokens of each sequence.
        token_budget: Most tokens of a batch, padding included; a longer sequence goes alone.

    Yields:
        Positions of the sequences of one batch, longest last.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch: list[int] = []
    for position in order:
        if batch and lengths[position] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
