"""Looks at the servers' ports from outside."""

import http.client
import json
import socket

from examples.local_models.catalogue import LocalModel

_TIMEOUT_S = 2.0


def is_serving(model: LocalModel) -> bool:
    """Return whether the model's port answers, is healthy and serves this model."""
    if _get(model.port, "/health") is None:
        return False
    listed = _get(model.port, "/v1/models")
    entries = listed.get("data", []) if isinstance(listed, dict) else []
    return any(isinstance(entry, dict) and entry.get("id") == model.name for entry in entries)


def is_port_free(port: int) -> bool:
    """Return whether nothing listens on this port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT after a restart counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _get(port: int, path: str) -> object:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
