"""The doctor's check of traces: whether they can be made, and whether their collector answers."""

import importlib.util
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from worker.doctor.finding import Finding, Health, Known

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own, the stronger first."""
_COLLECTOR = "http://localhost:4318"
"""Where OpenTelemetry sends traces by default."""
_PORTS = {"http": 80, "https": 443}
_CONNECT_TIMEOUT_S = 3.0


def check_traces(name: str, known: Known) -> Iterator[Finding]:
    """Look whether traces can be sent, where they are wanted."""
    if not known.settings.traces:
        return
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        remedy = 'Install it with `pip install "routoo[otel]"`, or unset ROUTOO_TRACES'
        yield Finding(name, Health.BROKEN, "OpenTelemetry is not installed", remedy)
        return
    named = [known.environ[one] for one in _VARIABLES if known.environ.get(one)]
    url = urlsplit(named[0] if named else _COLLECTOR)
    port = url.port or _PORTS.get(url.scheme, 0)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=_CONNECT_TIMEOUT_S):
            found = f"the collector at {url.hostname}:{port} takes connections"
            yield Finding(name, Health.OK, found)
    except OSError as error:
        found = f"no collector at {url.hostname}:{port}: {error.strerror or error}"
        remedy = "Start it, or correct OTEL_EXPORTER_OTLP_ENDPOINT; batches run without traces"
        yield Finding(name, Health.WARNING, found, remedy)
