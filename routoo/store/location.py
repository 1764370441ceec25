"""Database URLs: one spelling for the driver, one that may be shown."""

import re
from urllib.parse import urlsplit, urlunsplit


def libpq_url(url: str) -> str:
    """Return the URL as libpq reads it, without the driver that SQLAlchemy users add."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


def redacted(url: str) -> str:
    """Return the URL without its password and query, fit for messages and logs."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit((parts.scheme, f"{name}@{host}" if name else host, parts.path, "", ""))
