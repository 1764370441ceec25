"""The fake endpoint itself: deterministic, and its log is right."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fake_script import Fault, ModelScript
from tests.fakes.openai_process import SERVER, FakeServerProcess


def ask(base_url: str, prompt: object, **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
    request = urllib.request.Request(f"{base_url}/chat/completions", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return dict(json.load(response))


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_the_same_prompt_gets_the_same_answer_in_any_process() -> None:
    answers = set()
    for _ in range(2):
        with FakeServerProcess({"models": {"m": {}}}) as server:
            answers.add(text_of(ask(server.base_url, "hello")))
    assert len(answers) == 1


def test_the_books_hold_every_request_with_its_bill() -> None:
    script = {"models": {"m": {"answers": {"one": "first answer"}, "answer": "other"}}}
    with FakeServerProcess(script) as server:
        bills = [ask(server.base_url, prompt)["usage"] for prompt in ("one", "two", "three")]
        log = server.log()
        assert [row["prompt"] for row in log] == ["one", "two", "three"]
        assert [row["completion_tokens"] for row in log] == [2, 1, 1]
        assert [row["prompt_tokens"] for row in log] == [bill["prompt_tokens"] for bill in bills]
        server.clear_log()
        assert server.log() == []


def test_a_limit_cuts_the_answer_and_its_bill() -> None:
    with FakeServerProcess({"models": {"m": {"answer": "one two three"}}}) as server:
        answer = ask(server.base_url, "count", max_tokens=2)
        assert text_of(answer) == "one two"
        assert answer["usage"]["completion_tokens"] == 2
        assert answer["choices"][0]["finish_reason"] == "length"


def test_a_provider_may_obey_another_limit_field_or_none_and_refuse_one() -> None:
    script = {
        "models": {
            "m": {"answer": "one two three", "limit_fields": ["max_tokens"]},
            "free": {"answer": "one two three", "limit_fields": []},
            "picky": {"refuses": {"max_tokens": "Unsupported parameter: 'max_tokens'"}},
        }
    }
    with FakeServerProcess(script) as server:
        both = {"max_tokens": 2, "max_completion_tokens": 1}
        assert text_of(ask(server.base_url, "count", **both)) == "one two"
        assert text_of(ask(server.base_url, "count", model="free", **both)) == "one two three"
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(server.base_url, "count", model="picky", **both)
        error = json.load(caught.value)["error"]
        assert (caught.value.code, error["param"]) == (400, "max_tokens")
        assert {"max_completion_tokens", "max_tokens"} < set(server.log()[0]["fields"])


def test_a_patch_changes_the_answer_and_its_bill() -> None:
    usage = {"total_tokens": 525, "completion_tokens": 5, "prompt_tokens": 20}
    choice = {"finish_reason": "SAFETY", "message": {"refusal": "no"}}
    with FakeServerProcess(
        {"models": {"m": {"patch": {"usage": usage, "choices": [choice]}}}}
    ) as server:
        answer = ask(server.base_url, "count")
        assert answer["usage"] == usage
        assert answer["choices"][0]["finish_reason"] == "SAFETY"
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert server.log()[0]["completion_tokens"] == 505


def test_a_reply_is_sent_byte_by_byte_instead_of_the_answer() -> None:
    fault = {"kind": "reply", "status": 200, "headers": {"X-A": "b"}, "base64": "/w==", "repeat": 3}
    with FakeServerProcess({"models": {"m": {"faults": [fault]}}}) as server:
        request = urllib.request.Request(
            f"{server.base_url}/chat/completions", data=b'{"model": "m", "messages": []}'
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert (response.read(), response.headers["X-A"]) == (b"\xff\xff\xff", "b")


def test_a_content_part_is_billed_by_its_type() -> None:
    with FakeServerProcess({"models": {"m": {"part_tokens": {"file": 5000}}}}) as server:
        parts = [{"type": "text", "text": "sum up"}, {"type": "file", "file": {"file_id": "f"}}]
        assert ask(server.base_url, parts)["usage"]["prompt_tokens"] > 5000


def test_another_script_holds_from_now_on() -> None:
    with FakeServerProcess({"models": {"m": {"faults": [{"kind": "status"}]}}}) as server:
        with pytest.raises(urllib.error.HTTPError):
            ask(server.base_url, "hi")
        server.set_script({"models": {"m": {"answer": "healed"}}})
        assert text_of(ask(server.base_url, "hi")) == "healed"
        assert [row["fault"] for row in server.log()] == ["status", None]


def test_it_starts_from_a_command_line_and_ends_on_sigterm(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    script = tmp_path / "script.json"
    script.write_text('{"models": {"m": {}}}', encoding="utf-8")
    command = [sys.executable, SERVER, "--port-file", port_file, "--script", script]
    with subprocess.Popen(command) as process:
        while not port_file.exists():
            assert process.poll() is None
        base_url = f"http://127.0.0.1:{port_file.read_text(encoding='utf-8')}/v1"
        assert text_of(ask(base_url, "hi"))
        process.terminate()
    assert process.returncode == 0


def test_faults_strike_by_count_by_period_by_prompt_and_by_text() -> None:
    assert [Fault("reset", first=2).strikes(n, "p", 1) for n in (1, 2, 3)] == [True, True, False]
    assert [Fault("reset", every=3).strikes(n, "p", 1) for n in (1, 3, 6)] == [False, True, True]
    assert [Fault("reset", first_per_prompt=1).strikes(9, "p", n) for n in (1, 2)] == [True, False]
    assert [Fault("reset", containing="x").strikes(1, p, 1) for p in ("axb", "ab")] == [True, False]


def test_only_faults_after_the_answer_are_billed() -> None:
    assert Fault("half_body").is_billed
    assert not Fault("rate_limit").is_billed
    assert Fault("reset", billed=True).is_billed


def test_latencies_follow_their_distribution_and_repeat() -> None:
    script = ModelScript(latency_s={"p50": 0.1, "p99": 1.0})
    latencies = [script.latency_of("m", n) for n in range(2000)]
    assert latencies == [script.latency_of("m", n) for n in range(2000)]
    ordered = sorted(latencies)
    assert ordered[1000] == pytest.approx(0.1, rel=0.2)
    assert ordered[1980] == pytest.approx(1.0, rel=0.4)
    flat = ModelScript(latency_s={"low": 1, "high": 2})
    assert all(1 <= flat.latency_of("m", n) <= 2 for n in range(100))
