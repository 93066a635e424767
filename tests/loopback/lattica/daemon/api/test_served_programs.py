"""Services that other programs serve by a node's local API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lattica import Node
from lattica.daemon.api.client import NodeClient
from lattica.daemon.api.methods import serving
from lattica.daemon.api.served import Served, caller
from lattica.errors import DaemonError, LocalProtocolError
from lattica.rpc.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RpcError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from tests.loopback.lattica.daemon.api.test_node_api import config_of, daemon, there

PROGRAM = """
import sys
from lattica.daemon.api.client import NodeClient
from threading import Event

def hold():
    print("begun", flush=True)
    Event().wait()

with NodeClient(sys.argv[1]) as node, node.serve("Shop", {"hold": hold}) as served:
    print("served", flush=True)
    served.wait()
"""


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[NodeClient, Node, str]]:
    """A client of a node, and a peer that is connected to it, with the node's ID."""
    async with daemon(folder) as (member, client), Node(config_of(folder / "peer")) as peer:
        await peer.connect(member.node.addrs[0])
        yield client, peer, str(member.node.peer_id)


async def test_functions_of_a_program_are_called_by_peers(tmp_path: Path) -> None:
    def fail(error: str) -> None:
        raise NotFoundError("no such") if error == "ours" else KeyError("secret")

    handlers: dict[str, Any] = {
        "say": lambda *args, **keywords: [caller.get(), list(args), keywords],
        "fail": fail,
        "odd": lambda: object(),
    }
    async with served(tmp_path) as (client, peer, node):
        shop = await there(lambda: client.serve("Shop", handlers))
        call = peer.rpc.call
        said = await call(node, "Shop.say", 1, b"x", loud={"a": None})
        assert said == [str(peer.peer_id), [1, b"x"], {"loud": {"a": None}}]
        with pytest.raises(NotFoundError, match=r"^no such$"):
            await call(node, "Shop.fail", "ours")
        with pytest.raises(UnknownError, match="KeyError"):
            await call(node, "Shop.fail", "other")
        with pytest.raises(InternalError, match="plain data"):
            await call(node, "Shop.odd")
        with pytest.raises(InvalidArgumentError, match="plain data"):
            await call(node, "Shop.say", {1, 2})
        with pytest.raises(LocalProtocolError, match="Shop"):
            await there(lambda: client.serve("Shop", handlers))
        with pytest.raises(LocalProtocolError):
            await there(lambda: client.serve("Empty", {}))
        shop.close()
        assert await there(lambda: shop.wait(60))
        await ends(peer, node, "Shop.say")
        allowed = await there(lambda: client.serve("Shop", handlers, allow=[node]))
        with pytest.raises(PermissionDeniedError):
            await call(node, "Shop.say")
        allowed.close()


async def test_who_gives_up_is_told_to_the_program_and_an_answer_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_WAITING", 1)
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    def hold() -> None:
        begun.set()
        go_on.wait(20)

    async with served(tmp_path) as (client, peer, node):
        handlers: dict[str, Any] = {"hold": hold, "count": ran.append}
        with await there(lambda: client.serve("Shop", handlers, threads=1)) as shop:
            async with trio.open_nursery() as nursery, trio.open_nursery() as impatient:
                nursery.start_soon(peer.rpc.call, node, "Shop.hold")
                await there(lambda: begun.wait(60))
                with pytest.raises(ResourceExhaustedError, match="1 calls of Shop"):
                    await peer.rpc.call(node, "Shop.count", 1)
                monkeypatch.setattr(serving, "MAX_WAITING", 2)
                impatient.start_soon(peer.rpc.call, node, "Shop.count", 2)
                await has(shop, 2)
                impatient.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await has(shop, 1)
                go_on.set()
            await peer.rpc.call(node, "Shop.count", 3)
        assert ran == [3]
        assert not await there(lambda: client.answer(1, "late"))


async def test_a_program_that_is_killed_fails_its_calls_and_frees_its_name(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, peer, node):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(client.socket)], stdout=subprocess.PIPE
        )
        assert program.stdout is not None
        lines = program.stdout
        try:
            assert await there(lines.readline) == b"served\n"

            async def held() -> None:
                with pytest.raises(UnavailableError, match="Shop is gone"):
                    await peer.rpc.call(node, "Shop.hold")

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(held)
                    assert await there(lines.readline) == b"begun\n"
                    os.kill(program.pid, signal.SIGKILL)
            await ends(peer, node, "Shop.hold")
            with await there(lambda: client.serve("Shop", {"hold": lambda: 1})):
                assert await peer.rpc.call(node, "Shop.hold") == 1
        finally:
            program.kill()
            program.wait()
            lines.close()


async def test_a_program_is_told_that_the_node_has_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, _, _):
        shop = await there(lambda: client.serve("Shop", {"say": lambda: 1}))
    with pytest.raises(DaemonError):
        await there(lambda: shop.wait(60))


async def has(shop: Served, count: int) -> None:
    """Wait until the program has so many calls."""
    with trio.fail_after(60):
        while len(shop._running) != count:
            await trio.sleep(0.01)


async def ends(peer: Node, node: str, method: str) -> None:
    """Wait until it is served no more."""
    with trio.fail_after(60):
        while True:
            try:
                await peer.rpc.call(node, method)
            except UnimplementedError:
                return
            except RpcError:
                await trio.sleep(0.02)
