"""`routoo pool check` beside a database."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from routoo.domain.behaviour import EndpointBehaviour, behaviour_key
from routoo.domain.pool import LimitField
from routoo.domain.pool_file import load_pool
from routoo.store import endpoint_behaviour
from routoo.store.database import Database

POOL = """
models:
  - name: small
    endpoint: {base_url: "http://endpoint.test/v1"}
    price_usd_per_mtok: {prompt: 1, completion: 1}
    context_window_tokens: 4096
"""


def check(pool: Path, url: str) -> str:
    command = [Path(sys.executable).parent / "routoo", "pool", "check", pool]
    environ = os.environ | {"ROUTOO_DATABASE_URL": url}
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_it_tells_what_dispatchers_found_of_an_endpoint(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(POOL, encoding="utf-8")
    assert "takes its limit" not in check(path, database_url)
    key = behaviour_key(load_pool(path).models[0])
    found = {key: EndpointBehaviour(LimitField.MAX_COMPLETION_TOKENS, 0, 3590)}

    async def save() -> None:
        async with Database(database_url) as db, db.transaction() as conn:
            await endpoint_behaviour.save(conn, found)

    asyncio.run(save())
    told = check(path, database_url)
    assert "small at http://endpoint.test/v1: billed up to 3,590 completion tokens" in told
    assert "takes its limit from max_completion_tokens" in told


def test_it_needs_no_database(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(POOL, encoding="utf-8")
    assert "1 models" in check(path, "postgresql://nobody@127.0.0.1:1/none")
