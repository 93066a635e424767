"""A name in a replicated document is fetched by, and followed from version to version."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from lattica import Node, NodeConfig
from lattica.content import FetchResult, Publisher
from lattica.content.names.following import follow, resolve_ref
from lattica.content.names.registry import RegistryRef, open_registry
from lattica.content.ticket import Ticket
from lattica.crdt.uses.model_registry import ModelRegistry
from lattica.errors import LatticaError, LocalProtocolError, NameNotFoundError
from lattica.nat.config import SwarmConfig

CONFIG = NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))


async def ignore(error: LatticaError) -> None: ...


async def test_a_directory_is_kept_what_the_registry_says_is_in_use(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with (
        Node(CONFIG) as trainer,
        Node(CONFIG) as client,
        Publisher(trainer) as publisher,
        trio.open_nursery() as nursery,
    ):
        await client.connect(trainer.addrs[0])
        document = await trainer.store.open("cluster")

        async def publish(text: str, version: str | None) -> str:
            (tmp_path / text).mkdir()
            (tmp_path / text / f"{text}.txt").write_text(text)
            ticket = await publisher.publish(tmp_path / text, "model")
            async with open_registry(trainer, RegistryRef("cluster", "chat", version)) as name:
                return name.publish(ticket.cid)

        ref = RegistryRef("cluster", "chat")
        with pytest.raises(NameNotFoundError, match="no version of it is in use"):
            await resolve_ref(client, ref)
        assert await publish("first", "7") == "7"
        send, receive = trio.open_memory_channel[FetchResult](5)

        async def watch() -> None:
            await follow(client, ref, out, on_version=send.send, on_problem=ignore)

        nursery.start_soon(watch)
        with trio.fail_after(60):
            await receive.receive()
            assert (out / "first.txt").read_text() == "first"
            second = await publish("second", None)
            await receive.receive()
            assert [path.name for path in out.glob("*.txt")] == ["second.txt"]
            ModelRegistry(document).roll_back("chat")
            await receive.receive()
            assert [path.name for path in out.glob("*.txt")] == ["first.txt"]
        found = await resolve_ref(client, RegistryRef("cluster", "chat", second))
        assert isinstance(found, Ticket)
        assert found.peer_id == trainer.peer_id
        with pytest.raises(LocalProtocolError, match="other content"):
            await publish("third", "7")
        nursery.cancel_scope.cancel()
