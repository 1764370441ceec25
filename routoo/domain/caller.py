"""Says who asks the gateway for something, and what they may."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """To see batches, files and models."""
    SUBMIT = "submit"
    """To spend money: upload files, create and cancel batches, make single calls."""
    ADMIN = "admin"
    """Everything, and what belongs to other keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, or the person who started the gateway."""

    name: str
    scopes: frozenset[Scope]
    key_id: UUID | None = None
    """None for that person, who has no daily limit."""

    def allows(self, scope: Scope) -> bool:
        """Return whether the caller has a scope; `admin` stands for all."""
        return scope in self.scopes or self.is_admin

    @property
    def is_admin(self) -> bool:
        """Whether the caller sees what belongs to other keys."""
        return Scope.ADMIN in self.scopes


OPERATOR = Caller("operator", frozenset({Scope.ADMIN}))
"""The person who started the gateway."""
