"""What honest peers want of a victim besides echoes, each as often as it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

import trio

from lattica.config import load_config
from lattica.content.manifest.cid import Cid
from lattica.content.protocol import PROTOCOL, Answer, Body, ContentClientCore
from lattica.dht.config import PROTOCOL as KADEMLIA
from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Request,
    decode_response,
    encode,
)
from lattica.nat.base.errors import LatticaError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import parse_multiaddr, split_peer
from lattica.nat.config import SwarmConfig
from lattica.nat.mux.connection import Connection
from lattica.nat.mux.stream import Stream
from lattica.nat.services.standard import serve_standard
from lattica.nat.swarm.swarm import Swarm
from lattica.node import Node
from tools.attack.attack import Victim
from tools.attack.ported import SERVICE

EVERY = 0.5
"""Seconds between two attempts."""
PATIENCE = 5.0
"""Seconds after which an attempt has failed."""
IDLERS = 5


class Client:
    """A peer with a key of its own that listens nowhere."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm

    async def dial_text(self, addr: str) -> Connection:
        where, peer = split_peer(parse_multiaddr(addr))
        return await self.swarm.dial(peer, [where])


@asynccontextmanager
async def client(identity: Identity | None = None) -> AsyncIterator[Client]:
    """A client that runs for the block, with a new key if none is given."""
    swarm = Swarm(identity or Identity.generate(), SwarmConfig(listen=()))
    serve_standard(swarm)
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        try:
            yield Client(swarm)
        finally:
            with trio.move_on_after(2, shield=True):
                await swarm.close()
            nursery.cancel_scope.cancel()


async def enter_node(stack: AsyncExitStack, more: Mapping[str, object] | None = None) -> Node:
    """Have a node with a folder of its own that listens nowhere, until `stack` is left."""
    settings = {
        "listen": [],
        "data_dir": stack.enter_context(TemporaryDirectory()),
        "nat.port_mapping.enabled": False,
        **(more or {}),
    }
    return await stack.enter_async_context(Node(load_config(None, {}, settings)))


