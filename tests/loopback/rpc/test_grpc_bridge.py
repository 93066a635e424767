"""Unmodified gRPC over the mesh: grpcio's servers and stubs, sync and aio, between whole nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from lattica import AsyncLattica, Lattica, Node
from lattica.config import load_config
from lattica.errors import LocalProtocolError
from lattica.rpc.grpc_bridge import grpc_caller, grpc_channel, serve_grpc
from lattica.rpc.grpc_bridge.socket_folder import SocketFolder

CONFIG = load_config(
    environment={},
    overrides={"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False},
)
SERVICE = "test.Words"


class Words:
    """Handlers of all four kinds, on bytes."""

    def __init__(self) -> None:
        self.callers: list[Any] = []
        self.begun, self.cancelled = threading.Event(), threading.Event()

    def shout(self, request: bytes, context: Any) -> bytes:
        self.callers.append(grpc_caller(context))
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("first", sent.get("mine", "none")),))
        context.set_trailing_metadata((("last-bin", b"\0\1"),))
        return request.upper()

    def count(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def join(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"".join(requests)

    def echo(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    def hang(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        self.begun.set()
        self.cancelled.wait(60)
        return b""

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return b""

    def handlers(self) -> Any:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Shout": grpc.unary_unary_rpc_method_handler(self.shout),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Join": grpc.stream_unary_rpc_method_handler(self.join),
                "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
                "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
                "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            },
        )


@contextlib.contextmanager
def started(node: Any, words: Words, **options: Any) -> Iterator[Any]:
    """A server with health checking and reflection, for a node's peers."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((words.handlers(),))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    reflection.enable_server_reflection(("grpc.health.v1.Health",), server)
    exposed = serve_grpc(node, server, **options)
    server.start()
    try:
        yield exposed
    finally:
        server.stop(0).wait()


def test_all_kinds_metadata_errors_deadlines_and_cancellation() -> None:
    words = Words()
    with (
        Lattica(CONFIG) as there,
        Lattica(CONFIG) as here,
        started(there, words) as exposed,
        grpc_channel(here, there.addrs, key=exposed.key) as channel,
    ):
        shout = channel.unary_unary(f"/{SERVICE}/Shout")
        answer, call = shout.with_call(b"a", metadata=(("mine", "1"),), timeout=60)
        assert answer == b"A"
        assert dict(call.initial_metadata())["first"] == "1"
        assert dict(call.trailing_metadata())["last-bin"] == b"\0\1"
        # Who calls is known, and what it claims to be changes nothing.
        shout(b"a", metadata=(("lattica-peer-id", str(there.peer_id)),), timeout=60)
        assert words.callers == [here.peer_id] * 2

        assert [*channel.unary_stream(f"/{SERVICE}/Count")(b"3", timeout=60)] == [
            b"0",
            b"1",
            b"2",
        ]
        parts = [os.urandom(100_000) for _ in range(20)]
        join = channel.stream_unary(f"/{SERVICE}/Join")
        assert join(iter(parts), timeout=60) == b"".join(parts)
        assert [*channel.stream_stream(f"/{SERVICE}/Echo")(iter(parts), timeout=60)] == parts

        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=60)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert raised.value.details() == "not today"

        hang = channel.unary_unary(f"/{SERVICE}/Hang")
        while not words.begun.is_set():  # the time may be over before the call has come
            with pytest.raises(grpc.RpcError) as raised:
                hang(b"", timeout=0.5)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert words.cancelled.wait(60)
        words.begun.clear()
        words.cancelled.clear()
        future = hang.future(b"")
        assert words.begun.wait(60)
        future.cancel()
        assert words.cancelled.wait(60)


