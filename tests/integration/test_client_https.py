"""Calls over HTTPS: whose certificates are trusted, and what is said of the others."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.pool import CandidateModel
from routoo.errors import EndpointDeniedError, EndpointError, EndpointUnavailableError
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.openai_server import FakeServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate"),
]

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
SCRIPT = {"models": {"m": {"answer": "The answer is 4.", "api_key": "k3y"}}}
ELSEWHERE = "https://models.test/v1"
"""A host that nothing resolves: only a proxy leads there."""


@dataclass(frozen=True)
class Certificate:
    """A certificate that signed itself."""

    path: Path
    served: ssl.SSLContext


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return _certificate(tmp_path_factory.mktemp("here"), "IP:127.0.0.1")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return _certificate(tmp_path_factory.mktemp("elsewhere"), "DNS:models.test")


def _certificate(folder: Path, name: str) -> Certificate:
    """Make a certificate for a name that is valid for two days."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return Certificate(certificate, context)


def _model(**endpoint: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "endpoint": {"api_key_env": "KEY", **endpoint},
        "price_usd_per_mtok": {"prompt": 1, "completion": 1},
        "context_window_tokens": 1000,
    }


async def _refused(base_url: str, error: type[EndpointError]) -> EndpointError:
    model = CandidateModel.model_validate(_model(base_url=base_url))
    async with ChatEndpoints(environ={"KEY": "k3y"}) as client:
        with pytest.raises(error) as caught:
            await client.complete(model, CHAT)
    return caught.value


async def _collect(
    folder: Path, environ: dict[str, str], **endpoint: Any
) -> tuple[int | None, str]:
    """Ask in a process of its own: what is trusted is read when it starts."""
    pool, items = folder / "pool.yaml", folder / "items.jsonl"
    pool.write_text(json.dumps({"models": [_model(**endpoint)]}), encoding="utf-8")
    item = {"item_id": "sum", "prompt": "What is 2 + 2?", "answer": "4"}
    items.write_text(json.dumps(item) + "\n", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "routoo.cli.main", "collect", "--json"),
        *("--pool", str(pool), "--items", str(items), "--out", str(folder / "out.parquet")),
        env=os.environ | {"KEY": "k3y"} | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, " ".join(output.decode().split())


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    here: Certificate,
) -> None:
    async with FakeServer(SCRIPT, tls=here.served) as server:
        error = await _refused(server.base_url, EndpointDeniedError)
        assert not server.requests
    assert not error.maybe_billed
    assert not error.retryable
    for said in ("certificate is not valid", "self-signed certificate", "SSL_CERT_FILE"):
        assert said in str(error)
    assert server.base_url in str(error)
    assert "k3y" not in str(error)


async def test_a_server_that_speaks_no_tls_may_be_asked_again_and_was_sent_nothing() -> None:
    async with FakeServer(SCRIPT) as server:
        url = server.base_url.replace("http:", "https:")
        error = await _refused(url, EndpointUnavailableError)
        assert not server.requests
    assert not error.maybe_billed


async def test_a_certificate_in_the_file_that_is_trusted_answers(
    here: Certificate, tmp_path: Path
) -> None:
    async with FakeServer(SCRIPT, tls=here.served) as server:
        trusted = {"SSL_CERT_FILE": str(here.path)}
        status, said = await _collect(tmp_path, trusted, base_url=server.base_url)
        assert status == 0, said
        assert len(server.requests) == 1


async def test_a_trusted_certificate_of_another_host_is_refused(
    elsewhere: Certificate, tmp_path: Path
) -> None:
    async with FakeServer(SCRIPT, tls=elsewhere.served) as server:
        trusted = {"SSL_CERT_FILE": str(elsewhere.path)}
        status, said = await _collect(tmp_path, trusted, base_url=server.base_url)
        assert status != 0
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in said
        assert not server.requests


async def test_a_tunnel_hides_the_key_from_the_proxy_that_leads_to_the_host(
    elsewhere: Certificate, tmp_path: Path
) -> None:
    async with FakeServer(SCRIPT, tls=elsewhere.served) as server:
        port = int(server.base_url.split(":")[-1].split("/")[0])
        async with ForwardProxy(port, credentials="me:hunter2", tunnels=True) as proxy:
            environ = {
                "SSL_CERT_FILE": str(elsewhere.path),
                "OUT": f"http://me:hunter2@127.0.0.1:{proxy.port}",
            }
            status, said = await _collect(
                tmp_path, environ, base_url=ELSEWHERE, proxy_url_env="OUT"
            )
            assert status == 0, said
            assert proxy.targets == ["models.test:443"]
        assert len(server.requests) == 1
