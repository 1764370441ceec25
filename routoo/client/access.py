"""Finds how an endpoint is reached: the header that carries its key, and the proxy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # no stub

from aiohttp import encode_basic_auth
from yarl import URL

from routoo.domain.endpoint import Endpoint
from routoo.domain.networks import is_loopback
from routoo.domain.pool import CandidateModel
from routoo.errors import ConfigError

_BEARER_HEADER = "authorization"
_FORBIDDEN = frozenset("\r\n\0")
"""Characters that would end a header (RFC 9110, section 5.5)."""


@dataclass(frozen=True, slots=True)
class Access:
    """What every call to an endpoint has in common."""

    headers: Mapping[str, str]
    """Headers that carry the key; empty where none is needed."""
    key: str | None
    """The key itself, so that messages can be cleared of it."""
    proxy: URL | None
    """Proxy to go through; None goes straight to the endpoint."""
    proxy_headers: Mapping[str, str] | None
    """The proxy's credentials, apart from its URL, which aiohttp's errors quote."""


def find_access(model: CandidateModel, environ: Mapping[str, str]) -> Access:
    """Look up the key and the proxy of a model's endpoint in the environment.

    The proxy is the one that the pool's `proxy_url_env` names, else that of `HTTP_PROXY` or
    `HTTPS_PROXY`. Those two don't hold for hosts in `NO_PROXY`, nor for this machine itself, which
    no proxy elsewhere could reach (Go's net/http does the same).

    Raises:
        ConfigError: A variable that the pool names is not set, the key can't be sent in a header,
            or a proxy's URL is unusable.
    """
    check_variables([model], environ)
    endpoint = model.endpoint
    key = environ[endpoint.api_key_env].strip() if endpoint.api_key_env else None
    headers = {} if key is None else {endpoint.api_key_header: _header_value(endpoint, key)}
    _check_headers(headers)
    proxy = _proxy(endpoint, environ)
    if proxy is None or proxy.user is None:
        return Access(headers, key, proxy, None)
    credentials = {"Proxy-Authorization": encode_basic_auth(proxy.user, proxy.password or "")}
    if URL(endpoint.base_url).scheme == "http":  # no tunnel: the proxy reads the request itself
        return Access(headers | credentials, key, proxy.with_user(None), None)
    return Access(headers, key, proxy.with_user(None), credentials)


def check_variables(models: Iterable[CandidateModel], environ: Mapping[str, str]) -> None:
    """Check that every variable that the models' endpoints name is in the environment.

    Raises:
        ConfigError: Some are not; names all the variables.
    """
    named = {name: model.name for model in models for name in variables_of(model)}
    missing = sorted(name for name in named if not environ.get(name, "").strip())
    if missing:
        raise ConfigError(
            f"the environment variable {', '.join(missing)} is not set",
            where=f"API key or proxy of {', '.join(named[name] for name in missing)}",
            remedy="Set it, or remove api_key_env or proxy_url_env from the pool if none is needed",
        )


def variables_of(model: CandidateModel) -> tuple[str, ...]:
    """Return the environment variables that calls to a model need."""
    named = ((endpoint.api_key_env, endpoint.proxy_url_env) for endpoint in model.all_endpoints)
    return tuple(name for pair in named for name in pair if name)


def _header_value(endpoint: Endpoint, key: str) -> str:
    return f"Bearer {key}" if endpoint.api_key_header.lower() == _BEARER_HEADER else key


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if _FORBIDDEN.intersection(value):
            # The value may be a key, so it is not shown.
            raise ConfigError(
                "the header holds a line break and can't be sent",
                where=f"header {name}",
                remedy="Remove the line break from the environment variable that holds the key",
            )


def _proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> URL | None:
    if endpoint.proxy_url_env:
        return _proxy_url(endpoint.proxy_url_env, environ)
    url = URL(endpoint.base_url)
    # Lower case first, as curl does; for http some tools read lower case only, others either.
    names = (f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper())
    name = next((name for name in names if environ.get(name, "").strip()), None)
    if name is None or _is_bypassed(url, environ):
        return None
    return _proxy_url(name, environ)


def _is_bypassed(url: URL, environ: Mapping[str, str]) -> bool:
    host = url.host or ""
    if is_loopback(host):
        return True
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return bool(proxy_bypass_environment(f"{host}:{url.port}", {"no": listed}))


def _proxy_url(name: str, environ: Mapping[str, str]) -> URL:
    try:
        url = URL(environ[name].strip())
    except ValueError:
        url = URL()
    if url.scheme in {"http", "https"} and url.host:
        return url
    # The value may hold a password, so it is not shown.
    raise ConfigError(
        "the proxy's URL can't be used",
        where=name,
        remedy="Give http://HOST:PORT, with USER:PASSWORD@ before the host if the proxy wants them",
    )
