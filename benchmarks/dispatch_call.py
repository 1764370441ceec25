"""The call that all clients of dispatch.py make, and what calls took."""

import time
from dataclasses import dataclass, field

BODY = {
    "messages": [{"role": "user", "content": "What is six times seven? Say it in one sentence."}],
    "max_tokens": 16,
}


@dataclass(slots=True)
class Taken:
    """What some calls took, from the first to the last; imports and set-up don't count."""

    latencies_s: list[float] = field(default_factory=list)
    """Of each call, as the client sees it."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    calls: int = 0
    """Calls that ours made; more than jobs where some are escalated."""

    def start(self) -> None:
        """Start the clocks."""
        self.wall_s, self.cpu_s = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        """Stop them."""
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()
