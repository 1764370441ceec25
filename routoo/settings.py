"""Reads settings: `ROUTOO_*` environment variables, once at a program's entry point."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.domain.networks import NONE_BLOCKED, BlockedNetworks
from routoo.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
"""Where the example pool, its checkpoint and the migrations stand."""


_SERVERS = {
    "database_url": (r"postgres(ql)?(\+\w+)?", "postgresql://user:password@host:5432/name"),
    "broker_url": (
        r"amqps?|pyamqp|rediss?|redis\+socket",
        "amqp://user:password@host:5672// (RabbitMQ) or redis://host:6379/0 (Redis, Valkey)",
    ),
}
"""Of each server's URL: the schemes, and one to write."""


def _check_server_url(text: str, schemes: str, example: str) -> None:
    """Raise where a URL can't name such a server; messages leave it out: it may hold a password."""
    for part in text.split(";"):  # a broker may have several
        if not re.match(rf"({schemes})://", part):
            scheme = part.partition("://")[0] if "://" in part else "none"
            message = f"the URL has the wrong scheme ({scheme}); write {example}"
            raise ValueError(message)
        try:
            port = None if "," in part else urlsplit(part).port
        except ValueError:
            port = 0
        if port == 0:
            message = f"the URL's port is no number from 1 to 65535; write {example}"
            raise ValueError(message)


def default_home() -> Path:
    """Return where the embedded stack keeps its data: a system folder for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/routoo")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "routoo"


def _default_checkpoint() -> Path:
    """Return the example's checkpoint, or the general one where the package stands alone."""
    example = REPOSITORY / "examples" / "checkpoint"
    return example if example.is_dir() else GENERAL_CHECKPOINT


class Settings(BaseSettings):
    """Everything a deployment may change; each field is the variable `ROUTOO_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="ROUTOO_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home)
    """Folder of the embedded database, broker and cached model files."""
    database_url: SecretStr | None = None
    """PostgreSQL URL; unset means the embedded server under `home`."""
    broker_url: SecretStr | None = None
    """RabbitMQ (amqp://) or Redis (redis://) URL; unset means the embedded broker under `home`."""
    pool: Path = REPOSITORY / "examples" / "pool.yaml"
    """Pool file used where none is named."""
    checkpoint: Path = Field(default_factory=_default_checkpoint)
    """Predictor checkpoint the scorers load while none is promoted."""
    ping_timeout_s: NonNegativeFloat = 5.0
    """How long `submit` and `plan` wait for each endpoint's list of models, in seconds; 0 leaves
    the question out, as --no-ping does."""
    shard_size: PositiveInt = 1000
    """Most jobs in a shard, the unit of queueing."""
    lease_s: PositiveFloat = 60.0
    """How long a shard's lease lasts, in seconds; then another worker may take the shard."""
    recovery_interval_s: PositiveFloat = 5.0
    """How often ready or abandoned shards are published to the queue again, in seconds."""
    replan_interval_s: PositiveFloat = 15.0
    """How often running batches are compared with their plans, in seconds."""
    replan_drift: PositiveFloat = 0.25
    """A batch whose calls cost this share more or less than planned is planned again."""
    batch_retention_days: PositiveFloat | None = None
    """Batches that have been over for so many days are deleted; unset keeps all."""
    plan_retention_days: PositiveFloat = 30.0
    """A plan that was not submitted within this many days is deleted."""
    max_shard_attempts: PositiveInt = 5
    """A shard that failed, or whose workers died, this often without any progress is split; a job
    that did so alone fails."""
    max_attempts_per_model: PositiveInt = 4
    """Calls of one job to one model before the next-best model is asked."""
    scoring_threads: PositiveInt = 8
    """Most threads in which a scorer or a gateway reads prompts on a CPU, one for each of its cores
    up to that: each takes memory. A single prompt is read by one."""
    dispatch_threads: PositiveInt = 4
    """Shards that one dispatcher works on at once."""
    task_time_limit_s: PositiveFloat = 600.0
    """A dispatch task hands its shard back after this long, in seconds."""
    max_answer_bytes: PositiveInt = 16 * 2**20
    """An endpoint's answer that is larger, decompressed, fails its call, in bytes; of answers over
    256 KiB eight are read at a time, so that they take eight times as much memory at most."""
    blocked_networks: Annotated[BlockedNetworks, NoDecode] = NONE_BLOCKED
    """Addresses that endpoints must not have, whatever names stand for them: networks with commas
    between them, such as 10.0.0.0/8,fd00::/8, or `private` for all that the internet doesn't
    route. They are looked at as connections are opened; behind a proxy that is the proxy's."""
    webhook_url: str | None = None
    """Where alerts of evaluation runs are sent; unset means nowhere."""
    webhook_secret: SecretStr | None = None
    """Key that signs alerts and what webhooks of batches are told: a text, or `whsec_` and the key
    in base64; two with a space between them while one takes the place of the other."""
    webhook_allow_http: bool = False
    """Whether webhooks of batches may have http:// addresses of other machines."""
    channel_poll_s: PositiveFloat = 30.0
    """Shortest wait between two polls of a batch at a provider, in seconds."""
    channel_timeout_s: PositiveFloat = 60.0
    """Longest wait for a provider's answer to a short request of its batch API, in seconds."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port on which the beat serves metrics for Prometheus; unset means none, 0 means any."""
    metrics_host: str = "127.0.0.1"
    """Address it listens on; metrics have no password, so it must not be public."""
    traces: bool = False
    """Whether to send OpenTelemetry traces of batches; OTEL_EXPORTER_OTLP_ENDPOINT says where to.
    """
    trace_calls_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the calls to models that get a span of their own in those traces, 0 to 1."""
    log_level: str = "INFO"

    @field_validator("home", "checkpoint", "pool")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        """Keep what a path means: other processes and the database know it too."""
        return path.absolute()

    @field_validator("blocked_networks", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        return BlockedNetworks.parse(value) if isinstance(value, str) else value

    @field_validator("database_url", "broker_url")
    @classmethod
    def _check_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Refuse a URL of the wrong kind before anything is done with it."""
        if url is not None:
            schemes, example = _SERVERS[info.field_name or ""]
            _check_server_url(url.get_secret_value(), schemes, example)
        return url

    def shard_count(self, jobs: int) -> int:
        """Return how many shards so many jobs make."""
        return -(-jobs // self.shard_size)

    @property
    def embeddings(self) -> Path:
        """Folder of cached embeddings."""
        return self.home / "cache" / "embeddings"

    @cached_property
    def embedded_database(self) -> bool:
        """Whether the database is the embedded one."""
        return self.database_url is None

    @cached_property
    def embedded_broker(self) -> bool:
        """Whether the broker is the embedded one."""
        return self.broker_url is None


def load_settings() -> Settings:
    """Read the environment.

    Returns:
        The settings, frozen.

    Raises:
        ConfigError: A variable has a value that can't be used; names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "ROUTOO_" + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigError(
            first["msg"].removeprefix("Value error, "),
            where=name,
            remedy="Correct or unset the variable",
        ) from None
