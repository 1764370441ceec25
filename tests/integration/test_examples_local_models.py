"""The example's model servers as processes: a real one where its file is cached, else none."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from examples.local_models.catalogue import MODELS, LocalModel
from examples.local_models.fetch import models_folder
from examples.local_models.serve import LocalModels, is_port_free, is_serving
from routoo.errors import EmbeddedStackError
from routoo.settings import REPOSITORY, load_settings

SMALLEST = MODELS[0]
CACHED = models_folder(load_settings().home) / SMALLEST.file_name
needs_model = pytest.mark.skipif(
    not CACHED.is_file(), reason="run `python -m examples.local_models fetch` first"
)
DEADLINE_S = 30


def wait_until_free(port: int) -> None:
    """Wait until nothing listens on a port, or fail."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_port_free(port):
        assert time.monotonic() < deadline, f"port {port} is still taken"
        time.sleep(0.05)


@pytest.fixture
def port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def model(port: int) -> LocalModel:
    """Return the smallest model on a port of its own."""
    return replace(SMALLEST, port=port)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with the smallest model's file in it."""
    models_folder(tmp_path).mkdir()
    (models_folder(tmp_path) / SMALLEST.file_name).symlink_to(CACHED)
    return tmp_path


@pytest.fixture
def listener(port: int) -> Iterator[int]:
    """Occupy the port with something that is no model server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def ask(port: int, question: str) -> dict[str, object]:
    """Ask a server one question and return the whole response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 4}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200
    return dict(answer)


@needs_model
def test_a_served_model_answers_with_usage_and_stops_with_its_context(
    model: LocalModel, home: Path
) -> None:
    with LocalModels([model], home) as servers:
        assert is_serving(model)
        servers.check()
        answer = ask(model.port, "What is the capital of France?")
        assert answer["usage"]["completion_tokens"] == 4  # type: ignore[index]
    wait_until_free(model.port)


@needs_model
def test_a_server_that_already_answers_is_used_and_left_running(
    model: LocalModel, home: Path
) -> None:
    with LocalModels([model], home):
        with LocalModels([model], home):
            assert is_serving(model)
        assert is_serving(model)


@needs_model
def test_servers_end_when_their_parent_is_killed(model: LocalModel, home: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from dataclasses import replace
        from pathlib import Path
        from examples.local_models.catalogue import MODELS
        from examples.local_models.serve import LocalModels
        LocalModels([replace(MODELS[0], port=int(sys.argv[2]))], Path(sys.argv[1])).start()
        print("up", flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(home), str(model.port)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert parent.stdout.readline() == b"up\n"
        os.kill(parent.pid, signal.SIGKILL)
    wait_until_free(model.port)


def test_a_port_taken_by_something_else_is_reported_with_a_remedy(
    listener: int, tmp_path: Path
) -> None:
    with pytest.raises(
        EmbeddedStackError, match=rf"port {listener} .* taken .*lsof -i :{listener}"
    ):
        LocalModels([replace(SMALLEST, port=listener)], tmp_path).start()


def test_a_server_that_ends_at_once_is_reported_with_its_log(port: int, tmp_path: Path) -> None:
    broken = replace(SMALLEST, port=port)
    models_folder(tmp_path).mkdir()
    (models_folder(tmp_path) / broken.file_name).write_bytes(b"no GGUF")
    with pytest.raises(EmbeddedStackError, match=r"ended with status") as caught:
        LocalModels([broken], tmp_path).start()
    log = Path(str(caught.value.where))
    assert log.read_bytes()


def test_the_command_line_names_an_unknown_model_and_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.local_models", "fetch", "gpt-5"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "smollm2-135m-instruct" in done.stderr
