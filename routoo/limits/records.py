"""Messages between a process and the shared account of an endpoint."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Limits of one endpoint, as the pool file gives them; None where it gives none."""

    concurrency: int
    """Calls in flight at once, of all processes together."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    """A change to what was counted in one bucket of the account's sliding windows."""

    bucket_no: int
    requests: int
    """Change of the count: -1 for a call that was granted and not sent."""
    tokens: int
    """Change of the count: what a call took, less what was estimated for it."""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """How the calls went that ended since a process's last report."""

    answered: int = 0
    """Calls that the endpoint handled: answers, and refusals that are the request's own fault."""
    failed: int = 0
    """Calls that failed at the endpoint: 5xx, no answer, a lost connection, half an answer."""
    away: int = 0
    """Of the failed calls, those that found nobody: no connection, or a gateway's 502 or 503."""
    overloaded: int = 0
    """Calls that the endpoint refused as too many (429)."""
    pause_s: float = 0.0
    """Longest pause that the endpoint asked for, in seconds."""
    denied: str = ""
    """Why the endpoint takes no requests at all, such as a wrong key; empty if it takes some."""
    header_requests_per_minute: int | None = None
    """Limit that the endpoint's `x-ratelimit-*` headers name."""
    header_tokens_per_minute: int | None = None
    """The same, of tokens."""
    header_requests_period_s: float | None = None
    """Length of the window in which the endpoint counts requests, in seconds; None for a minute."""
    header_tokens_period_s: float | None = None
    """The same, of tokens."""


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What a process did at an endpoint since its last report, and what it wants to do next."""

    endpoint: str
    """The endpoint's key: base URL, model and name of the key's variable."""
    owner: str
    """The process; unique among those that run."""
    limits: EndpointLimits
    """What the process's pool file says."""
    in_flight: int = 0
    waiting: int = 0
    """Calls that wait for a slot or for the rates."""
    wanted_tokens: tuple[int, ...] = ()
    """Estimated tokens of the next calls, in order, as many as may start before the next report."""
    corrections: tuple[Correction, ...] = ()
    counts: CallCounts = field(default_factory=CallCounts)
    may_use: int = 0
    """Slots that the process may use until it has the answer, by the grant before."""
    call_s: float = 0.0
    """How long a call holds its slot on average, in seconds; 0 where none has ended."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a process may do at an endpoint until its next report."""

    slots: int
    """Calls that may be in flight at once; where more already are, they may end and none start."""
    calls: int | None
    """How many of the wanted calls may start; None where no rate limits them."""
    bucket_no: int
    """Bucket of the sliding windows in which these calls were counted."""
    closed_s: float
    """No call may start for so long, in seconds: the endpoint asked for a pause, or its breaker is
    open."""
    outage_s: float
    """How long the breaker has been open, in seconds; 0 while it is closed."""
    report_again_s: float
    """When the next report may bring more, in seconds from this one."""
    rest_s: float = 0.0
    """How long the pause that the endpoint asked for still takes, in seconds."""
    denied: str = ""
    """Why the endpoint takes no requests at all; empty if it does."""
    rate_per_s: float = 0.0
    """Calls a second that the limits per minute let all processes start; 0 without such limits."""
    slot_s: float = 0.0
    """How long all slots together take for a call, in seconds; 0 where that isn't known."""
    is_answering: bool = False
    """Whether the endpoint answered a call of any process lately."""
