"""Topics with go-libp2p's daemon and js-libp2p: each hears what the other publishes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from lattica.nat.base.keys.identity import parse_peer_id
from tests.interop.foreign import ScriptPeer, js_script
from tests.interop.godaemon import go_daemon
from tests.interop.ours import PATIENCE, address, our_node

pytestmark = pytest.mark.foreign

TOPIC = "lattica-test/news"


def js_pubsub(installed: Path, folder: Path) -> AbstractAsyncContextManager[ScriptPeer]:
    return js_script(installed, folder, "js-pubsub", "pubsub.mjs")


@pytest.mark.parametrize("we_dial", [True, False], ids=["we-dial", "go-dials"])
async def test_go_and_we_hear_each_other(go_installed, tmp_path, we_dial):
    async with go_daemon(go_installed, tmp_path, "-pubsub") as go, our_node() as node:
        topic = node.topic(TOPIC)
        async with topic.subscribe() as messages, go.subscribe(TOPIC) as receive:
            if we_dial:
                await node.connect(go.addrs[0])
            else:
                await go.connect(address(node))
            with trio.fail_after(PATIENCE):
                await topic.wait_peers()
                while str(node.peer_id) not in await go.subscribers(TOPIC):
                    await trio.sleep(0.05)
                for size in (1, 5000, 100_000):
                    said = bytes([size % 251]) * size
                    assert await topic.publish(said) == 1
                    heard = await receive()
                    assert (heard.data, heard.source) == (said, str(node.peer_id))
                    await go.publish(TOPIC, said)
                    # It hears itself, too.
                    assert (await receive()).source == go.peer_id
                    message = await anext(messages)
                    assert (message.data, str(message.source)) == (said, go.peer_id)
                assert topic.peers() == (parse_peer_id(go.peer_id),)
                counters = node.topics.counters
                assert (counters.invalid, counters.delivered) == (0, 3)


@pytest.mark.parametrize("we_dial", [True, False], ids=["we-dial", "js-dials"])
async def test_js_and_we_hear_each_other(js_pubsub_installed, tmp_path, we_dial):
    async with js_pubsub(js_pubsub_installed, tmp_path) as js, our_node() as node:
        topic = node.topic(TOPIC)
        await js.ask("subscribe", topic=TOPIC)
        async with topic.subscribe() as messages:
            if we_dial:
                await node.connect(js.addrs[0])
            else:
                await js.connect(address(node))
            with trio.fail_after(PATIENCE):
                await topic.wait_peers()
                while str(node.peer_id) not in await js.ask("mesh", topic=TOPIC):
                    await trio.sleep(0.05)
                for size in (1, 5000, 100_000):
                    said = bytes([size % 251]) * size
                    assert await topic.publish(said) == 1
                    while not (heard := await js.ask("heard")):
                        await trio.sleep(0.02)
                    assert heard == [
                        {
                            "topic": TOPIC,
                            "data": said.hex(),
                            "source": str(node.peer_id),
                            "type": "signed",
                        }
                    ]
                    assert await js.ask("publish", topic=TOPIC, data=said.hex()) == 1
                    message = await anext(messages)
                    assert (message.data, str(message.source)) == (said, js.peer_id)
                assert node.topics.counters.invalid == 0


async def test_py_libp2p_and_we_hear_each_other():
    """Its GossipSub runs on a node of ours, as its users have it there."""
    async with our_node() as theirs, our_node() as ours:
        router = GossipSub(
            protocols=[TProtocol("/meshsub/1.1.0")], degree=8, degree_low=6, degree_high=12
        )
        pubsub = Pubsub(theirs.host, router)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            heard = await pubsub.subscribe(TOPIC)
            topic = ours.topic(TOPIC)
            async with topic.subscribe() as messages:
                await ours.connect(address(theirs))
                with trio.fail_after(PATIENCE):
                    await topic.wait_peers()
                    while not pubsub.peer_topics.get(TOPIC):
                        await trio.sleep(0.05)
                    for size in (1, 5000):
                        said = bytes([size % 251]) * size
                        assert await topic.publish(said) == 1
                        assert (await heard.get()).data == said
                        await pubsub.publish(TOPIC, said)
                        message = await anext(messages)
                        assert (message.data, message.source) == (said, theirs.peer_id)
                        await heard.get()  # it hears itself, too
                assert ours.topics.counters.invalid == 0


async def test_we_pass_on_between_go_and_js(go_installed, js_pubsub_installed, tmp_path):
    """Whom only we know hear each other, with signatures that are still right."""
    async with (
        go_daemon(go_installed, tmp_path, "-pubsub") as go,
        js_pubsub(js_pubsub_installed, tmp_path) as js,
        our_node() as node,
    ):
        await js.ask("subscribe", topic=TOPIC)
        topic = node.topic(TOPIC)
        async with topic.subscribe(), go.subscribe(TOPIC) as receive:
            await node.connect(go.addrs[0])
            await node.connect(js.addrs[0])
            with trio.fail_after(PATIENCE):
                await topic.wait_peers(2)
                while str(node.peer_id) not in await js.ask("mesh", topic=TOPIC):
                    await trio.sleep(0.05)
                await js.ask("publish", topic=TOPIC, data=b"from js".hex())
                heard = await receive()
                assert (heard.data, heard.source) == (b"from js", js.peer_id)
                await go.publish(TOPIC, b"from go")
                while not (found := await js.ask("heard")):
                    await trio.sleep(0.02)
                assert found[0]["source"] == go.peer_id
                assert bytes.fromhex(found[0]["data"]) == b"from go"
