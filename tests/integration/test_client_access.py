"""Keys, headers, paths and proxies of endpoints, against real local servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from routoo.client.access import find_access
from routoo.client.endpoints import ChatEndpoints
from routoo.client.http import HttpClient
from routoo.client.ping import ping
from routoo.domain.endpoint import Endpoint
from routoo.domain.networks import BlockedNetworks
from routoo.domain.pool import CandidateModel, Tariff
from routoo.errors import ConfigError, EndpointDeniedError, EndpointUnavailableError
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
ELSEWHERE = "http://models.test/v1"
"""A host that nothing resolves: only a proxy leads there."""


def candidate(**endpoint: Any) -> CandidateModel:
    return CandidateModel(
        name="m",
        endpoint=Endpoint(**endpoint),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=1000,
        max_completion_tokens=64,
        image_prompt_tokens=500,
    )


async def ask(model: CandidateModel, body: dict[str, Any] = CHAT, **environ: str) -> str:
    async with ChatEndpoints(environ=environ) as client:
        return (await client.complete(model, body)).answer


def port_of(server: FakeServer) -> int:
    return int(server.base_url.split(":")[-1].split("/")[0])


@asynccontextmanager
async def serving(path: str, requests: list[tuple[web.Request, bytes]]) -> AsyncIterator[int]:
    """Answer "4" at one path and keep what was asked."""

    async def answer(request: web.Request) -> web.Response:
        requests.append((request, await request.read()))
        return web.json_response({"choices": [{"message": {"content": "4"}}]})

    app = web.Application()
    app.router.add_post(path, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_an_azure_deployment_is_asked_with_its_path_query_and_bare_key() -> None:
    requests: list[tuple[web.Request, bytes]] = []
    async with serving("/openai/deployments/gpt/chat/completions", requests) as port:
        model = candidate(
            base_url=f"http://127.0.0.1:{port}/openai/deployments/gpt?api-version=2024-10-21",
            api_key_env="AZURE_KEY",
            api_key_header="api-key",
        )
        assert await ask(model, AZURE_KEY=" s3cret\n") == "4"
    request, _ = requests[0]
    assert request.query["api-version"] == "2024-10-21"
    assert request.headers["api-key"] == "s3cret"
    assert "Authorization" not in request.headers


async def test_fields_nobody_knows_and_images_arrive_as_they_were_given() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}],
        "vendor": {"deep": [1, 2.5, None, "\u00e9"]},
        "max_tokens": 9,
    }
    requests: list[tuple[web.Request, bytes]] = []
    async with serving("/chat/completions", requests) as port:
        assert await ask(candidate(base_url=f"http://127.0.0.1:{port}"), body) == "4"
    assert orjson.loads(requests[0][1]) == {**body, "model": "m"}


async def test_a_named_proxy_is_used_with_its_credentials() -> None:
    async with (
        FakeServer({"models": {"m": {"answer": "4", "api_key": "k3y"}}}) as server,
        ForwardProxy(port_of(server), credentials="me:hunter2") as proxy,
    ):
        model = candidate(base_url=ELSEWHERE, api_key_env="KEY", proxy_url_env="OUT")
        url = f"http://me:hunter2@127.0.0.1:{proxy.port}"
        assert await ask(model, KEY="k3y", OUT=url) == "4"
        assert proxy.targets == [f"{ELSEWHERE}/chat/completions"]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
async def test_the_machines_proxy_is_used_where_the_pool_names_none(name: str) -> None:
    async with (
        FakeServer({"models": {"m": {"answer": "4"}}}) as server,
        ForwardProxy(port_of(server)) as proxy,
    ):
        url = f"http://127.0.0.1:{proxy.port}"
        assert await ask(candidate(base_url=ELSEWHERE), **{name: url}) == "4"
        assert proxy.targets == [f"{ELSEWHERE}/chat/completions"]


@pytest.mark.parametrize(
    ("base_url", "no_proxy"),
    [
        (ELSEWHERE, "other.test, .models.test"),
        (ELSEWHERE, "*"),
        ("http://localhost:1/v1", ""),
        ("http://[::1]:1/v1", ""),
        ("http://127.0.0.2:1/v1", ""),
    ],
)
def test_hosts_of_no_proxy_and_this_machine_are_called_directly(
    base_url: str, no_proxy: str
) -> None:
    environ = {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": no_proxy}
    assert find_access(candidate(base_url=base_url), environ).proxy is None
    assert find_access(candidate(base_url="http://a.test/v1"), {**environ, "NO_PROXY": ""}).proxy


async def test_a_proxy_that_wants_other_credentials_is_named_as_the_reason() -> None:
    async with FakeServer() as server, ForwardProxy(port_of(server), credentials="a:b") as proxy:
        url = f"http://me:hunter2@127.0.0.1:{proxy.port}"
        with pytest.raises(EndpointDeniedError, match="proxy's user and password") as caught:
            await ask(candidate(base_url=ELSEWHERE, proxy_url_env="OUT"), OUT=url)
        assert "hunter2" not in str(caught.value)
        with pytest.raises(EndpointUnavailableError, match="proxy") as tunnel:
            await ask(candidate(base_url="https://models.test/v1"), HTTPS_PROXY=url)
        assert not tunnel.value.maybe_billed
        assert "hunter2" not in f"{tunnel.value} {tunnel.value.__cause__}"
        assert proxy.targets[1] == "models.test:443"


def test_a_proxy_that_is_not_set_is_named_like_a_key() -> None:
    with pytest.raises(ConfigError, match="OUT"):
        ChatEndpoints([candidate(base_url=ELSEWHERE, proxy_url_env="OUT")], environ={})


@pytest.mark.parametrize("url", ["socks5://me:hunter2@h:1", "me:hunter2@h:1", "http://"])
def test_a_proxy_of_another_kind_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="OUT") as caught:
        find_access(candidate(base_url=ELSEWHERE, proxy_url_env="OUT"), {"OUT": url})
    assert "hunter2" not in str(caught.value)


def test_a_key_with_a_line_break_is_refused_and_not_shown() -> None:
    model = candidate(base_url=ELSEWHERE, api_key_env="KEY")
    with pytest.raises(ConfigError, match="line break") as caught:
        find_access(model, {"KEY": "s3cret\r\nX: y"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_blocked_addresses_are_not_connected_to_whatever_their_names(host: str) -> None:
    async with FakeServer({"models": {"*": {}}}) as server:
        model = candidate(base_url=f"http://{host}:{port_of(server)}/v1")
        blocked = BlockedNetworks.parse("private")
        async with ChatEndpoints(environ={}, http=HttpClient(blocked=blocked)) as client:
            with pytest.raises(EndpointDeniedError, match="ROUTOO_BLOCKED_NETWORKS"):
                await client.complete(model, CHAT)
        (found,) = await ping([model], timeout_s=5.0, environ={}, blocked=blocked)
        assert "ROUTOO_BLOCKED_NETWORKS" in str(found.problem)
        assert server.requests == []
        elsewhere = BlockedNetworks.parse("10.0.0.0/8, fd00::/8")
        async with ChatEndpoints(environ={}, http=HttpClient(blocked=elsewhere)) as client:
            assert await client.complete(model, CHAT)
