"""The node that is attacked: `python -m tools.attack.victim NAME`. Says what it costs it."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import secrets
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from lattica.config import NodeConfig, load_config
from lattica.content.bitswap.exchange import open_exchange
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import encode_manifest
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, ChunkTable, FileEntry, Manifest
from lattica.content.publish.catalog import Publication
from lattica.content.publish.server import Publisher
from lattica.daemon.collector import spare_collector
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.mux.stream import Stream
from lattica.node import Node
from tools.attack.attack import Attack
from tools.attack.lines import Lines
from tools.attack.ported import open_ports
from tools.attack.served import Served
from tools.attack.table import load

ECHO = "/attack/echo/1"
SLOW = "/attack/slow/1"
"""Takes what comes, and does not read it."""
DOCUMENT = "attack"
TOPIC, REPEATED = "attack", "attack-repeated"
CHUNKS = 200_000
"""Of what it publishes: the manifest has 7.2 MB."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _NoBlocks:
    """A source of blocks that has none."""

    def get_block(self, cid: Cid) -> bytes | None:
        return None

    def has_block(self, cid: Cid) -> bool:
        return False


class _LogCounter(logging.Handler):
    """Counts log records, by level."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines[record.levelname.lower()] += 1


class _Passes(trio.abc.Instrument):
    """How long the event loop is busy between two looks at the network, in processor time.

    What else runs on the machine does not count, so that this says more than latency on a busy one.
    """

    def __init__(self) -> None:
        self._began = time.thread_time()
        self._passes: list[float] = []

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        self._passes.append(time.thread_time() - self._began)

    def take(self) -> list[float]:
        """The milliseconds of the longest hundred since the last call."""
        passes, self._passes = self._passes, []
        return [round(1000 * seconds, 3) for seconds in sorted(passes)[-100:]]


async def _echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def _slow(stream: Stream) -> None:
    del stream
    await trio.sleep_forever()


async def _repeat(node: Node, task_status: trio.TaskStatus[None]) -> None:
    """Say in a second topic what is said in the first."""
    async with node.topic(TOPIC).subscribe() as messages:
        task_status.started()
        async for message in messages:
            await node.topic(REPEATED).publish(message.data)


def _config(attack: Attack, folder: Path) -> NodeConfig:
    listen = (
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/0/ws",
        "/ip4/127.0.0.1/udp/0/quic-v1/noise",
    )
    relay = {"nat.relay_server.enabled": True, "nat.relay_server.limits.open_to_strangers": True}
    settings = {
        "listen": listen,
        "data_dir": str(folder),
        "nat.port_mapping.enabled": False,
        **(relay if attack.relays else {}),
        **({"dht.enabled": True, "dht.mode": "server"} if attack.stores else {}),
        **attack.victim,
    }
    return load_config(None, {}, settings)


def _publication() -> Publication:
    """Something whose manifest is large; its file does not exist."""
    digests = secrets.token_bytes(32 * CHUNKS)
    table = ChunkTable.from_chunks([MAX_CHUNK_BYTES] * CHUNKS, digests)
    manifest = Manifest("large", (FileEntry("large", executable=False, chunks=table),))
    encoded = encode_manifest(manifest)
    return Publication(Cid.of(encoded), manifest, encoded, ())


class _Memory:
    """Resident bytes of this process. Needs no descriptor that an enemy could take."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)

    def read(self) -> int:
        return int(os.pread(self._statm, 100, 0).split()[1]) * _PAGE


async def serve(attack: Attack, lines: Lines, counter: _LogCounter) -> None:
    passes, memory = _Passes(), _Memory()
    trio.lowlevel.add_instrument(passes)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Node(_config(attack, Path(folder))) as node,
            Publisher(node) as publisher,
            AsyncExitStack() as stack,
        ):
            node.handle(ECHO, _echo)
            node.handle(SLOW, _slow)
            cid = ""
            if attack.publishes:
                publication = _publication()
                publisher.catalog.add(publication)
                cid = str(publication.cid)
            if attack.topics:
                nursery = await stack.enter_async_context(trio.open_nursery())
                stack.callback(nursery.cancel_scope.cancel)
                await nursery.start(_repeat, node)
            if attack.calls:
                node.rpc.serve(Served())
            if attack.ports:
                nursery = await stack.enter_async_context(trio.open_nursery())
                stack.callback(nursery.cancel_scope.cancel)
                await open_ports(node, nursery)
            if attack.stores:
                await node.store.open(DOCUMENT)
                await stack.enter_async_context(open_exchange(node, _NoBlocks()))
            addrs = {kind_of(addr): str(addr) for addr in node.addrs}
            lines.emit(
                "ready",
                tcp=addrs[Kind.TCP],
                quic=addrs[Kind.QUIC],
                websocket=addrs[Kind.WEBSOCKET],
                peer_id=str(node.peer_id),
                cid=cid,
            )
            async for _ in lines.requests():
                lines.emit(
                    "measured",
                    memory=memory.read(),
                    cpu=time.process_time(),
                    passes=passes.take(),
                    connections=node.swarm.registry.total,
                    log=dict(counter.lines),
                )


def main() -> None:
    attack = load(sys.argv[1])
    if attack.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (attack.files, attack.files))
    hashlib.sha256()  # loaded before memory is measured
    spare_collector()  # as the commands do
    counter = _LogCounter()
    logging.getLogger().addHandler(counter)
    logging.getLogger().setLevel(logging.INFO)
    trio.run(serve, attack, Lines(), counter)


if __name__ == "__main__":
    main()
