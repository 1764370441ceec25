"""One batch's spans form one trace, whoever makes them, and hold nothing of prompts."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from producer.results.export import export
from producer.results.formats import Export, ResultFormat
from producer.rows.source import Source
from producer.submit import BatchRequest, submit
from routoo.client.endpoints import ChatEndpoints
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.select.shard import select_shard
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.store import batches, predictions
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.shards import Done, WorkOutcome
from routoo.tracing import span, tracing
from routoo.tracing.otel import batch_trace_ids
from tests.dispatch_factory import pool_of, predictions_of
from tests.fakes.openai_server import FakeServer
from tests.producer_command import ProducerCommand

pytestmark = pytest.mark.anyio

PROMPT = "The answer is blue, says nobody"


@contextmanager
def collected(call_share: float = 1.0) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    with tracing("test", is_wanted=True, call_share=call_share, processor=processor):
        yield exporter


def worker(db: Database, client: ChatEndpoints) -> ShardWorker:
    async def score(lease: Lease, _: BatchRecord) -> WorkOutcome:
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(lease.job_count))
        return Done()

    async def select(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await select_shard(db, lease, batch)
        return Done()

    async def dispatch(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        options, stop = DispatchOptions(), asyncio.Event()
        return await dispatch_shard(db, client, lease, batch, options=options, stop=stop)

    stages = {Stage.SCORE: score, Stage.SELECT: select, Stage.DISPATCH: dispatch}
    works = {stage: StageWork(work) for stage, work in stages.items()}
    return ShardWorker(db, "me", works, lease_s=60.0, max_failures=2)


async def run_batch(db: Database, folder: Path) -> UUID:
    """Submit two jobs, one of which fails once, do all stages, and write the results."""
    rows = [{"custom_id": name, "prompt": PROMPT, "temperature": 1} for name in "ab"]
    source = folder / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    script = {
        "models": {
            "small": {},
            "large": {"faults": [{"kind": "status", "first": 1, "message": PROMPT}]},
        }
    }
    async with FakeServer(script) as server:
        pool = pool_of(server)
        submitted = await submit(db, Source.of(str(source)), BatchRequest(pool), shard_size=1)
        async with ChatEndpoints(pool.models) as client:
            me, due = worker(db, client), [ShardKey(submitted.batch_id, Stage.SCORE, 0)]
            due.append(ShardKey(submitted.batch_id, Stage.SCORE, 1))
            while due:
                due += (await me.handle(due.pop(0))).publish
    async with db.transaction() as conn:
        batch = await batches.get(conn, submitted.batch_id)
        await export(conn, batch, Export(ResultFormat.JSONL, folder / "out.jsonl"))
    return submitted.batch_id


def names(spans: tuple[ReadableSpan, ...]) -> list[str]:
    return sorted(one.name for one in spans)


async def test_a_batch_is_one_trace_from_its_submission_to_its_results(
    db: Database, tmp_path: Path
) -> None:
    with collected() as exporter:
        batch_id = await run_batch(db, tmp_path)
    spans = exporter.get_finished_spans()
    trace_id, root_id = batch_trace_ids(batch_id)
    assert {one.context.trace_id for one in spans} == {trace_id}
    by_id = {one.context.span_id: one for one in spans}
    root = by_id[root_id]
    assert root.name == "batch"
    assert root.attributes["routoo.status"] == "completed"
    stages = [one for one in spans if one.name not in {"batch", "call"}]
    assert names(tuple(stages)) == [
        *["dispatch shard"] * 2, *["score shard"] * 2, "select shard", "submit", "write results",
    ]  # fmt: skip
    assert all(one.parent.span_id == root_id for one in stages)
    calls = [one for one in spans if one.name == "call"]
    assert {by_id[one.parent.span_id].name for one in calls} == {"dispatch shard"}
    answered = [one for one in calls if one.status.is_ok or one.status.is_unset]
    assert len(answered) == 2
    assert all(one.attributes["routoo.completion_tokens"] > 0 for one in answered)


async def test_spans_hold_nothing_of_prompts_and_failures_only_their_kind(
    db: Database, tmp_path: Path
) -> None:
    with collected() as exporter:
        await run_batch(db, tmp_path)
        with pytest.raises(ValueError, match=PROMPT), span("other", uuid4()):
            raise ValueError(PROMPT)
    spans = exporter.get_finished_spans()
    assert spans[-1].attributes["error.type"] == "ValueError"
    assert PROMPT not in "".join(one.to_json() for one in spans)


async def test_only_a_share_of_the_calls_gets_a_span(db: Database, tmp_path: Path) -> None:
    with collected(call_share=0.0) as exporter:
        await run_batch(db, tmp_path)
    assert "call" not in names(exporter.get_finished_spans())
    assert "dispatch shard" in names(exporter.get_finished_spans())


def test_every_process_decides_alike_whether_a_batch_is_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    ids = [uuid4() for _ in range(200)]
    kept = []
    for _ in range(2):  # two processes
        with collected() as exporter:
            for batch_id in ids:
                with span("part", batch_id):
                    pass
        kept.append({one.context.trace_id for one in exporter.get_finished_spans()})
    assert kept[0] == kept[1]
    assert 60 < len(kept[0]) < 140


def test_the_span_of_the_program_that_submits_is_linked() -> None:
    with collected() as exporter:
        tracer = TracerProvider().get_tracer("of the program")
        with tracer.start_as_current_span("its request") as its, span("submit", uuid4()):
            assert trace.get_current_span() is not its
    (made,) = exporter.get_finished_spans()
    assert [link.context for link in made.links] == [its.get_span_context()]


def test_a_part_of_nothing_that_is_traced_is_not_traced() -> None:
    with collected() as exporter, span("call") as made:
        assert made is None
    assert not exporter.get_finished_spans()


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[str] = []
        self.services: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = ExportTraceServiceRequest.FromString(body)
        for resource in found.resource_spans:
            facts = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.server.services.add(facts["service.name"])
            self.server.spans += [one.name for part in resource.scope_spans for one in part.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


async def test_a_command_sends_its_spans_before_it_ends(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello"}')
    command = ProducerCommand(database_url, tmp_path)
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        command.environment |= {
            "ROUTOO_TRACES": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        done = await asyncio.to_thread(command.run, "submit", "rows.jsonl")
        collector.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert collector.spans == ["submit"]
    assert collector.services == {"routoo-producer"}


def test_where_it_is_off_nothing_of_it_is_loaded() -> None:
    program = """
import sys, uuid
import producer.submit, producer.results.export, worker.runtime
from routoo.tracing import note, span, tracing
with tracing("x", is_wanted=False), span("part", uuid.uuid4()) as made:
    note(made, jobs=1)
print("opentelemetry.sdk" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