def test_generated_stubs_and_reflection() -> None:
    with Lattica(CONFIG) as there, Lattica(CONFIG) as here:
        here.connect(there.addrs)
        with (
            started(there, Words(), to=[here.peer_id]),
            grpc_channel(here, there.peer_id) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
            assert "grpc.health.v1.Health" in services


def answered(call: Any, request: bytes) -> bytes:
    """What a call returns in the end: one on a connection that is lost meanwhile fails."""
    for _ in range(60):
        try:
            return bytes(call(request, timeout=60, wait_for_ready=True))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError("the server does not come back")


def test_who_may_not_and_a_server_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    with Lattica(CONFIG) as there, Lattica(CONFIG) as here:
        here.connect(there.addrs)
        with started(there, Words()) as exposed:
            with grpc_channel(here, there.peer_id) as channel:
                with pytest.raises(grpc.RpcError) as raised:
                    channel.unary_unary(f"/{SERVICE}/Shout")(b"a", timeout=60)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "it is to be exposed to this peer" in caplog.text
            channel = grpc_channel(here, there.peer_id, key=exposed.key)
            shout = channel.unary_unary(f"/{SERVICE}/Shout")
            assert shout(b"a", timeout=60) == b"A"
            exposed.close()
        with started(there, Words()):
            assert answered(shout, b"b") == b"B"
        channel.close()


def test_calls_that_did_not_come_over_the_mesh_have_no_caller() -> None:
    """Another port of the server, or a socket that is named as if it were the bridge's."""

    class Context:
        def __init__(self, peer: str) -> None:
            self._peer = peer

        def peer(self) -> str:
            return self._peer

    words = Words()
    with Lattica(CONFIG) as there, started(there, words):
        peer = there.peer_id
        for claimed in (
            "ipv4:127.0.0.1:1",
            "unix:",
            f"unix-abstract:lattica-grpc/guess/{peer}/1",
            f"unix-abstract:lattica-grpc//{peer}/1",
            f"unix-abstract:{peer}",
        ):
            assert grpc_caller(Context(claimed)) is None


def test_asyncio() -> None:
    async def main() -> None:
        async with AsyncLattica(CONFIG) as there, AsyncLattica(CONFIG) as here:
            callers = []

            async def shout(request: bytes, context: Any) -> bytes:
                callers.append(grpc_caller(context))
                return request.upper()

            server = grpc.aio.server()
            server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(
                        SERVICE, {"Shout": grpc.unary_unary_rpc_method_handler(shout)}
                    ),
                )
            )
            exposed = await serve_grpc(there, server)
            await server.start()
            async with await grpc_channel(here, await there.addrs(), key=exposed.key) as channel:
                call = channel.unary_unary(f"/{SERVICE}/Shout")
                answers = await asyncio.gather(*(call(b"%d" % n, timeout=60) for n in range(50)))
                assert answers == [b"%d" % n for n in range(50)]
                await channel.channel_ready()
            assert set(callers) == {here.peer_id}
            await server.stop(0)

    asyncio.run(main())


async def test_trio() -> None:
    async with Node(CONFIG) as there, Node(CONFIG) as here:
        with started(there, Words()) as exposed:
            channel = await grpc_channel(here, there.addrs, key=exposed.key)
            shout = channel.unary_unary(f"/{SERVICE}/Shout")
            answer = await trio.to_thread.run_sync(lambda: shout(b"a", timeout=60))
            assert answer == b"A"
            await trio.to_thread.run_sync(channel.close)


def test_a_server_that_runs_already() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.start()
    try:
        with Lattica(CONFIG) as lattica, pytest.raises(LocalProtocolError, match="runs already"):
            serve_grpc(lattica, server)
    finally:
        server.stop(0).wait()


def test_the_sockets_are_this_users_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = SocketFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.socket))
    # As a process that was killed leaves it, and one of a process that is only beginning.
    dead, begun = tmp_path / "lattica-grpc-dead", tmp_path / "lattica-grpc-begun"
    for path in (dead, begun):
        path.mkdir(mode=0o700)
    (dead / "lock").touch()
    other = SocketFolder()
    assert {*tmp_path.iterdir()} == {folder.path, begun, other.path}
    folder.remove()
    other.remove()
    assert [*tmp_path.iterdir()] == [begun]