class Witness(ABC):
    """Does something again and again while `watching`, and counts how it went."""

    def __init__(self) -> None:
        self.target = ""
        self.watching = False
        self._attempts = 0
        self._refused = 0
        self._late = 0
        self._slowest = 0.0
        self._last_error = ""

    async def run(
        self, victim: Victim, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with AsyncExitStack() as stack:
            await self.prepare(victim, stack)
            task_status.started()
            while True:
                if self.watching:
                    await self._attempt(victim)
                await trio.sleep(EVERY)

    async def _attempt(self, victim: Victim) -> None:
        self._attempts += 1
        began = trio.current_time()
        try:
            with trio.move_on_after(PATIENCE) as scope:
                await self.act(victim)
            self._late += scope.cancelled_caught
        except* (LatticaError, OSError) as group:
            self._refused += 1
            self._last_error = str(group.exceptions[0])[:200]
        self._slowest = max(self._slowest, trio.current_time() - began)

    async def take(self) -> dict[str, object]:
        """What there is to say so far."""
        return {
            "attempts": self._attempts,
            "failed": self._refused + self._late,
            "late": self._late,
            "slowest_s": round(self._slowest, 3),
            "error": self._last_error,
        }

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        """Before the attack; `stack` is left after it."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def act(self, victim: Victim) -> None:
        """One attempt. Raises what it likes when it fails."""


class Dialing(Witness):
    """New peers connect; a few that connected before the attack stay, without a word."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        self._idle: list[Connection] = []
        for _ in range(IDLERS):
            peer = await stack.enter_async_context(client())
            self._idle.append(await peer.dial_text(victim.tcp))

    async def act(self, victim: Victim) -> None:
        async with client() as peer:
            connection = await peer.dial_text(victim.tcp)
            # Accepted is not enough: it has to be let stay.
            async with await connection.open("/ipfs/ping/1.0.0", optimistic=False) as stream:
                await stream.send_all(bytes(32))
                await stream.receive_exactly(32)

    async def take(self) -> dict[str, object]:
        dropped = sum(connection.closed_reason is not None for connection in self._idle)
        return {**await super().take(), "idle": len(self._idle), "idle_dropped": dropped}


class SlowReading(Witness):
    """The victim reads slowly what this peer has sent, a little of which stays there for long."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        from tools.attack.victim import SLOW

        peer = await stack.enter_async_context(client())
        connection = await peer.dial_text(victim.tcp)
        self._streams: list[Stream] = []
        for _ in range(IDLERS):
            stream = await connection.open(SLOW)
            await stream.send_all(bytes(64 * 1024))
            self._streams.append(stream)

    async def act(self, victim: Victim) -> None:
        for stream in self._streams:
            if stream.is_gone:
                raise LatticaError("a stream that is read slowly was aborted")
        await trio.lowlevel.checkpoint()


class Fetching(Witness):
    """Asks for the manifest of what the victim publishes."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        self._client = await stack.enter_async_context(client())

    async def act(self, victim: Victim) -> None:
        connection = await self._client.dial_text(victim.tcp)
        core = ContentClientCore()
        async with await connection.open(PROTOCOL) as stream:
            await stream.send_all(core.request_manifest(Cid.parse(victim.cid)))
            answers: list[Answer] = []
            while not answers:
                count = await stream.receive_into(core.buffer())
                if not count:
                    core.finish()
                answers = core.received(count)
            if not isinstance(answers[0], Body):
                raise LatticaError(f"refused: {answers[0].message}")


class Calling(Witness):
    """Reaches a peer through the victim, which is a relay."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        self._node = await enter_node(stack, {"relays": [victim.tcp]})
        await self._node.wait_reachable(10)
        self.target = str(self._node.peer_id)

    async def act(self, victim: Victim) -> None:
        async with AsyncExitStack() as stack:
            node = await enter_node(stack, {"nat.relay.reservations": 0})
            await node.connect(f"{victim.tcp}/p2p-circuit/p2p/{self.target}")


class Publishing(Witness):
    """Says something in a topic, and hears the victim say it again in another."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        from tools.attack.victim import REPEATED, TOPIC

        node = await enter_node(stack)
        await node.connect(victim.tcp)
        self._topic = node.topic(TOPIC)
        self._heard = await stack.enter_async_context(node.topic(REPEATED).subscribe())
        await self._topic.wait_peers()
        self._number = 0

    async def act(self, victim: Victim) -> None:
        self._number += 1
        said = self._number.to_bytes(8, "big")
        await self._topic.publish(said)
        async for message in self._heard:
            if message.data == said:
                return


class CallingMethods(Witness):
    """Calls a method in the loop, one in a thread, takes some items of a stream, and borrows."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        node = await enter_node(stack)
        await node.connect(victim.tcp)
        self._stub = node.rpc.stub(victim.peer_id, "Served", timeout=PATIENCE)
        await self.act(victim)

    async def act(self, victim: Victim) -> None:
        stub = self._stub
        if await stub.echo([1, "two"]) != [1, "two"]:
            raise LatticaError("another value came back")
        await stub.block()
        async with stub.items().stream() as items:
            for _ in range(3):
                await anext(items)
        reference = await stub.lend()
        await reference.read(slice(0, 8))
        await reference.release()


class Storing(Witness):
    """Writes to a document that the victim has open, and has its replica compared with it; asks it
    for peers in the DHT.
    """

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        from tools.attack.victim import DOCUMENT

        self._node = await enter_node(stack)
        await self._node.connect(victim.tcp)
        self._document = await self._node.store.open(DOCUMENT)
        self._number = 0
        await self.act(victim)

    async def act(self, victim: Victim) -> None:
        self._number += 1
        self._document.registers["number"] = self._number
        await self._document.synced(timeout=PATIENCE)
        request = Request(MessageType.FIND_NODE, self._number.to_bytes(32, "big"))
        async with await self._node.open_stream(victim.peer_id, KADEMLIA) as stream:
            await stream.send_message(encode(request))
            decode_response(await stream.receive_message(MAX_MESSAGE), request)


class Forwarding(Witness):
    """Connects to the service that the victim exposes."""

    async def prepare(self, victim: Victim, stack: AsyncExitStack) -> None:
        node = await enter_node(stack)
        await node.connect(victim.tcp)
        forward = await node.ports.forward(victim.peer_id, SERVICE, local=0)
        self._port = forward.port
        await self.act(victim)

    async def act(self, victim: Victim) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            await stream.send_all(b"?")
            try:
                answer = await stream.receive_some(1)
            except trio.BrokenResourceError:
                answer = b""
            if answer != b"?":
                raise LatticaError("the service was not reached")


WITNESSES: dict[str, Callable[[], Witness]] = {
    "dialing": Dialing,
    "slow-reading": SlowReading,
    "fetching": Fetching,
    "calling": Calling,
    "publishing": Publishing,
    "calling-methods": CallingMethods,
    "storing": Storing,
    "forwarding": Forwarding,
}
"""By the name that an attack gives."""
