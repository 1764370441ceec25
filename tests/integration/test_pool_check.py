"""Models that can't be scored and endpoints that don't answer are found before a submission."""

import json
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from producer.pool_check import check_endpoints, check_models
from routoo.client.ping import Ping, ping
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.errors import CheckpointError, ConfigError
from routoo.settings import Settings
from routoo.store.database import Database
from tests.fakes.openai_server import FakeServer
from tests.producer_command import ProducerCommand

pytestmark = pytest.mark.anyio

PRICE = Tariff(prompt="1", completion="2")
MANIFEST = {
    "format_version": 1,
    "models": ["small", "large"],
    "backbone": "b",
    "layers": [1],
    "backbone_sha256": "x",
    "weights_sha256": "y",
    "data_sha256": "z",
    "created": "now",
    "settings": {},
    "metrics": {},
}


def candidate(name: str, *urls: str, **endpoint: Any) -> CandidateModel:
    first, *others = [Endpoint(base_url=url, **endpoint) for url in urls]
    return CandidateModel(
        name=name,
        endpoint=first,
        endpoints=[first, *others] if others else (),
        price_usd_per_mtok=PRICE,
        context_window_tokens=4096,
    )


async def answer_with(status: int, body: dict[str, Any] | None = None) -> TestServer:
    async def handle(_request: web.Request) -> web.Response:
        return web.json_response(body or {}, status=status, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    return server


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


async def test_a_pool_that_the_checkpoint_does_not_know_runs_on_priors_and_says_so(
    db: Database, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://localhost:1/v1"
    known = Pool(models=(candidate("small", url), candidate("large", url)))
    assert await check_models(db, known, checkpoint) == []
    pool = Pool(models=(*known.models, candidate("other", url)))
    notes = "\n".join(await check_models(db, pool, checkpoint))
    assert "runs on priors" in notes
    assert all(f"{name}: 0." in notes for name in pool.names)
    assert "by its price" in notes
    assert "50 graded answers would narrow" in notes
    monkeypatch.setattr("producer.pool_check.GENERAL_CHECKPOINT", checkpoint / "none")
    with pytest.raises(CheckpointError, match=r"other.*onboard.*small, large"):
        await check_models(db, pool, checkpoint)


async def test_a_checkpoint_that_is_elsewhere_is_a_note(db: Database, tmp_path: Path) -> None:
    pool = Pool(models=(candidate("small", "http://localhost:1/v1"),))
    assert "scorers will find" in str(await check_models(db, pool, tmp_path / "none"))


async def test_endpoints_that_answer_are_asked_at_no_cost() -> None:
    async with FakeServer() as server:
        pool = Pool(models=(candidate("a", server.base_url), candidate("b", server.base_url)))
        assert await check_endpoints(pool, Settings()) is None
        assert server.requests == []


@pytest.mark.parametrize(
    ("status", "answers"),
    [
        *((200, True), (403, True), (404, True), (405, True), (429, True), (500, True)),
        *((401, False), (302, False), (502, False), (503, False)),
    ],
)
async def test_a_listing_that_is_refused_is_an_answer_unless_calls_would_fail_too(
    status: int, *, answers: bool
) -> None:
    server = await answer_with(status)
    (found,) = await ping([candidate("a", str(server.make_url("/v1")))], timeout_s=5.0)
    await server.close()
    assert (found.problem is None) is answers, found.problem


async def test_a_pool_with_models_away_is_refused_with_their_names_in_bounded_time() -> None:
    async with FakeServer() as server, AsyncExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        urls = [f"http://127.0.0.1:{one.getsockname()[1]}/v1" for one in silent]
        models = [candidate(f"away-{n}", url) for n, url in enumerate(urls)]
        refused = candidate("refused", "http://127.0.0.1:1/v1")
        pool = Pool(models=(candidate("fine", server.base_url), refused, *models))
        started = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            await check_endpoints(pool, Settings(ping_timeout_s=0.3))
        assert time.monotonic() - started < 30  # without the limit: for minutes
        text = str(caught.value)
        assert all(model.name in text for model in (refused, *models))
        assert "fine" not in text
        assert "--no-ping" in text


async def test_one_endpoint_of_several_that_answers_is_enough() -> None:
    async with FakeServer() as server:
        model = candidate("m", "http://127.0.0.1:1/v1", server.base_url)
        assert await check_endpoints(Pool(models=(model,)), Settings()) is None


async def test_a_key_that_only_workers_have_leaves_the_question_open() -> None:
    model = candidate("m", "http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY")
    assert await ping([model], timeout_s=1.0, environ={}) == [
        Ping(("m",), "http://127.0.0.1:1/v1", None, is_unknown=True)
    ]


async def test_submit_and_plan_refuse_before_anything_is_committed(
    database_url: str, tmp_path: Path, checkpoint: Path
) -> None:
    producer = ProducerCommand(database_url, tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n')
    producer.environment["ROUTOO_PING_TIMEOUT_S"] = "1"
    for command in ("submit", "plan"):
        assert "1 models of the pool don't answer" in producer.refusal(command, "rows.jsonl")
    assert producer.run("submit", "rows.jsonl", "--no-ping").returncode == 0
    (checkpoint / "manifest.json").write_text(json.dumps(MANIFEST | {"models": ["large"]}))
    producer.environment["ROUTOO_CHECKPOINT"] = str(checkpoint)
    done = producer.run("submit", "rows.jsonl", "--no-ping", "--name", "other")
    assert done.returncode == 0, done.stderr
    assert "this runs on priors" in done.stderr
