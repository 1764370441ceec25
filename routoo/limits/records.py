"""What a process and the account of an endpoint tell each other."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one endpoint; None means none is known."""

    concurrency: int
    """Calls in flight at once, of all processes together."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    """What was let through in a bucket of the shared windows and turned out otherwise."""

    bucket_no: int
    requests: int
    """Change of the count: -1 for a call that was not sent after all."""
    tokens: int
    """Change of the count: what a call took less what was estimated."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the calls went that ended since the last report."""

    answered: int = 0
    """Calls the endpoint dealt with: answers, and refusals that are the request's own fault."""
    failed: int = 0
    """Calls that the endpoint failed: 5xx, silence, a lost connection, half an answer."""
    overloaded: int = 0
    """Calls it refused because it has too much to do (429)."""
    pause_s: float = 0.0
    """Longest pause it asked for."""
    learnt_requests_per_minute: int | None = None
    """What its headers said."""
    learnt_tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a process has done at an endpoint, and what it would like to do next."""

    endpoint: str
    """The endpoint's key: base URL, model and name of the key."""
    owner: str
    """The process, unique among those alive."""
    caps: Caps
    """What the process's pool says."""
    in_flight: int = 0
    waiting: int = 0
    """Calls that wait for a place or for leave to start."""
    wanted_tokens: tuple[int, ...] = ()
    """Estimated tokens of the next calls, in order, as many as may start before the next report."""
    corrections: tuple[Correction, ...] = ()
    outcomes: Outcomes = field(default_factory=Outcomes)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a process may do at an endpoint until its next report."""

    places: int
    """Calls in flight at once; those above it may end, none may start."""
    calls: int | None
    """How many of the wanted calls may start, None where no rate limits them."""
    bucket_no: int
    """Where they were counted."""
    closed_s: float
    """No call may start for so long: the endpoint asked for a pause, or its breaker is open."""
    outage_s: float
    """How long the endpoint has kept failing, 0 while it works: its breaker is open."""
    ask_again_s: float
    """When another report may bring more."""
