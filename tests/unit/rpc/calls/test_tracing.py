"""Calls as spans: who is whose child, on both planes, and what a peer may send instead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from lattica.rpc import DeadlineExceededError, RpcConfig, with_options
from lattica.rpc.telemetry.tracing import Tracing
from tests.support.rpc.pair import Pair, rpc_pair


class Kitchen:
    """Its methods say in which trace they run."""

    async def at_once(self) -> str:
        return here()

    async def later(self) -> str:
        await trio.sleep(0)
        return here()

    def in_thread(self) -> str:
        return here()

    async def large(self, data: bytes) -> str:
        return here()

    async def stream(self, count: int) -> AsyncIterator[str]:
        for _ in range(count):
            await trio.sleep(0)
            yield here()

    async def gather(self, items: AsyncIterator[int]) -> str:
        _ = [item async for item in items]
        return here()

    async def fail(self) -> None:
        raise KeyError("salt")

    async def hang(self) -> None:
        await trio.sleep_forever()


def here() -> str:
    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:x} {found.span_id:x}"


class Traced:
    """A pair whose calls are spans."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        for side in (pair.server._server, pair.client._client):
            side.tracing = Tracing(provider)
        pair.server.serve(Kitchen())
        self.stub: Any = pair.client.stub(pair.server_host.peer_id, Kitchen)

    def spans(self, method: str) -> list[ReadableSpan]:
        """The client's, and the server's."""
        found = [
            span for span in self.exporter.get_finished_spans() if span.name == f"Kitchen.{method}"
        ]
        return sorted(found, key=lambda span: span.kind is SpanKind.SERVER)


@asynccontextmanager
async def traced() -> AsyncIterator[Traced]:
    async with rpc_pair() as pair:
        yield Traced(pair)


async def settled(on: Traced, method: str, count: int = 2) -> list[ReadableSpan]:
    """The spans of a method, once they have ended on both sides."""
    with trio.fail_after(60):
        while len(on.spans(method)) < count:
            await trio.sleep(0)
    return on.spans(method)


@pytest.mark.parametrize("method", ["at_once", "later", "in_thread", "large", "stream", "gather"])
async def test_spans_belong_together(method: str) -> None:
    async with traced() as on:
        with on.tracer.start_as_current_span("program") as own:
            match method:
                case "large":
                    answer = await on.stub.large(bytes(100_000))
                case "stream":
                    (answer,) = {item async for item in on.stub.stream(3)}
                case "gather":
                    answer = await on.stub.gather([1, 2])
                case _:
                    answer = await getattr(on.stub, method)()
        client, server = await settled(on, method)
        assert client.context is not None
        assert server.context is not None
        assert client.kind is SpanKind.CLIENT
        assert client.parent == own.get_span_context()
        assert server.parent is not None
        assert server.parent.span_id == client.context.span_id
        assert server.context.trace_id == own.get_span_context().trace_id
        assert answer == f"{server.context.trace_id:x} {server.context.span_id:x}"
        for span, peer in ((client, on.pair.server_host), (server, on.pair.client_host)):
            assert span.attributes == {
                "rpc.system": "lattica",
                "rpc.service": "Kitchen",
                "rpc.method": method,
                "rpc.response.status_code": "OK",
                "lattica.peer_id": str(peer.peer_id),
            }


async def test_calls_at_the_same_time_are_not_each_other_s_children() -> None:
    async with traced() as on:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(on.stub.later)
        spans = await settled(on, "later", 10)
        assert len({span.context.trace_id for span in spans if span.context}) == 5
        assert sum(span.parent is None for span in spans) == 5
        assert not trace.get_current_span().get_span_context().is_valid


async def test_failures(autojump_clock: trio.testing.MockClock) -> None:
    async with traced() as on:
        with pytest.raises(Exception, match="salt"):
            await on.stub.fail()
        for span in await settled(on, "fail"):
            assert span.attributes is not None
            assert span.attributes["rpc.response.status_code"] == "UNKNOWN"
            assert not span.status.is_ok
        with pytest.raises(DeadlineExceededError):
            await with_options(on.stub, timeout=1.0).hang()
        for span in await settled(on, "hang"):
            assert span.attributes is not None
            # The server is told to give it up, or finds by itself that it is late.
            assert span.attributes["rpc.response.status_code"] in ("DEADLINE_EXCEEDED", "CANCELLED")
        on.exporter.clear()
        with trio.move_on_after(1):
            await on.stub.hang()
        client, server = await settled(on, "hang")
        for span in (client, server):
            assert span.attributes is not None
            assert span.attributes["rpc.response.status_code"] == "CANCELLED"
        assert not client.status.is_ok
        async with on.stub.stream(1000) as stream:
            await anext(stream)
        for span in await settled(on, "stream"):
            assert span.attributes is not None
            assert span.attributes["rpc.response.status_code"] == "CANCELLED"


VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "metadata",
    [
        {"traceparent": 7},
        {"traceparent": [VALID]},
        {"traceparent": {"a": 1}},
        {"traceparent": b"\xff"},
        {"traceparent": "00-" + "0" * 500},
        {"traceparent": VALID + "-" + "1" * 600},
        {"tracestate": "a=b"},
        {"traceparent": "", "tracestate": 3.5},
    ],
    ids=str,
)
async def test_what_is_no_span_is_none(metadata: dict[str, Any]) -> None:
    async with traced() as on:
        on.pair.client._client.tracing = None
        await with_options(on.stub, metadata=metadata).at_once()
        (server,) = await settled(on, "at_once", 1)
        assert server.parent is None


async def test_a_caller_s_state_goes_on() -> None:
    async with traced() as on:
        on.pair.client._client.tracing = None
        metadata = {"traceparent": VALID, "tracestate": "a=b", "baggage": "secret=1"}
        await with_options(on.stub, metadata=metadata).at_once()
        (server,) = await settled(on, "at_once", 1)
        assert server.parent is not None
        assert f"{server.parent.trace_id:032x}" in VALID
        assert server.context is not None
        assert server.context.trace_state.to_header() == "a=b"


async def test_off_unless_asked_for() -> None:
    async with rpc_pair() as pair:
        assert pair.server._server.tracing is None
        assert pair.client._client.tracing is None
    async with rpc_pair(RpcConfig(tracing=True)) as pair:
        assert pair.server._server.tracing is not None
        assert await pair.stub.shout("a") == "A"


def test_the_package_is_named_where_it_is_missing() -> None:
    program = """
import sys, trio
sys.modules["opentelemetry"] = None
from lattica.rpc.rpc import _tracing
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
try:
    _tracing()
except ImportError as error:
    assert "lattica-stack[otel]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
